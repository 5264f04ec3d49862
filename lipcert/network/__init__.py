"""The network as a graph of linear operators and nonlinearities, and the one walk over it."""
