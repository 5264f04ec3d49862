"""Certified radii: margins, constants of logit differences, and their quotients."""
