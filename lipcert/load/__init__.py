"""From a file or a module to a lowered graph: readers, capture, parity, lowering; and data files."""
