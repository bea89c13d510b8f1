"""Measures of generated rows x': how faithful they are, and whether they copy."""
