"""Verdicts: by likelihood and for generation."""
