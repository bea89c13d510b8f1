"""Measures of log p(x): gains over the prior, and what encoder and estimator are worth."""
