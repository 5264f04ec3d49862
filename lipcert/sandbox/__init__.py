"""A child process that can read one file and talk to its parent, and nothing else."""
