"""One file per command: parse, call one task, return the exit status."""
