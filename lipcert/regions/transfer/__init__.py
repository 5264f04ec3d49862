"""Centre and deviation with exact transfer matrices: normalisation, attention, gates and residual streams on regions."""
