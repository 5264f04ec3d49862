"""J'u by automatic differentiation."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def pulled(
    y: Tensor, at: Tensor | Sequence[Tensor], u: Tensor, *, keep: bool = False, unused: bool = False
) -> tuple[Tensor, ...]:
    """The gradient of <u, y> along each of `at`: u (like y) carried back, to the bit, for d(y u) = 1 * u.

    `keep`: the graph is asked again. `unused`: None for those on which y does not depend. torch's own grad_outputs would
    import its symbolic shapes, and sympy with them: 0.5 s of a command that lasts two.
    """
    with torch.enable_grad():
        along = (y * u).sum()
    return torch.autograd.grad(along, at, retain_graph=keep, allow_unused=unused)
