"""Rounding, enclosures, and proofs about matrices: what floating-point arithmetic may claim."""
