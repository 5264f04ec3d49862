"""What `import lipcert` offers, with its signatures spelled out. Light: torch loads with the first model."""
