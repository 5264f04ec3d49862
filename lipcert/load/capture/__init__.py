"""Flat ATen graphs of models in eval mode, and their comparison with the original."""
