"""Verdicts for GitHub, GitLab, JUnit, SARIF and Markdown."""
