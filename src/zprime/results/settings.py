"""Settings of an audit."""

from dataclasses import dataclass, replace

from zprime.errors import UsageError

SPACES = ("pixels", "columns", "log-counts", "codes", "classifier", "selfsupervised")
"""Feature spaces that samples can be compared in, by name."""

TRAINED = ("classifier", "selfsupervised")
"""Those that a network is trained for."""

ENOUGH = 300
"""Held-out rows from which on a true-positive rate at 1 % false positives is told."""

FEWEST = 40
"""Rows that a sample must have at least, to be compared with data."""


MOST = {
    "rows": 200,
    "draws": 100,
    "grid": 16,
    "map": 500,
    "simulated": 0,
    "exchange": 100,
    "repair": 0,
    "other_scale": 0,
    "ais": 0,
    "samples": 200,
    "members": 0,
    "latent_side": False,
    "feature_networks": False,
    "bandwidth_path": False,
}
"""What a quick audit measures of everything, at most."""

PARTS = {
    "repair": "the second measurement with proposals around other modes, where the exchange check fails",
    "other_scale": "the verdict under another standard deviation of p(x|z), where reconstructions fit another",
    "simulated": "calibration of the encoder",
    "members": "the membership attack",
    "latent_side": "the latent side (what is memorised, bounds on the hole, total correlation, two-sample tests)",
    "feature_networks": "features, shares of labels and train-on-synthetic accuracy by networks trained on the rows",
    "bandwidth_path": "copying over the bandwidth",
}
"""Parts of an audit by the setting that leaves them out, where that is 0 or False."""


@dataclass(frozen=True)
class AuditSettings:
    """How much to measure.

    Attributes:
        rows: rows of the selection and of the held-out split that are scored, at most (drawn at random).
        draws: draws a row for the likelihood gain, a multiple of 4, at most; 0 leaves it out.
        first_draws: draws a row that it is first measured with; with more, up to `draws`, where they could change the
            choice on the selection split, the exchange check or an error shown. The audit keeps how many it took.
            As many as `draws`: all at once.
        grid: samples of each candidate that are decoded for the pictures.
        map: codes and draws that the picture of the latent space shows; fewer in proportion above 1,024 dimensions.
        simulated: simulated rows that the encoder is calibrated on, at least 100; 0 leaves it out.
        exchange: rows that the exchange check simulates from the prior, and as many from the candidate that looks best,
            at least 50; 0 leaves it out, and then no likelihood gain is used.
        repair: rows of either split that are measured again where the check fails, with proposals from annealed chains
            that find modes of the posterior which the encoder misses; 0 leaves it out.
        other_scale: rows of either split that gains are measured on once more, where reconstructions of unseen rows fit
            another standard deviation of a Gaussian p(x|z) by more than 1.5 times: what the verdict would be under it;
            0 leaves it out.
        ais: simulated rows on which annealing bounds log p(x) from both sides, about 5 seconds a row; 0 leaves it out.
        temperatures: of the annealing.
        samples: generated rows of each candidate that are compared with data, at least 40; 0 leaves it out.
        allow_rows: whether a latent distribution that stores functions of single training rows may be shipped.
        members: training rows that the membership attack scores, at most, each with as many draws as a held-out row; 0
            leaves it out.
        features: where they are compared: `auto`, `pixels` (of a table its `columns`), `log-counts`, `codes`,
            `classifier` or `selfsupervised`.
        copies_limit: a candidate is cleared of copying only if the upper 95 % limit of the share of copies among its
            samples is below this.
        quick: measure at most what a quick audit does, whatever else is asked for: 200 rows, 100 draws a row (more
            only where there are so many candidates that each would have none), 200 samples, and no part that takes
            long. The audit says what was left out. The rules of the verdicts are the
            same, their intervals wider.
        latent_side: whether what needs no decoder is measured beside gains and surgery: what is memorised, bounds on
            the hole, total correlation, two-sample tests.
        feature_networks: whether networks may be trained on the rows, to compare samples: a classifier of the labels,
            or one that learns without them. Else `auto` compares entries of rows, and nothing is measured by label.
        bandwidth_path: whether copying is measured over the bandwidth, from single rows to a Gaussian.
    """

    rows: int = 1000
    draws: int = 400
    first_draws: int = 52
    grid: int = 64
    map: int = 2000
    simulated: int = 1000
    exchange: int = 200
    repair: int = 300
    other_scale: int = 300
    ais: int = 0
    temperatures: int = 200
    samples: int = 2000
    allow_rows: bool = False
    members: int = 500
    features: str = "auto"
    copies_limit: float = 0.1
    quick: bool = False
    latent_side: bool = True
    feature_networks: bool = True
    bandwidth_path: bool = True

    def resolve(self) -> "AuditSettings":
        """These settings with nothing above what a quick audit measures, if they ask for one."""
        if not self.quick:
            return self
        return replace(self, **{name: min(getattr(self, name), most) for name, most in MOST.items()})

    @property
    def left_out(self) -> list[str]:
        """Parts that a whole audit has and one with these settings has not, in words."""
        return [words for name, words in PARTS.items() if not getattr(self, name)]

    @property
    def says(self) -> str:
        """Of a quick audit, that it is one, what it leaves out and how to have the rest; empty of any other."""
        if not self.quick:
            return ""
        return (
            f"this is a quick audit: at most {self.rows} rows a split with {self.draws} draws each, {self.exchange} "
            f"simulated rows for the exchange check and {self.samples} samples of each candidate. The rules of the "
            f"verdicts are those of a whole audit; their intervals are wider. Left out: {'; '.join(self.left_out)}. "
            "The whole audit is the same command without --quick (in Python without quick=True)"
        )

    def check(self) -> None:
        """Raise `UsageError` for a value that cannot be used."""
        if self.rows < 2:
            raise UsageError(f"rows: expected at least 2, got {self.rows}")
        if self.draws and (self.draws % 4 or self.draws < 8):
            raise UsageError(f"draws: expected 0, or a multiple of 4 that is at least 8, got {self.draws}")
        if self.first_draws % 4 or self.first_draws < 8:
            raise UsageError(f"first_draws: expected a multiple of 4 that is at least 8, got {self.first_draws}")
        if self.grid < 1 or self.map < 1:
            raise UsageError(f"grid and map: expected at least 1, got {self.grid} and {self.map}")
        if self.simulated and self.simulated < 100:
            raise UsageError(f"simulated: expected 0, or at least 100, got {self.simulated}")
        if self.exchange and self.exchange < 50:
            raise UsageError(f"exchange: expected 0, or at least 50 rows, got {self.exchange}")
        if self.repair < 0 or self.repair == 1:
            raise UsageError(f"repair: expected 0, or at least 2 rows, got {self.repair}")
        if self.other_scale < 0 or self.other_scale == 1:
            raise UsageError(f"other_scale: expected 0, or at least 2 rows, got {self.other_scale}")
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
        if self.features in TRAINED and not self.resolve().feature_networks:
            raise UsageError(
                f"features: {self.features} trains a network, and these settings leave that out; use auto, "
                f"{', '.join(s for s in SPACES if s not in TRAINED)}, or leave out quick and no-feature-networks"
            )
