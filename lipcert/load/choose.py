"""Every input of a model moves, is held, or is asked for: all that is missing at once, with what can be copied."""

from __future__ import annotations

import math
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from lipcert.load.inputs import (
    ALONE,
    FLOATS,
    HOLDABLE,
    LARGEST,
    NO_TENSORS,
    SIZES,
    Chosen,
    Declared,
    InputChoice,
    Part,
    listed,
)
from lipcert.terms.added import ADD
from lipcert.terms.errors import RefusedModel, UsageError, printable


def choose(
    path: object,
    declared: Sequence[Declared],
    wanted: InputChoice,
    live: Sequence[str] | None = None,
    outputs: Sequence[str] = (),
    runs: Callable[[Mapping[str, tuple[int, ...]], Mapping[str, torch.Tensor]], bool] | None = None,
    widths: Sequence[int] = (),
) -> Chosen:
    """Every input that the output depends on (`live`; None: all) moves, is held at what was said, or is asked for.

    `outputs`: names among which one has yet to be chosen. `runs`: whether the model runs with inputs of these shapes,
    for a suggestion; `widths`: of its layers, for sizes to try. UsageError that asks for all that is missing at once.
    """
    table = {one.name: one for one in declared}
    needed = [name for name in (table if live is None else live) if not table[name].optional]
    held_names = _held_names(path, declared, wanted)
    moving = wanted.moving(declared)
    if moving and (both := [name for name in moving if name in held_names]):
        raise UsageError(f"--fix {printable(both[0])}: it moves (--input-name); leave out one of the two")
    if moving is None:
        free = [name for name in needed if name not in held_names] or (
            [name for name in table if name not in held_names] if not needed or len(table) == 1 else []
        )
        real = [name for name in free if table[name].dtype in FLOATS]
        moving = (free[0],) if len(free) == 1 else None
        if moving is None and not real and free:
            _refuse_integers(path, [table[name] for name in free])
    ask = _Missing(path, declared, wanted, moving, held_names, needed, outputs, runs, widths)
    if ask.anything:
        raise ask.error()
    assert moving is not None
    for name in moving:
        if table[name].dtype not in FLOATS:
            _refuse_integers(path, [table[name]])
    notes: list[str] = []
    parts = tuple(
        Part(name, _moving_shape(path, table[name], wanted, moving, notes), table[name].dtype) for name in moving
    )
    _refuse_unknown_shapes(path, declared, wanted, moving)
    held = {
        name: held_value(path, table[name], wanted.fixed[said], said_shape(table[name], wanted, None), notes)
        for name, said in held_names.items()
    }
    return Chosen(parts, held, tuple(notes))


def _held_names(path: object, declared: Sequence[Declared], wanted: InputChoice) -> dict[str, str]:
    """Input -> as it is called in `wanted.fixed`."""
    found = {}
    for said in wanted.fixed:
        names = [one.name for one in declared if one.is_called(said)]
        if len(names) != 1:
            raise UsageError(f"{path}: --fix {printable(said)}: no such input: {listed(declared)}")
        found[names[0]] = said
    return found


def _refuse_integers(path: object, inputs: Sequence[Declared]) -> None:
    one = inputs[0]
    words = f"a tensor ({one.dtype})" if " " in one.dtype or one.dtype in NO_TENSORS else f"real-valued ({one.dtype})"
    raise RefusedModel(f"{path}: the input {printable(one.name)!r} is not {words}", node=printable(one.name))


def _refuse_unknown_shapes(
    path: object, declared: Sequence[Declared], wanted: InputChoice, moving: Sequence[str]
) -> None:
    for name in wanted.shapes:
        if name != ALONE and not any(one.is_called(name) for one in declared):
            raise UsageError(f"{path}: --input-shape {printable(name)}=...: {listed(declared)}")
    if ALONE in wanted.shapes and len(moving) > 1:
        raise UsageError(
            f"{path}: --input-shape: of which input? {', '.join(map(printable, moving))} move; write NAME=1,28,28"
        )


# --- shapes -------------------------------------------------------------------------------------------------------


def said_shape(one: Declared, wanted: InputChoice, moving: Sequence[str] | None) -> tuple[int, ...] | None:
    named = next((shape for name, shape in wanted.shapes.items() if name != ALONE and one.is_called(name)), None)
    alone = moving is not None and tuple(moving) == (one.name,)
    return named if named is not None else wanted.shapes.get(ALONE) if alone else None


def _is_open(one: Declared, wanted: InputChoice, moving: Sequence[str] | None) -> bool:
    """Whether its shape has to be asked for. A leading open size beside fixed ones is the batch."""
    if said_shape(one, wanted, moving) is not None:
        return False
    if one.dims is None or _is_unset(one):
        return True
    return any(isinstance(d, str) for d in (one.dims[1:] if len(one.dims) > 1 else one.dims))


def _is_unset(one: Declared) -> bool:
    """A state that is empty until the first call."""
    return one.state and one.dims == (0,)


def _moving_shape(
    path: object, one: Declared, wanted: InputChoice, moving: Sequence[str], notes: list[str]
) -> tuple[int, ...]:
    given, name = said_shape(one, wanted, moving), printable(one.name)
    if given is not None:
        fits = (
            one.dims is None
            or _is_unset(one)
            or (
                len(given) == len(one.dims)
                and all(isinstance(d, str) or d == g for d, g in zip(one.dims, given, strict=True))
            )
        )
        if not fits or any(g < 1 for g in given):
            declared = "?" if one.dims is None else ",".join(map(str, one.dims))
            raise UsageError(
                f"--input-shape {','.join(map(str, given))} does not fit the input {name!r}, declared [{declared}]"
            )
        shape = tuple(given)
    else:
        assert one.dims is not None
        if one.dims and isinstance(one.dims[0], str):
            notes.append(f"the open first dimension of the input {name!r} is the batch, set to 1")
        shape = tuple(1 if isinstance(d, str) else d for d in one.dims)
    if not 0 < math.prod(shape) <= LARGEST:
        raise UsageError(f"the input {name!r} of shape {list(shape)} is empty or too large")
    return shape


# --- what is held ---------------------------------------------------------------------------------------------------


def held_value(
    path: object, one: Declared, value: np.ndarray, shape: tuple[int, ...] | None, notes: list[str]
) -> torch.Tensor:
    """`value` in the shape and type that the model takes: one number is every entry, more are put into the shape as
    far as that is one way. Floats are rounded to the type of the input, as a runtime does; all else must fit exactly.
    """
    flag = f"{path}: --fix {printable(one.name)}"
    if one.dtype not in HOLDABLE:
        raise RefusedModel(f"{flag}: {one.dtype} is no tensor of numbers", node=printable(one.name))
    dims: tuple[int | str, ...] | None = shape if shape is not None else one.dims
    if shape is None and _is_unset(one) and value.size != 1:
        dims = None
    made = torch.from_numpy(np.array(_shaped(flag, value, dims, one.name, notes)))
    kind: torch.dtype = getattr(torch, one.dtype)
    cast = made.to(kind)
    exact = kind.is_floating_point or bool((cast.double() == made.double()).all())
    if not exact or not bool(torch.isfinite(cast.double()).all()):
        raise UsageError(f"{flag}: the input is {one.dtype}, which does not hold these values")
    return cast


def _shaped(
    flag: str, value: np.ndarray, dims: tuple[int | str, ...] | None, name: str, notes: list[str]
) -> np.ndarray:
    if dims is None:
        return value
    if value.ndim == len(dims) and all(isinstance(d, str) or d == n for d, n in zip(dims, value.shape, strict=True)):
        return value
    fixed = math.prod(d for d in dims if not isinstance(d, str))
    if value.size == 1 or (fixed and value.size == fixed):
        whole = tuple(1 if isinstance(d, str) else d for d in dims)
        if any(isinstance(d, str) for d in dims):
            notes.append(f"the open sizes of the input {printable(name)!r}, which is held, are 1")
        return np.full(whole, value.reshape(-1)[0]) if value.size == 1 else value.reshape(whole)
    if len(dims) == 1 and value.ndim == 1 and isinstance(dims[0], str):
        return value
    raise UsageError(f"{flag}: values of shape {list(value.shape)} do not fit [{','.join(map(str, dims))}]")


# --- what is missing -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Missing:
    path: object
    declared: Sequence[Declared]
    wanted: InputChoice
    moving: tuple[str, ...] | None
    held: Mapping[str, str]
    needed: Sequence[str]
    outputs: Sequence[str]
    runs: Callable[[Mapping[str, tuple[int, ...]], Mapping[str, torch.Tensor]], bool] | None
    widths: Sequence[int] = ()

    @property
    def unheld(self) -> list[Declared]:
        moving = self.suggested
        return [
            one
            for one in self.declared
            if one.name in self.needed and one.name not in moving and one.name not in self.held
        ]

    @property
    def suggested(self) -> tuple[str, ...]:
        """What moves, or could."""
        if self.moving is not None:
            return self.moving
        real = [
            one.name
            for one in sorted(self.declared, key=lambda one: one.state)
            if one.dtype in FLOATS and one.name not in self.held and (not self.needed or one.name in self.needed)
        ]
        return tuple(real[:1])

    @property
    def open(self) -> list[Declared]:
        return [
            one for one in self.declared if one.name in self.suggested and _is_open(one, self.wanted, self.suggested)
        ]

    @property
    def anything(self) -> bool:
        return self.moving is None or bool(self.unheld or self.open or self.outputs)

    def error(self) -> UsageError:
        """One line; what follows its last semicolon can be copied."""
        asks = []
        if self.moving is None:
            asks.append("which input moves (--input-name A, or A,B together)")
        if self.unheld:
            names = ", ".join(printable(one.name) for one in self.unheld)
            asks.append(f"what {names} {'is' if len(self.unheld) == 1 else 'are'} held at (--fix NAME=VALUE)")
        if self.open:
            names = ", ".join(f"{printable(one.name)} (open dimensions {one.sizes})" for one in self.open)
            asks.append(f"the shape of {names} (--input-shape)")
        if self.outputs:
            asks.append(f"which output, choose one of {', '.join(map(printable, self.outputs))} (--output-name)")
        said = f"say {', and '.join(asks)}"
        if len(self.declared) > 1:
            called = ", ".join(printable(one.name) for one in self.declared)
            types = ", ".join(f"{one.dtype}{one.sizes}" for one in self.declared)
            said += f"; its inputs are {called} ({types})"
            kept = [printable(one.name) for one in self.declared if one.state]
            if kept:
                said += (
                    f"; {', '.join(kept)}: changed by every call, so the model is a function of what it is given and of "
                    f"{'this state' if len(kept) == 1 else 'these states'}: hold or move each"
                )
        return UsageError(f"{self.path}: {said}{ADD}{self.flags()}")

    def flags(self) -> str:
        """What can be copied: shapes with which the model was seen to run, zeros, values that it compares with."""
        words = []
        if self.moving is None or (self.unheld and self.wanted.names is None):
            words += ["--input-name", ",".join(printable(name) for name in self.suggested)]
        shapes = self._shapes()
        alone = len(self.suggested) == 1
        for one in self.declared:
            if one.name in shapes:
                shape = ",".join(map(str, shapes[one.name]))
                moves = alone and one.name in self.suggested and len(shapes) == 1
                words += ["--input-shape", shape if moves else f"{printable(one.name)}={shape}"]
        for one in self.unheld:
            words += ["--fix", f"{printable(one.name)}={one.likely[0] if one.likely else 0}"]
        words += ["--output-name", printable(self.outputs[0])] if self.outputs else []
        return shlex.join(words)

    def _shapes(self) -> dict[str, tuple[int, ...]]:
        """Of what is open, as far as it has to be said: the first that `_tries` makes and with which the model runs."""
        first: dict[str, tuple[int, ...]] = {}
        moving = [one for one in self.declared if one.name in self.suggested]
        others = [one for one in self.declared if one not in moving and one.dtype in HOLDABLE and not one.optional]
        if not self.open and all(one.dims is not None for one in self.unheld):
            return {}
        for shapes in self._tries():
            first = first or shapes
            whole = {one.name: shapes.get(one.name) or self._known(one) for one in moving}
            if self.runs is None or self.runs(whole, {one.name: self._held(one, shapes) for one in others}):
                return shapes
        return first

    def _tries(self) -> Iterator[dict[str, tuple[int, ...]]]:
        """Shapes of what is open: one size for all of what moves, held inputs of no known shape as one number, then in
        the same shape; then two inputs beside each other in front of a layer of one of `widths`."""
        loose = [one for one in self.unheld if one.dims is None]
        for size in SIZES if self.open or loose else ():
            shapes = {one.name: _with(one, size) for one in self.open}
            yield shapes
            if loose:
                yield shapes | {one.name: (1, size) for one in loose}
        pair = [*self.open, *loose]
        for width in self.widths if len(pair) in (1, 2) else ():
            if len(pair) == 1:
                yield {pair[0].name: _with(pair[0], width)}
                continue
            for size in range(width - 1, max(0, width - 64), -1):
                yield {pair[0].name: _with(pair[0], size), pair[1].name: _with(pair[1], width - size)}

    def _known(self, one: Declared) -> tuple[int, ...]:
        return said_shape(one, self.wanted, self.suggested) or _with(one, 1)

    def _held(self, one: Declared, shapes: Mapping[str, tuple[int, ...]]) -> torch.Tensor:
        if one.name in self.held:
            shape = said_shape(one, self.wanted, None)
            return held_value(self.path, one, self.wanted.fixed[self.held[one.name]], shape, [])
        sizes = shapes.get(one.name) or [1 if isinstance(d, str) else d for d in one.dims or ()]
        return torch.full(sizes, one.likely[0] if one.likely else 0, dtype=getattr(torch, one.dtype))


def _with(one: Declared, size: int) -> tuple[int, ...]:
    dims: tuple[int | str, ...] = ("?", "?") if one.dims is None or _is_unset(one) else one.dims
    batch = len(dims) > 1 and isinstance(dims[0], str)
    return tuple(1 if k == 0 and batch else size if isinstance(d, str) else d for k, d in enumerate(dims))
