"""The report, its schema and its formats."""
