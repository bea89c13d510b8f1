"""Measures of generated rows x': how close to the data they are, and whether they copy training rows."""
