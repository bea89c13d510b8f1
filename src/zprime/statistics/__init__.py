"""Statistics of samples: estimates with their errors, resampling, two-sample tests, Pareto tails, logistic regression."""
