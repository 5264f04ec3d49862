"""Enclosures on boxes and balls: forward sweeps, backward linear bounds, branch and bound."""
