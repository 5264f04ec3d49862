"""What is asked of a network (`question`), and what a rule asks of reports (`wanted`). Nothing numerical."""
