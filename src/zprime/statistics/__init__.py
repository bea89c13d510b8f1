"""Statistics of samples: estimates, resampling, two-sample tests, Pareto tails, logistic regression."""
