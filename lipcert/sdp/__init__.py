"""LipSDP at full scale: a dual sweep proposes multipliers, `proofs` proves them."""
