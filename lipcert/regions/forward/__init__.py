"""Sweeps along the graph: values, slopes, curvature and Jacobians on a box."""
