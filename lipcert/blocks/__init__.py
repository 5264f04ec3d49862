"""What one nonlinear node does: elementwise functions, selections, softmax, products, normalisation."""
