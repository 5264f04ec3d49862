"""Of a certificate about a network of several inputs: what its x consists of, and what other inputs are held at.

    "model": {..., "parts": [{"name": str, "shape": [int]}],          x is their entries one after another
                   "fixed": {name: {"dtype": str, "shape": [int], "sha256": hex64, "values": [number]}}}

Both are left out where there is nothing to say. "values": one for all entries, or one for each; left out where there are
many, and then whoever verifies gives them again, of which "sha256" tells whether they are the same.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from lipcert.terms.question import Record, frozen, held_words, thawed
from lipcert.terms.strict import counts_of, hex64, list_of, record, reject, shown, text_of

OPTIONAL = ("parts", "fixed")


def inputs_of(model: Mapping[str, Any]) -> dict[str, Record]:
    """The two fields of a file's "model" as values that hash. CertificateRejected for what is not as above."""
    found = {}
    if "parts" in model:
        rows = enumerate(list_of(model["parts"], "model.parts"))
        found["parts"] = frozen([_part(one, f"model.parts[{k}]") for k, one in rows])
    if "fixed" in model:
        if not isinstance(model["fixed"], dict):
            reject("model.fixed", f"an object is needed, not {shown(model['fixed'])}")
        found["fixed"] = frozen(
            {name: _held(one, f"model.fixed.{shown(name)}") for name, one in model["fixed"].items()}
        )
    return found


def _part(value: Any, place: str) -> dict[str, Any]:
    fields = record(value, place, ("name", "shape"))
    return {
        "name": text_of(fields["name"], f"{place}.name"),
        "shape": list(counts_of(fields["shape"], f"{place}.shape")),
    }


def _held(value: Any, place: str) -> dict[str, Any]:
    names = ("dtype", "shape", "sha256")
    fields = record(value, place, (*names, "values") if isinstance(value, dict) and "values" in value else names)
    said: dict[str, Any] = {
        "dtype": text_of(fields["dtype"], f"{place}.dtype"),
        "shape": list(counts_of(fields["shape"], f"{place}.shape")),
        "sha256": hex64(fields["sha256"], f"{place}.sha256"),
    }
    if "values" not in fields:
        return said
    values = list_of(fields["values"], f"{place}.values")
    numbers = all(isinstance(v, bool | int | float) and math.isfinite(v) for v in values)
    if not numbers or len(values) not in (1, math.prod(said["shape"])):
        reject(f"{place}.values", "one number is needed, or one for each entry")
    return {**said, "values": values}


def fields_of(network: Any) -> dict[str, Any]:
    """The inverse of `inputs_of`, of a `proofs.file.Network`."""
    return {name: thawed(getattr(network, name)) for name in OPTIONAL if getattr(network, name)}


def shapes_of(network: Any) -> tuple[int, ...] | dict[str, tuple[int, ...]]:
    """As `lipcert.load` takes them."""
    if not network.parts and not network.fixed:
        return network.input_shape
    moving, held = input_shapes(network)
    return {**held, **moving}


def input_shapes(network: Any) -> tuple[dict[str, tuple[int, ...]], dict[str, tuple[int, ...]]]:
    """By name: of what moves, and of what is held."""
    parts = thawed(network.parts) if network.parts else [{"name": network.input_name, "shape": network.input_shape}]
    held = thawed(network.fixed or Record())
    moving = {one["name"]: tuple(one["shape"]) for one in parts}
    return moving, {name: tuple(one["shape"]) for name, one in held.items()}


def values_of(network: Any) -> dict[str, Any]:
    """What the file says that inputs are held at, as `lipcert.load` takes it: nested lists, or one number."""
    import numpy as np

    found = {}
    for name, one in thawed(network.fixed or Record()).items():
        if "values" in one:
            values = one["values"]
            found[name] = values[0] if len(values) == 1 else np.array(values).reshape(one["shape"])
    return found


def held(network: Any) -> Record:
    """As a question has it."""
    return frozen({name: held_words(one) for name, one in thawed(network.fixed or Record()).items()})


def same_inputs(network: Any, model: Mapping[str, Any]) -> list[tuple[str, object, object]]:
    """(field, as the certificate has it, as the model that was read has it)."""
    mine = {name: held_words(one) for name, one in (model.get("fixed") or {}).items()}
    parts = frozen(list(model.get("parts") or ()))
    return [("parts", network.parts or (), parts), ("fixed", thawed(held(network)), mine)]
