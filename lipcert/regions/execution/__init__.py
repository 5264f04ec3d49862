"""Proved bounds of what an execution in floating point can add to the network in real arithmetic, on regions."""
