"""Piecewise quadratic networks: where each neuron is in one piece the Jacobian is affine, and its norm largest at a vertex."""
