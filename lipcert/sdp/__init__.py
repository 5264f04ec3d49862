"""LipSDP at full scale: the dual sweep (sweep.py), its certificate (riccati.py), and the loop that joins them (solve.py)."""
