"""What one run leaves to the next: going on with an earlier report (`resume`), and the seals that say whose it is (`seal`)."""
