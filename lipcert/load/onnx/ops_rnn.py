"""ONNX LSTM, GRU and RNN, unrolled step by step into matrix products, sigmoid and tanh (equations of the schemas)."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from lipcert.load.onnx.node import OnnxNode, Op, Rule

MAX_STEPS = 1024

Cell = Callable[[Tensor, tuple[Tensor, ...]], tuple[Tensor, ...]]  # one step: x_t, state -> new state (h first)


def _lstm_cell(node: OnnxNode, w: Tensor, r: Tensor, wb: Tensor | None, rb: Tensor | None) -> Cell:
    """Gates in the order i, o, f, c."""

    def step(x: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        h, c = state
        i, o, f, g = (F.linear(x, w, wb) + F.linear(h, r, rb)).chunk(4, -1)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        return torch.sigmoid(o) * torch.tanh(c), c

    return step


def _gru_cell(node: OnnxNode, w: Tensor, r: Tensor, wb: Tensor | None, rb: Tensor | None) -> Cell:
    """Gates in the order z, r, h."""
    n = r.shape[-1]
    rb_gates, rb_new = (None, None) if rb is None else (rb[: 2 * n], rb[2 * n :])

    def step(x: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        (h,) = state
        from_x = F.linear(x, w, wb)
        gates = torch.sigmoid(from_x[:, : 2 * n] + F.linear(h, r[: 2 * n], rb_gates))
        update, reset = gates.chunk(2, -1)
        if node["linear_before_reset"]:
            new = torch.tanh(from_x[:, 2 * n :] + reset * F.linear(h, r[2 * n :], rb_new))
        else:
            new = torch.tanh(from_x[:, 2 * n :] + F.linear(reset * h, r[2 * n :], rb_new))
        return ((1 - update) * new + update * h,)

    return step


def _rnn_cell(node: OnnxNode, w: Tensor, r: Tensor, wb: Tensor | None, rb: Tensor | None) -> Cell:
    def step(x: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (torch.tanh(F.linear(x, w, wb) + F.linear(state[0], r, rb)),)

    return step


def _recurrent(cell: Callable[..., Cell], states: int, activations: list[str]) -> Rule:
    """`states`: how many state tensors (h, and c for the LSTM). `activations`: the only ones known, per direction."""

    def apply(
        node: OnnxNode,
        x: Tensor,
        w: Tensor,
        r: Tensor,
        b: Tensor | None = None,
        lengths: Tensor | None = None,
        *initial: Tensor | None,
    ) -> tuple[Tensor | None, ...]:
        directions = {"forward": [1], "reverse": [-1], "bidirectional": [1, -1]}.get(node["direction"])
        if directions is None or w.shape[0] != len(directions):
            node.refuse(f"direction {node['direction']!r} does not fit a weight of shape {list(w.shape)}")
        given, usual = [a.lower() for a in node["activations"] or ()], activations * len(directions)
        if given not in ([], usual, ["tanh", "tanh"] if usual == ["tanh"] else usual):  # RNN's default has one too many
            node.refuse(f"activations {given} are not known; the default ones are")
        for name in ("activation_alpha", "activation_beta", "clip", "input_forget"):
            if node[name] not in (None, (), 0) or (name == "clip" and node[name] is not None):
                node.refuse(f"{name}={node[name]} is not known")
        if node["hidden_size"] not in (None, r.shape[-1]):
            node.refuse(f"hidden_size {node['hidden_size']} differs from the weight's {r.shape[-1]}")
        if states == 2 and len(initial) > 2 and initial[2] is not None:
            node.refuse("peepholes are not known")
        if node["layout"]:
            x = x.transpose(0, 1)
            initial = tuple(None if s is None else s.transpose(0, 1) for s in initial)
        steps, batch, hidden = x.shape[0], x.shape[1], r.shape[-1]
        if steps > MAX_STEPS:
            node.refuse(f"{steps} steps; at most {MAX_STEPS} are unrolled")
        if lengths is not None and node.ints(4, "sequence_lens") != [steps] * batch:
            node.refuse("sequences of different lengths are not known")

        outputs, finals = [], []
        for k, direction in enumerate(directions):
            wb, rb = (None, None) if b is None else b[k].chunk(2)
            step = cell(node, w[k], r[k], wb, rb)
            start = [initial[s] if len(initial) > s else None for s in range(states)]
            state = tuple(x.new_zeros(batch, hidden) if s is None else s[k] for s in start)
            history = []
            for t in range(steps)[::direction]:
                state = step(x[t], state)
                history.append(state[0])
            outputs.append(torch.stack(history[::direction]))
            finals.append(state)
        y = torch.stack(outputs, 1)  # (steps, directions, batch, hidden)
        last = [torch.stack([final[s] for final in finals]) for s in range(states)]
        if node["layout"]:
            y, last = y.permute(2, 0, 1, 3), [s.transpose(0, 1) for s in last]
        return (y, *last)

    return apply


_COMMON = "activation_alpha activation_beta activations clip direction hidden_size layout"
_INPUTS = "B sequence_lens initial_h"
TABLE: dict[str, Op] = {
    "LSTM": Op(
        _recurrent(_lstm_cell, 2, ["sigmoid", "tanh", "tanh"]),
        (7, 14, 22),
        _COMMON + " input_forget",
        inputs=_INPUTS + " initial_c P",
        outputs="Y_h Y_c",
    ),
    "GRU": Op(
        _recurrent(_gru_cell, 1, ["sigmoid", "tanh"]),
        (7, 14, 22),
        _COMMON + " linear_before_reset",
        inputs=_INPUTS,
        outputs="Y_h",
    ),
    "RNN": Op(_recurrent(_rnn_cell, 1, ["tanh"]), (7, 14, 22), _COMMON, inputs=_INPUTS, outputs="Y_h"),
}
