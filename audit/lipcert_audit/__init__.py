"""An exact second checker of lipcert's certificates: integers and rationals only, no torch, nothing of lipcert."""
