"""Measures of candidates, in three rooms (latents, likelihood, samples), on one study; verdicts above them."""
