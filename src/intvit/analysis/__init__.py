"""Measurements of operators and models against float, as numbers."""
