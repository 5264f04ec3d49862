"""Which inputs to split, and where."""
