"""Thresholds of all tests, rules and marks of an audit, recorded in each audit."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Thresholds:
    """Thresholds of choices, verdicts and marks.

    Attributes:
        tie: nats a row; two gains that differ by less are equal.
        drift: nats; a mean log p(x) that moves by more from a quarter of the draws to all is marked as not stable.
        confidence: standard errors of the exchange check's shift that count against the candidate (one-sided 5 %).
        informative: proportion of the gain that the standard error of that shift may be.
        bet: level of the test by betting on the held-out split.
        errors: standard errors by which samples must be nearer to held-out rows, or may cover less of them.
        lost: nats; a row with a gain below this is counted as lost by the candidate.
        khat: Pareto k-hat above which a row's importance weights have a heavy tail.
        active: variance over the data of a latent's posterior mean, above which the latent is active (Burda et al.
            2016).
        copies: proportion of exact copies among generated rows from which on the copying test says `copies`.
        near: proportion of the reference rows that counts as near in the copying test.
        frechet: proportion of the prior's Frechet distance; two distances that differ by less are equal.
        accuracy: two accuracies (train on synthetic, test on real) that differ by less are equal.
        closes: proportion of the decoder's own distance that the choice of z' must close; below it the
            verdict is `none of these`.
        ignores: proportion of the data's variance; where decoder means vary over z by less, the decoder ignores z.
        least_rows: effective rows that every stored component of a fit has at least, where its settings say nothing
            else.
        level: p-value below which calibration and drift are called significant.
        duplicates: proportion of a split that may equal training rows; more is refused.
        few: real rows that the classifier gives every label at least where a public page shows proportions by label.
        edge: proportion of draws, the farthest, that a public page leaves out of the latent map.
        other_scale: times that the standard deviation of p(x|z) may be off that of unseen rows' reconstructions, before
            the verdict under theirs is told too.
        isolation: quantile of the distances between training rows below which a held-out row is a near-duplicate.
    """

    tie: float = 0.05
    drift: float = 0.2
    confidence: float = 1.645
    informative: float = 0.5
    bet: float = 0.05
    errors: float = 2.0
    lost: float = -5.0
    khat: float = 0.7
    active: float = 0.01
    copies: float = 0.1
    near: float = 0.05
    frechet: float = 0.02
    accuracy: float = 0.01
    closes: float = 0.25
    least_rows: float = 10.0
    ignores: float = 0.01
    level: float = 0.05
    duplicates: float = 0.01
    isolation: float = 0.01
    other_scale: float = 1.5
    few: int = 10
    edge: float = 0.01


THRESHOLDS = Thresholds()
"""What this version uses."""
