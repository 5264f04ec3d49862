"""Linear operators with their norms: dense, convolution, selection, scale, adjoint, and their composition."""
