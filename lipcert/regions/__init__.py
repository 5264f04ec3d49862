"""What the network is on regions of its input space."""
