"""Certified Lipschitz constants of trained networks."""
