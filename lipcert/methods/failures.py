"""A method that fails for its numbers or for want of memory is refused with the reason; the other methods go on."""

from __future__ import annotations

import numpy as np
import torch

from lipcert.terms.memory import out_of_memory
from lipcert.terms.result import NotABound

# What a method's own arithmetic may raise. Anything else is an error of ours (exit 4).
RAISED = (MemoryError, RuntimeError, ValueError, ArithmeticError)


def why(error: Exception) -> str | None:
    """The reason of a refusal, in one line; None where it is an error of ours."""
    said = " ".join(str(error).split())[:200]
    if out_of_memory(error):
        return f"out of memory ({said or type(error).__name__}): give it more, or leave this method out with --method"
    if isinstance(error, NotABound):
        return f"its computation left the numbers of float64: {said}"
    if isinstance(error, torch.linalg.LinAlgError | np.linalg.LinAlgError):
        return f"its linear algebra did not succeed: {said}"
    if isinstance(error, ArithmeticError) or "float NaN" in said or "float infinity" in said:
        return f"its computation met NaN or infinity: {said}"
    return None
