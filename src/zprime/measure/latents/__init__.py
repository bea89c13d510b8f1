"""Measures of the posteriors and of r(z): none of them needs a decoder."""
