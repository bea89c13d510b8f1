"""Latent distributions with other settings, fitted while one looks: what they gain, and whether they copy."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, final

import torch
from torch import Tensor

from zprime.data import Rows
from zprime.decoders import as_decoder
from zprime.decoding import decoded
from zprime.distribution import LatentDistribution
from zprime.errors import UsageError
from zprime.latent import ExemplarsSettings, MixtureSettings, sizes
from zprime.latent.exemplars import GRID
from zprime.latent.kind import Settings, Task
from zprime.latent.selection import Codes, best_epsilon
from zprime.measure.samples.copying import Neighbours, TrainingSet, copying
from zprime.measure.samples.features import Entries
from zprime.memory import size
from zprime.posteriors import MemoryPosteriors
from zprime.results.samples import Copying
from zprime.rng import stream
from zprime.statistics.estimate import Z95
from zprime.vae import Decoder

FITTED = 5000
"""Training posteriors that a fit is made to, at most: it is to take seconds."""
SAMPLES = 400
"""Generated rows, and reconstructions, that copying is measured on, at most."""


@final
@dataclass(frozen=True, eq=False)
class Tried:
    """One latent distribution that was tried.

    Attributes:
        r: the distribution itself.
        share: of the prior in the candidate that the gain is of.
        gain: mean ELBO gain over the rows of the selection split, nats.
        stderr: its standard error; None where there is none.
        copying: of samples of the distribution itself; None where the rows are not known.
    """

    r: LatentDistribution
    share: float
    gain: float
    stderr: float | None
    copying: Copying | None

    def says(self) -> dict[str, Any]:
        """For the page: no number is of a single row."""
        half = None if self.stderr is None else Z95 * self.stderr
        nearer = None if self.copying is None else self.copying.regional
        return {
            "stored": size(self.r.bytes),
            "share": self.share,
            "gain": self.gain,
            "half": half,
            "copies": None if self.copying is None else self.copying.status == "copies",
            "nearer": None if nearer is None else [nearer.value, nearer.low, nearer.high],
        }


@final
@dataclass(frozen=True, eq=False)
class Trials:
    """Mixtures of K components and smoothed posteriors, each fitted when it is first asked for.

    They are to look at: the held-out split is not touched, and no verdict comes from here.

    Attributes:
        train: posteriors of all training rows.
        selection: of the selection split, on which gains are measured.
        prior: p(z).
        decoder: p(x|z).
        rows: the rows of `train` and `selection`, for copying; None where they are not known.
        seed: decides every random choice.
    """

    train: MemoryPosteriors
    selection: MemoryPosteriors
    prior: LatentDistribution
    decoder: Decoder
    rows: Mapping[str, Rows] | None = None
    seed: int = 0
    made: dict[tuple[str, float], Tried] = field(default_factory=dict)

    @cached_property
    def values(self) -> dict[str, list[float]]:
        """Setting -> values that may be tried."""
        found: dict[str, list[float]] = {"components": [float(k) for k in (1, *sizes.components(self._some, 0))]}
        try:
            self._task.need_form(ExemplarsSettings())
            found["bandwidth"] = [0.0, *GRID]
        except UsageError:  # codes without a width have nothing to smooth
            pass
        return found

    def tried(self, setting: str, value: float) -> Tried:
        """Fit and measure one, or take it from before.

        Raises:
            UsageError: no such setting, or none of its values.
        """
        values = self.values
        if setting not in values:
            raise UsageError(f"setting: expected one of {', '.join(values)}, got {setting!r:.40}")
        if value not in values[setting]:
            raise UsageError(
                f"{setting}: expected one of {', '.join(f'{v:g}' for v in values[setting])}, got {value:g}"
            )
        key = setting, value
        if key not in self.made:
            self.made[key] = self._measured(_settings(setting, value).fit(self._task).distribution)
        return self.made[key]

    @cached_property
    def _some(self) -> MemoryPosteriors:
        if self.train.n <= FITTED:
            return self.train
        rows = torch.randperm(self.train.n, generator=stream(self.seed, "explore", "rows"))[:FITTED]
        return self.train.take(rows.sort().values)

    @property
    def _task(self) -> Task:
        return Task(self._some, self.selection, self.prior, stream(self.seed, "explore", "fit"))

    @cached_property
    def _codes(self) -> Codes:
        return Codes.draw(self.selection, self.prior, rng=stream(self.seed, "explore", "gain"), points=5000)

    def _measured(self, r: LatentDistribution) -> Tried:
        share, gains = best_epsilon(self._codes, r)
        return Tried(r, share, gains.mean, gains.stderr, self._copying(r))

    def _copying(self, r: LatentDistribution) -> Copying | None:
        if self._training is None:
            return None
        training, reference = self._training
        z = r.sample(SAMPLES, rng=stream(self.seed, "explore", "samples"))
        return copying(training.neighbours(self._decoded(z)), reference, seed=self.seed)

    @cached_property
    def _training(self) -> tuple[TrainingSet, Neighbours] | None:
        """The training rows, and where reconstructions of the selection split lie among them."""
        if self.rows is None or self.train.n < 3:
            return None
        x = self.rows["train"].x
        some = torch.randperm(self.selection.n, generator=stream(self.seed, "explore", "reference"))[:SAMPLES]
        z = self.selection.take(some).draw(rng=stream(self.seed, "explore", "reconstructions"))
        entries = Entries.fitting(x)
        training = TrainingSet(x, self.train.mean, reference=len(some), seed=self.seed, entries=entries)
        return training, training.neighbours(self._decoded(z))

    @cached_property
    def _noise(self) -> str:
        """The mean of a discrete p(x|z) is no datum, so a draw is compared there, as an audit does."""
        assert self.rows is not None
        x = self.rows["train"].x
        discrete = bool(((x == 0) | (x == 1)).all()) or Entries.fitting(x).counts is not None
        return "draw" if discrete else "mean"

    def _decoded(self, z: Tensor) -> Tensor:
        parts = decoded(as_decoder(self.decoder), z, noise=self._noise, rng=stream(self.seed, "explore", "x"))
        return torch.cat([x.cpu() for _, x in parts])


def _settings(setting: str, value: float) -> Settings:
    if setting == "components":
        return MixtureSettings(components=int(value), restarts=1, polish=0)
    return ExemplarsSettings(bandwidth=value)
