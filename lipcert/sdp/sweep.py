"""The dual of LipSDP as a network on r coupled samples (MATH section 4).

max ||Y_out||^2 over Y_0 with |Y_0|_F = 1 and unit directions u_g, where each group turns its pre-activations into

    Y_g = c V_g + rho_g U_g,   rho_g = |h V_g|_F,   c = (a + b) / 2,  h = (b - a) / 2,  |U_g|_F = 1:

the forward pass of the network with the activation replaced by a ball. One sweep is one forward and one backward pass,
majorise-minimise: it never lowers the value, and has no step size. At a fixed point lambda_g = |G_g| / (2 rho_g) are
the multipliers of the primal. The value is a lower bound of the LipSDP optimum: it measures the gap, it is no answer.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from lipcert.normalform import Layer, NormalForm
from lipcert.parts import PLAIN, linear_ancestors, pull, push

MEMORY = 8  # of the Anderson acceleration
RIDGE = 1e-10


@dataclass
class State:
    """Y_0 (r, n_0) and the directions U_k (r, n_k) of every layer."""

    y0: Tensor
    u: list[Tensor]

    def flat(self) -> Tensor:
        return torch.cat([self.y0.reshape(-1), *(u.reshape(-1) for u in self.u)])

    def like(self, flat: Tensor) -> State:
        parts, start = [], 0
        for t in (self.y0, *self.u):
            parts.append(flat[start : start + t.numel()].reshape(t.shape))
            start += t.numel()
        return State(parts[0], parts[1:])


@dataclass
class Swept:
    """One sweep from a state: its value ||Y_out||^2, the state after it, and the multipliers (count_k,) per layer."""

    value: float
    after: State
    multipliers: list[Tensor]


@dataclass
class Dual:
    """The dual problem of one normal form. `rows` is r, the number of coupled samples."""

    form: NormalForm
    rows: int
    seed: int = 0
    centre: list[Tensor] = field(init=False)
    half: list[Tensor] = field(init=False)

    def __post_init__(self) -> None:
        self.centre = [(layer.low + layer.high) / 2 for layer in self.form.layers]
        self.half = [(layer.high - layer.low) / 2 for layer in self.form.layers]
        graph = self.form.graph
        self.random = torch.Generator().manual_seed(self.seed)
        needed = [layer.read for layer in self.form.layers] + [graph.output]
        self.pieces = [linear_ancestors(graph, target)[1] for target in needed]
        self.affine = _stages(self.pieces)

    def start(self) -> State:
        graph = self.form.graph
        sizes = [graph.nodes[graph.input].size, *(layer.size for layer in self.form.layers)]
        tensors = [torch.randn(self.rows, n, generator=self.random, dtype=torch.float64) for n in sizes]
        return self.unit(State(tensors[0], tensors[1:]))

    def unit(self, state: State) -> State:
        """|Y_0|_F = 1 and |U_g|_F = 1 for every group."""
        y0 = state.y0 / state.y0.norm().clamp(min=1e-300)
        directions = []
        for layer, u in zip(self.form.layers, state.u, strict=True):
            length = _group_norm(layer, u)
            directions.append(u / layer.spread(length.clamp(min=1e-300)))
        return State(y0, directions)

    def sweep(self, state: State) -> Swept:
        """Forward with the state's directions, backward with new ones."""
        graph, layers = self.form.graph, self.form.layers
        signals: dict[int, Tensor] = {graph.input: state.y0}
        radii: list[Tensor] = []
        for k, layer in enumerate(layers):
            push(graph, self.affine[k], signals, PLAIN)
            v = signals.get(layer.read)
            if v is None:
                v = state.y0.new_zeros(self.rows, layer.size)
                signals[layer.read] = v
            radius = _group_norm(layer, v * self.half[k])
            radii.append(radius)
            signals[layer.node] = self.centre[k] * v + layer.spread(radius) * state.u[k]
        push(graph, self.affine[-1], signals, PLAIN)
        out = signals.get(graph.output)
        if out is None:
            return Swept(0.0, state, [torch.zeros(layer.count, dtype=torch.float64) for layer in layers])
        value = float(out.square().sum())

        gradients: dict[int, Tensor] = {graph.output: out}
        gradients = pull(graph, self.affine[-1], gradients, PLAIN)
        directions: list[Tensor] = [torch.empty(0)] * len(layers)
        multipliers: list[Tensor] = [torch.empty(0)] * len(layers)
        for k in range(len(layers) - 1, -1, -1):
            layer, radius = layers[k], radii[k]
            g = gradients.pop(layer.node, None)
            v = signals[layer.read]
            if g is None:
                directions[k], multipliers[k] = state.u[k], torch.zeros(layer.count, dtype=torch.float64)
                continue
            length = _group_norm(layer, g)
            directions[k] = torch.where(
                layer.spread(length > 0), g / layer.spread(length.clamp(min=1e-300)), state.u[k]
            )
            ratio = length / radius.clamp(min=1e-300)
            ratio = torch.where(radius > 0, ratio, 0.0)
            # v = 0 for every direction (a row of zeros): any large multiplier is free, and zero would not be feasible
            multipliers[k] = torch.where((radius > 0) | (length == 0), ratio / 2, 10 * ratio.max())
            back = self.centre[k] * g + layer.spread(ratio) * self.half[k].square() * v
            gradients[layer.read] = gradients[layer.read] + back if layer.read in gradients else back
            gradients = pull(graph, self.affine[k], gradients, PLAIN)
        at_input = gradients.get(graph.input)
        y0 = state.y0 if at_input is None or not bool(at_input.any()) else at_input / at_input.norm()
        return Swept(value, State(y0, directions), multipliers)


def _group_norm(layer: Layer, t: Tensor) -> Tensor:
    """|T_g|_F over the rows and the neurons of each group, (count,)."""
    return layer.sums(t.square().sum(dim=0)).sqrt()


def _stages(pieces: list[tuple[int, ...]]) -> list[tuple[int, ...]]:
    """The affine nodes that become computable before each target, each node once, in topological order."""
    done: set[int] = set()
    stages = []
    for nodes in pieces:
        stages.append(tuple(i for i in nodes if i not in done))
        done.update(nodes)
    return stages


class Anderson:
    """Type II Anderson acceleration of a fixed-point map (Walker & Ni 2011), with a ridge."""

    def __init__(self, memory: int = MEMORY):
        self.memory = memory
        self.forget()

    def forget(self) -> None:
        self.last: tuple[Tensor, Tensor] | None = None  # image and residual of the newest point
        self.moves: list[Tensor] = []  # differences of successive images
        self.steps: list[Tensor] = []  # differences of successive residuals

    def next(self, point: Tensor, image: Tensor) -> Tensor:
        """The next point to try after image = T(point)."""
        residual = image - point
        if self.last is not None:
            self.moves.append(image - self.last[0])
            self.steps.append(residual - self.last[1])
            del self.moves[: -self.memory], self.steps[: -self.memory]
        self.last = (image, residual)
        if not self.steps:
            return image
        gram = torch.stack([torch.stack([a @ b for b in self.steps]) for a in self.steps])
        gram += RIDGE * gram.diagonal().sum() * torch.eye(len(gram), dtype=gram.dtype)
        right = torch.stack([a @ residual for a in self.steps])
        weights = torch.linalg.lstsq(gram, right[:, None]).solution[:, 0]
        for weight, move in zip(weights.tolist(), self.moves, strict=True):
            image = image - weight * move
        return image
