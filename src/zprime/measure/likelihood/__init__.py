"""Measures of log p(x): gains over the prior, and the errors of encoder and estimator."""
