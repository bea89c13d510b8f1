"""How to train a VAE, as values: objective, schedules, optimiser."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from zprime.errors import UsageError
from zprime.serialise import LATER

OBJECTIVES = ("elbo", "iwae", "wae-mmd", "infovae", "rae")
LR_SCHEDULES = ("cosine", "constant")
OPTIMISERS = ("adam", "adam-normgrad")
REGULARISERS = ("l2", "spectral", "gradient")
WORDS = {
    "objective": OBJECTIVES,
    "lr_schedule": LR_SCHEDULES,
    "optimiser": OPTIMISERS,
    "regulariser": REGULARISERS,
}
"""Settings that are one of some names."""


@dataclass(frozen=True)
class TrainSettings:
    """How to train.

    Attributes:
        epochs: passes over the data; 0 takes as many as give 6,000 steps, but at least 10 and at most 600.
        batch: rows a step.
        lr: learning rate of Adam at the start; it falls to a fifth along half a cosine, unless `lr_schedule` keeps it.
        beta: weight of the KL term after the warm-up; 1 is the ELBO.
        warmup: proportion of the epochs (of each cycle) over which the KL term's weight rises from 0 to beta.
        patience: stop after this many epochs, counted from the end of the last warm-up, without a better ELBO on the
            selection split; 0 never stops early.
        checkpoint: seconds between checkpoints.
        objective: `elbo`; `iwae`, a bound of several draws; `wae-mmd` and `infovae`, a distance between codes and
            prior; or `rae`, a deterministic autoencoder, with --posterior points.
        free_bits: nats a latent dimension that cost nothing: the mean KL of a dimension over a batch counts as at
            least this much; 0 counts it as it is.
        iwae_draws: draws z a row of `iwae`.
        mmd: weight of the distance between codes and prior of `wae-mmd` and `infovae`.
        regulariser: of `rae`, on the decoder: `l2`, `spectral` or `gradient`.
        penalty: its weight.
        warmup_epochs: the warm-up in epochs, in place of the proportion; 0 takes the proportion.
        cycles: how many times the KL term's weight rises from 0, in parts of the training of the same length.
        lr_schedule: `cosine`, or `constant`.
        optimiser: `adam`, or `adam-normgrad`, which divides the gradient of each tensor by its norm first.
    """

    epochs: int = 0
    batch: int = 128
    lr: float = 3e-3
    beta: float = 1.0
    warmup: float = 0.1
    patience: int = 15
    checkpoint: float = 20.0
    objective: str = field(default="elbo", metadata=LATER)
    free_bits: float = field(default=0.0, metadata=LATER)
    iwae_draws: int = field(default=5, metadata=LATER)
    mmd: float = field(default=100.0, metadata=LATER)
    regulariser: str = field(default="l2", metadata=LATER)
    penalty: float = field(default=1e-3, metadata=LATER)
    warmup_epochs: int = field(default=0, metadata=LATER)
    cycles: int = field(default=1, metadata=LATER)
    lr_schedule: str = field(default="cosine", metadata=LATER)
    optimiser: str = field(default="adam", metadata=LATER)

    def check(self) -> None:
        """Raise `UsageError` for a value that cannot be used."""
        for name in ("epochs", "patience", "warmup_epochs"):
            if getattr(self, name) < 0:
                raise UsageError(f"{name}: expected 0 or more, got {getattr(self, name)}")
        for name in ("batch", "iwae_draws", "cycles"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name}: expected at least 1, got {getattr(self, name)}")
        for name in ("lr", "beta", "mmd"):
            if not 0 < getattr(self, name) < math.inf:
                raise UsageError(f"{name}: expected a number above 0, got {getattr(self, name)}")
        for name in ("free_bits", "penalty"):
            if not 0 <= getattr(self, name) < math.inf:
                raise UsageError(f"{name}: expected a number from 0 on, got {getattr(self, name)}")
        if not self.checkpoint >= 0:
            raise UsageError(f"checkpoint: expected a number of seconds from 0 on, got {self.checkpoint}")
        if not 0 <= self.warmup < 1:
            raise UsageError(f"warmup: expected a proportion from 0 to below 1, got {self.warmup}")
        for name, among in WORDS.items():
            if getattr(self, name) not in among:
                raise UsageError(f"{name}: expected one of {', '.join(among)}, got {getattr(self, name)!r}")
        self._check_objective()

    def _check_objective(self) -> None:
        if self.free_bits and self.objective != "elbo":
            raise UsageError(
                f"free_bits: they are of the KL term of the ELBO, and the objective is {self.objective}; leave them "
                "out, or train with --objective elbo"
            )
        if self.objective == "wae-mmd" and self.beta != 1:
            raise UsageError(
                f"beta: wae-mmd has no KL term, got {self.beta:g}; leave it out, or train with --objective infovae, "
                "which has both terms"
            )

    def plan(self, n: int) -> int:
        """Number of epochs for `n` training rows."""
        return self.epochs or max(10, min(600, 6_000 // -(-n // self.batch)))

    def schedule(self, epochs: int) -> "Schedule":
        """What changes from epoch to epoch in a training of so many.

        Raises:
            UsageError: a warm-up that is as long as a cycle, or more cycles than epochs.
        """
        if self.cycles > epochs:
            raise UsageError(f"cycles: expected at most as many as there are epochs, {epochs}, got {self.cycles}")
        period = -(-epochs // self.cycles)
        if self.warmup_epochs >= period:
            part = "" if self.cycles == 1 else f" of each of {self.cycles} cycles"
            raise UsageError(
                f"warmup_epochs: expected fewer than the {period} epochs{part}, got {self.warmup_epochs}; give more "
                "--epochs"
            )
        warm = self.warmup_epochs or math.floor(self.warmup * period)
        return Schedule(epochs, period, warm, self.beta, self.lr_schedule == "constant")


@dataclass(frozen=True)
class Schedule:
    """What changes from epoch to epoch.

    Attributes:
        epochs: of the training.
        period: epochs of a cycle; the last one may be shorter.
        warm: epochs of a cycle in which the weight of the KL term rises (Bowman et al. 2016; in cycles Fu et al. 2019).
        beta: its weight after these.
        constant: whether the learning rate does not fall.
    """

    epochs: int
    period: int
    warm: int
    beta: float
    constant: bool

    def weight(self, epoch: int) -> float:
        """Weight of the KL term in an epoch, from 1."""
        inside = (epoch - 1) % self.period + 1
        return self.beta * min(1.0, inside / (self.warm + 1))

    def fallen(self, epoch: int) -> float:
        """How far the learning rate has fallen before an epoch, from 0 to 1."""
        return 0.0 if self.constant else (epoch - 1) / self.epochs

    @property
    def settled(self) -> int:
        """The last epoch with a smaller weight than beta: patience counts from there."""
        return (self.epochs - 1) // self.period * self.period + self.warm


NO_POSTERIOR = (
    "q(z|x) is no approximation of the posterior under this p(x|z), so the exact-posterior gain is neither bound nor "
    "estimate; the likelihood gain is as exact as ever"
)
PROPOSAL = (
    "not the ELBO: q(z|x) is what the encoder gives, not the q of that bound, and ELBO gain and exact-posterior gain "
    "are conditional on it; the likelihood gain is as exact as ever"
)
CODES = (
    "the encoder gives codes without posteriors: no KL term, no surgery, no exact-posterior or likelihood gain; gains "
)
OVER = {
    "rae": "are over the Gaussian with mean and covariance of the training codes",
    "wae-mmd": "are those of log r(code) over the prior, whose draws the codes were trained to look like",
}
"""What gains of an autoencoder are over, by its objective."""


def says(training: Mapping[str, Any], posterior: str = "diagonal") -> list[str]:
    """What an audit can and cannot say of a VAE that was trained so: sentences; none after the plain ELBO.

    Args:
        training: settings by name, as a manifest has them.
        posterior: form of q(z|x).
    """
    known = {f.name for f in fields(TrainSettings)}
    told = TrainSettings(**{name: value for name, value in training.items() if name in known})
    if posterior == "points":
        return [CODES + OVER[told.objective]]
    if told.objective == "iwae":
        return [f"trained with the bound of IWAE, {told.iwae_draws} draws a row, {PROPOSAL}"]
    if told.objective == "wae-mmd":
        return [f"trained with WAE-MMD, without a KL term: {NO_POSTERIOR}"]
    sentences = []
    if told.objective == "infovae":
        weights = f"weight {told.mmd:g} of MMD beside {told.beta:g} of the KL"
        sentences.append(f"trained with InfoVAE, {weights}: {NO_POSTERIOR}")
    elif told.beta != 1:
        sentences.append(f"trained with beta = {told.beta:g}: {NO_POSTERIOR}")
    if told.free_bits:
        sentences.append(
            f"trained with {told.free_bits:g} free nats a dimension: where the KL of a dimension was below that, "
            f"{NO_POSTERIOR}"
        )
    return sentences
