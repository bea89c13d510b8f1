"""Settings of an audit."""

from dataclasses import dataclass

from zprime.errors import UsageError

SPACES = ("pixels", "log-counts", "codes", "classifier", "selfsupervised")
"""Feature spaces that samples can be compared in, by name."""

ENOUGH = 300
"""Held-out rows from which on a true-positive rate at 1 % false positives is told."""

FEWEST = 40
"""Rows that a sample must have at least, to be compared with data."""


@dataclass(frozen=True)
class AuditSettings:
    """How much to measure.

    Attributes:
        rows: rows of the selection and of the held-out split that are scored, at most (drawn at random).
        draws: draws a row for the likelihood gain, a multiple of 4; 0 leaves it out.
        grid: samples of each candidate that are decoded for the pictures.
        map: codes and draws that the picture of the latent space shows; fewer in proportion above 1,024 dimensions.
        simulated: simulated rows that the encoder is calibrated on, at least 100; 0 leaves it out.
        exchange: rows that the exchange check simulates from the prior, and as many from the candidate that looks best,
            at least 50; 0 leaves it out, and then no likelihood gain is used.
        repair: rows of either split that are measured again where the check fails, with proposals from annealed chains
            that find modes of the posterior which the encoder misses; 0 leaves it out.
        ais: simulated rows on which annealing bounds log p(x) from both sides, about 5 seconds a row; 0 leaves it out.
        temperatures: of the annealing.
        samples: generated rows of each candidate that are compared with data, at least 40; 0 leaves it out.
        allow_rows: whether a latent distribution that stores functions of single training rows may be shipped.
        members: training rows that the membership attack scores, at most, each with as many draws as a held-out row; 0
            leaves it out.
        features: where they are compared: `auto`, `pixels`, `log-counts`, `codes`, `classifier` or `selfsupervised`.
        copies_limit: a candidate is cleared of copying only if the upper 95 % limit of the share of copies among its
            samples is below this.
    """

    rows: int = 1000
    draws: int = 400
    grid: int = 64
    map: int = 2000
    simulated: int = 1000
    exchange: int = 200
    repair: int = 300
    ais: int = 0
    temperatures: int = 200
    samples: int = 2000
    allow_rows: bool = False
    members: int = 500
    features: str = "auto"
    copies_limit: float = 0.1

    def check(self) -> None:
        """Raise `UsageError` for a value that cannot be used."""
        if self.rows < 2:
            raise UsageError(f"rows: expected at least 2, got {self.rows}")
        if self.draws and (self.draws % 4 or self.draws < 8):
            raise UsageError(f"draws: expected 0, or a multiple of 4 that is at least 8, got {self.draws}")
        if self.grid < 1 or self.map < 1:
            raise UsageError(f"grid and map: expected at least 1, got {self.grid} and {self.map}")
        if self.simulated and self.simulated < 100:
            raise UsageError(f"simulated: expected 0, or at least 100, got {self.simulated}")
        if self.exchange and self.exchange < 50:
            raise UsageError(f"exchange: expected 0, or at least 50 rows, got {self.exchange}")
        if self.repair < 0 or self.repair == 1:
            raise UsageError(f"repair: expected 0, or at least 2 rows, got {self.repair}")
        if self.ais < 0 or self.ais == 1:
            raise UsageError(f"ais: expected 0, or at least 2 rows, got {self.ais}")
        if self.temperatures < 1:
            raise UsageError(f"temperatures: expected at least 1, got {self.temperatures}")
        if self.samples and self.samples < FEWEST:
            raise UsageError(f"samples: expected 0, or at least {FEWEST}, got {self.samples}")
        if self.members < 0 or self.members == 1:
            raise UsageError(f"members: expected 0, or at least 2 rows, got {self.members}")
        if not 0 < self.copies_limit < 1:
            raise UsageError(f"copies_limit: expected a number above 0 and below 1, got {self.copies_limit}")
        if self.features not in ("auto", *SPACES):
            raise UsageError(f"features: expected auto, {', '.join(SPACES)}, got {self.features!r}")
