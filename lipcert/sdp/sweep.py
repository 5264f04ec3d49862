"""The dual of LipSDP as a network on r coupled samples (MATH section 4).

max ||Y_out||^2 over Y_0 with |Y_0|_F = 1 and unit directions u_g, where each group turns its pre-activations into

    Y_g = c V_g + rho_g U_g,   rho_g = |h V_g|_F,   c = (a + b) / 2,  h = (b - a) / 2,  |U_g|_F = 1:

the forward pass of the network with the activation replaced by a ball. One sweep is one forward and one backward pass,
majorise-minimise: it never lowers the value, and has no step size. At a fixed point lambda_g = |G_g| / (2 rho_g) are
the multipliers of the primal. The value is a lower bound of the LipSDP optimum: it measures the gap, it is no answer.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from lipcert.network.affine import PLAIN, linear_ancestors, pull, push
from lipcert.network.graph import Graph, Linear, Offset
from lipcert.operators.linear import Dense
from lipcert.proofs.normal_form import Layer, NormalForm
from lipcert.terms.clock import tick

MEMORY = 8  # of the Anderson acceleration
# By type of float: of the Anderson acceleration; norms below are zero, as their squares underflow
RIDGE = {torch.float64: 1e-10, torch.float32: 1e-6}
LEAST = {torch.float64: 1e-150, torch.float32: 1e-18}


@dataclass
class State:
    """Y_0 (r, n_0) and the directions U_k (r, n_k) of every layer: views of one vector, `flat`."""

    flat: Tensor
    y0: Tensor
    u: list[Tensor]

    @staticmethod
    def over(flat: Tensor, rows: int, sizes: Sequence[int]) -> State:
        parts, start = [], 0
        for n in sizes:
            parts.append(flat[start : start + rows * n].view(rows, n))
            start += rows * n
        return State(flat, parts[0], parts[1:])


@dataclass
class Pass:
    """One sweep from a state: its value ||Y_out||^2 and the state after it; |G_g| and rho_g of every layer."""

    value: float
    after: State
    lengths: list[Tensor]
    radii: list[Tensor]
    out: Tensor | None = None  # Y_out, and the gradient at Y_0
    at_input: Tensor | None = None

    @property
    def multipliers(self) -> list[Tensor]:
        """lambda_g = |G_g| / (2 rho_g), (count_k,) per layer."""
        found = []
        for length, radius in zip(self.lengths, self.radii, strict=True):
            ratio = torch.where(radius > 0, length / radius.clamp(min=LEAST[radius.dtype]), 0.0)
            # v = 0 for every direction (a row of zeros): any large multiplier is free, and zero would not be feasible
            found.append(torch.where((radius > 0) | (length == 0), ratio / 2, 10 * ratio.max()))
        return found


@dataclass
class Dual:
    """The dual problem of one normal form. `rows` is r, the number of coupled samples."""

    form: NormalForm
    rows: int
    seed: int = 0
    dtype: torch.dtype = torch.float64  # float32 where only proposals are wanted; the graph is given in it
    centre: list[Tensor] = field(init=False)
    half: list[Tensor] = field(init=False)
    square: list[Tensor] = field(init=False)

    def __post_init__(self) -> None:
        self.centre = [((layer.low + layer.high) / 2).to(self.dtype) for layer in self.form.layers]
        self.half = [((layer.high - layer.low) / 2).to(self.dtype) for layer in self.form.layers]
        self.square = [half.square() for half in self.half]
        graph = self.form.graph
        self.sizes = [graph.nodes[graph.input].size, *(layer.size for layer in self.form.layers)]
        self.random = torch.Generator().manual_seed(self.seed)
        needed = [layer.read for layer in self.form.layers] + [graph.output]
        self.pieces = [linear_ancestors(graph, target)[1] for target in needed]
        self.affine = _stages(self.pieces)
        self.dense = [_matrices(graph, nodes) for nodes in self.affine]

    def start(self) -> State:
        return self.unit(self.state(self.drawn(self.rows * sum(self.sizes))))

    def drawn(self, *shape: int) -> Tensor:
        """Normal numbers, the same on every device."""
        drawn = torch.randn(shape, generator=self.random, dtype=self.dtype, device="cpu")
        return drawn.to(self.half[0].device) if self.half else drawn

    def state(self, flat: Tensor) -> State:
        return State.over(flat, self.rows, self.sizes)

    def joined(self, y0: Tensor, u: Sequence[Tensor]) -> State:
        return self.state(torch.cat([y0.reshape(-1), *(part.reshape(-1) for part in u)]))

    def unit(self, state: State) -> State:
        """|Y_0|_F = 1 and |U_g|_F = 1 for every group."""
        least = LEAST[self.dtype]
        u = [
            part / self.along(layer, self.lengths(layer, part).clamp(min=least))
            for layer, part in zip(self.form.layers, state.u, strict=True)
        ]
        return self.joined(state.y0 / self.input_size(state.y0).clamp(min=least), u)

    def lengths(self, layer: Layer, t: Tensor, weights: Tensor | None = None) -> Tensor:
        """|diag(w) T_g|_F over the rows and the neurons of each group, (count,); w >= 0."""
        norms = torch.linalg.vecdot(t, t, dim=0).sqrt_()
        if weights is not None:
            norms = norms * weights
        return norms if layer.count == layer.size else layer.sums(norms.square()).sqrt()

    def along(self, layer: Layer, values: Tensor) -> Tensor:
        """Those of the groups at their neurons: what multiplies signals (rows, n)."""
        return layer.spread(values)

    def input_size(self, y0: Tensor) -> Tensor:
        """What is 1 of Y_0: |Y_0|_F."""
        return y0.norm()

    def output_value(self, out: Tensor) -> tuple[float, Tensor]:
        """The value and half its gradient: ||Y_out||^2."""
        return float(out.square().sum()), out

    def push(self, stage: int, signals: dict[int, Tensor]) -> None:
        """The signals of a stage from those of its sources."""
        steps = self.dense[stage]
        if steps is None:
            push(self.form.graph, self.affine[stage], signals, PLAIN)
            return
        tick()
        for node, parent, weight in steps:
            if parent in signals:
                signals[node] = signals[parent] if weight is None else signals[parent] @ weight.mT

    def pull(self, stage: int, gradients: dict[int, Tensor]) -> dict[int, Tensor]:
        """Those of its sources from the gradients of a stage."""
        steps = self.dense[stage]
        if steps is None:
            return pull(self.form.graph, self.affine[stage], gradients, PLAIN)
        tick()
        for node, parent, weight in reversed(steps):
            g = gradients.pop(node, None)
            if g is not None:
                back = g if weight is None else g @ weight
                gradients[parent] = gradients[parent] + back if parent in gradients else back
        return gradients

    def sweep(self, state: State) -> Pass:
        """Forward with the state's directions, backward with new ones."""
        graph, layers = self.form.graph, self.form.layers
        signals: dict[int, Tensor] = {graph.input: state.y0}
        radii: list[Tensor] = []
        for k, layer in enumerate(layers):
            self.push(k, signals)
            v = signals.get(layer.read)
            if v is None:
                v = signals[layer.read] = state.y0.new_zeros(len(state.y0), layer.size)
            radii.append(self.lengths(layer, v, self.half[k]))
            signals[layer.node] = torch.addcmul(self.centre[k] * v, state.u[k], self.along(layer, radii[k]))
        self.push(-1, signals)
        out = signals.get(graph.output)
        u, lengths = list(state.u), [torch.zeros_like(radius) for radius in radii]
        if out is None:
            return Pass(0.0, state, lengths, radii)

        value, ascent = self.output_value(out)
        gradients = self.pull(-1, {graph.output: ascent})
        for k in range(len(layers) - 1, -1, -1):
            layer, radius = layers[k], radii[k]
            g = gradients.pop(layer.node, None)
            if g is None:
                continue
            lengths[k] = self.lengths(layer, g)
            # no gradient, no direction: 0 lies in the ball as well, and the value does not depend on it
            u[k] = g / self.along(layer, lengths[k].clamp(min=LEAST[self.dtype]))
            ratio = lengths[k] / radius.clamp(min=LEAST[self.dtype])  # where the radius is 0, so is v
            back = torch.addcmul(self.centre[k] * g, signals[layer.read], self.along(layer, ratio) * self.square[k])
            gradients[layer.read] = gradients[layer.read] + back if layer.read in gradients else back
            gradients = self.pull(k, gradients)
        at_input, y0 = gradients.get(graph.input), state.y0
        if at_input is not None and bool(at_input.any()):
            y0 = at_input / self.input_size(at_input).clamp(min=LEAST[self.dtype])
        return Pass(value, self.joined(y0, u), lengths, radii, out, at_input)


def _stages(pieces: list[tuple[int, ...]]) -> list[tuple[int, ...]]:
    """The affine nodes that become computable before each target, each node once, in topological order."""
    done: set[int] = set()
    stages = []
    for nodes in pieces:
        stages.append(tuple(i for i in nodes if i not in done))
        done.update(nodes)
    return stages


def _matrices(graph: Graph, nodes: Sequence[int]) -> list[tuple[int, int, Tensor | None]] | None:
    """(node, parent, matrix; None: the identity) of a stage of dense layers. In networks of hundreds of neurons the walk
    takes longer than these products."""
    steps: list[tuple[int, int, Tensor | None]] = []
    for i in nodes:
        match graph.nodes[i].what, graph.nodes[i].parents:
            case Linear(Dense(weight=weight, outer=1, inner=1)), (parent,) if weight.shape[0] == 1:
                steps.append((i, parent, weight[0]))
            case Offset(), (parent,):
                steps.append((i, parent, None))
            case _:
                return None
    return steps


class Anderson:
    """Type II Anderson acceleration of a fixed-point map (Walker & Ni 2011), with a ridge.

    The newest `memory` differences of images and of residuals are rows of two matrices that are overwritten in turn.
    `residual`: |T(x) - x| / |x| of the newest point.
    """

    residual = math.inf

    def __init__(self, memory: int = MEMORY):
        self.memory = memory
        self.forget()

    def forget(self) -> None:
        self.last: tuple[Tensor, Tensor] | None = None  # image and residual of the newest point
        self.count = 0

    def next(self, point: Tensor, image: Tensor) -> Tensor:
        """The next point to try after image = T(point)."""
        residual = image - point
        self.residual = float(residual.norm() / point.norm().clamp(min=LEAST[point.dtype]))
        if self.last is None:
            self.moves = image.new_zeros(self.memory, image.numel())
            self.steps = image.new_zeros(self.memory, image.numel())
            self.gram = image.new_zeros(self.memory, self.memory)
        else:
            row = self.count % self.memory
            self.count += 1
            torch.sub(image, self.last[0], out=self.moves[row])
            torch.sub(residual, self.last[1], out=self.steps[row])
            self.gram[row] = self.gram[:, row] = self.steps @ self.steps[row]
        self.last = (image, residual)
        if self.count == 0:
            return image.clone()
        kept = min(self.count, self.memory)
        gram = self.gram[:kept, :kept].clone()
        gram.diagonal().add_(RIDGE[gram.dtype] * float(gram.trace()))
        weights, failed = torch.linalg.solve_ex(gram, self.steps[:kept] @ residual)
        if int(failed) != 0:  # all differences are zero
            return image.clone()
        return torch.addmv(image, self.moves[:kept].T, weights, alpha=-1)
