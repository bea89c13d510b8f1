"""Statistics of samples: estimates with errors, resampling, two-sample tests, Pareto tails, logistic regression."""
