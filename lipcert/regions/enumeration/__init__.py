"""Exact constants of piecewise linear networks with few inputs, by enumerating their linear regions (MATH section 9)."""
