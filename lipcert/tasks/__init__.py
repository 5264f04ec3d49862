"""What is done with models and reports: one file per task."""
