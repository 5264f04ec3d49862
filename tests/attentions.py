"""Tiny attention layers as people write them: masks, grouped queries, rotary embeddings, biases. (1, T, D) -> (1, T, D)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

T, D, H = 4, 6, 2
INF = float("inf")


class Attention(nn.Module):
    """Subclasses say how scores become weights and values."""

    def __init__(self, keys: int = H) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.keys = keys
        self.q = nn.Linear(D, D)
        self.kv = nn.Linear(D, 2 * keys * (D // H))
        self.out = nn.Linear(D, D)
        self.register_buffer("causal", torch.ones(T, T).tril().bool())
        self.register_buffer("minus", torch.zeros(T, T).masked_fill(torch.ones(T, T).triu(1).bool(), -INF))
        self.register_buffer("padding", torch.tensor([[[[True, True, True, False]]]]))
        self.register_buffer("bias", 0.3 * torch.randn(1, H, T, T))

    def heads(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q = self.q(x).reshape(1, T, H, D // H).transpose(1, 2)
        k, v = self.kv(x).reshape(1, T, 2, self.keys, D // H).permute(2, 0, 3, 1, 4)
        return q, k, v

    def scores(self, q: Tensor, k: Tensor) -> Tensor:
        return q @ k.transpose(-2, -1) / (D // H) ** 0.5

    def forward(self, x: Tensor) -> Tensor:
        y = self.attend(*self.heads(x))
        return x + self.out(y.transpose(1, 2).reshape(1, T, D))

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        raise NotImplementedError


class Plain(Attention):
    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return self.scores(q, k).softmax(-1) @ v


class Filled(Attention):
    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return self.scores(q, k).masked_fill(self.causal == 0, -INF).softmax(-1) @ v


class Added(Attention):
    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return (self.scores(q, k) + self.bias + self.minus).softmax(-1) @ v


class Chosen(Attention):
    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return torch.where(self.causal & self.padding, self.scores(q, k) + self.bias, -INF).softmax(-1) @ v


class Causal(Attention):
    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(q, k, v, is_causal=True)


class FloatMask(Attention):
    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=self.minus + self.bias)


class BoolMask(Attention):
    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=self.padding)


class Nothing(Attention):
    """The first row of the mask shows nothing: SDPA gives 0 there."""

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=torch.ones(T, T).tril(-1).bool())


class Grouped(Attention):
    """Two heads of queries read one of keys, turned by their positions, causally."""

    def __init__(self) -> None:
        super().__init__(keys=1)
        angle = torch.arange(T).float()[:, None] * torch.tensor([1.0, 0.1, 1.0])[None]
        self.register_buffer("cos", angle.cos())
        self.register_buffer("sin", angle.sin())

    def turned(self, x: Tensor) -> Tensor:
        return x * self.cos + torch.stack([-x[..., 1], x[..., 0], x[..., 2]], -1) * self.sin

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        k, v = (z.repeat_interleave(H, dim=1) for z in (self.turned(k), v))
        return F.scaled_dot_product_attention(self.turned(q), k, v, is_causal=True)


class Large(Attention):
    """-1e9 is a number: a tiny weight that is positive in real arithmetic."""

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return (self.scores(q, k) + torch.where(self.causal, 0.0, -1e9)).softmax(-1) @ v


class Lowest(Attention):
    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return self.scores(q, k).masked_fill(~self.causal, torch.finfo(torch.float32).min).softmax(-1) @ v


class Triangle(Attention):
    """The mask is made in the forward, of what is -inf everywhere."""

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        mask = torch.full((T, T), -INF).triu(1)
        return (self.scores(q, k) + mask).softmax(-1) @ v


ATTENTIONS = (Plain, Filled, Added, Chosen, Causal, FloatMask, BoolMask, Nothing, Grouped, Large, Lowest, Triangle)
