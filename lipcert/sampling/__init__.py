"""Measurements at points: lower values and statistics, never upper bounds."""
