"""Sweeps against the graph: linear bounds and adjoints."""
