"""What the page shows, from posteriors, a decoder and latent distributions; each answer is ready for JSON."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from zprime.decoders import as_decoder
from zprime.decoding import decoded
from zprime.distribution import LatentDistribution, is_standard
from zprime.errors import ArrayError, UsageError
from zprime.exploring.paths import straight, through
from zprime.exploring.scene import Axes, numbers, shown
from zprime.exploring.trying import Trials, Tried
from zprime.latent import ProductOfExpertsSettings
from zprime.latent.active import active_dimensions
from zprime.latent.kind import Task
from zprime.measure.prior import prior_log_prob
from zprime.posteriors import MemoryPosteriors, Posteriors
from zprime.rng import stream
from zprime.sampling import GenerativeModel

ROWS, DRAWS = 600, 400
"""Training rows, and draws of each distribution, on the map at most."""
NUMBERS = 600_000
"""Numbers that the page is sent for the map at first, at most: some megabytes."""
STOPS = 12
"""Points of a way from one datum to another, its ends among them."""
SHARED = 64
"""Rows that may share one latent, at most."""
FAR = 1e4
"""Largest coordinate of a z that is decoded."""
LATENTS = 4000
"""Latent dimensions at most: a request holds a whole z."""
COLUMNS = 60
"""Columns of a table that are shown."""


def pick(posteriors: Posteriors, sources: int, *, seed: int = 0) -> Int[Tensor, " m"]:
    """Positions of the training rows that the map shows, in order: 600 at most, fewer in many dimensions."""
    n = min(ROWS, posteriors.n, _points(posteriors.d, sources))
    return torch.randperm(posteriors.n, generator=stream(seed, "explore", "map"))[:n].sort().values


def _points(d: int, sources: int) -> int:
    return max(20, NUMBERS // (d * (sources + 2)))


@final
@dataclass(frozen=True, eq=False)
class Explorer:
    """A latent space to look at.

    Attributes:
        posteriors: of the training rows that the map shows, one a datum.
        model: the decoder, the units of x, and the prior as its latent distribution.
        sources: name -> a distribution that z' may be drawn from, beside the prior.
        choice: the one that is shown first.
        x: the rows of `posteriors`, in the units that the model sees; None where they are not known.
        columns: names of the columns of a table.
        name: of the run.
        trials: what else may be fitted while one looks; None for nothing.
        seed: decides the draws.
    """

    posteriors: MemoryPosteriors
    model: GenerativeModel
    sources: Mapping[str, LatentDistribution]
    choice: str = "prior"
    x: Float[Tensor, "n *datum"] | None = None
    columns: Sequence[str] = ()
    name: str = ""
    trials: Trials | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        """Raise `ArrayError` or `UsageError` where the parts do not belong together, or z has too many dimensions."""
        if self.prior.d > LATENTS:
            raise UsageError(f"explore: expected at most {LATENTS:,} latents, got {self.prior.d:,}; see zprime report")
        if self.x is not None and len(self.x) != self.posteriors.n:
            raise ArrayError(f"x: expected {self.posteriors.n} rows, as posteriors has, got {len(self.x)}")
        self.source(self.choice)

    @property
    def prior(self) -> LatentDistribution:
        """p(z)."""
        return self.model.latent

    @cached_property
    def axes(self) -> Axes:
        """What the map may be looked at along."""
        return Axes.of(self.posteriors.mean)

    def scene(self) -> dict[str, Any]:
        """All that the page needs before anything is asked: axes, codes, draws of every source."""
        p, image = self.posteriors, self.model.image
        first = {"prior": self.prior, **self.sources}
        drawn = {name: self._draws(r) for name, r in first.items()}
        columns, span = self._columns(drawn[self.choice])
        return {
            "name": self.name,
            "d": p.d,
            "image": None if image is None else list(image),
            "columns": columns,
            "span": span,
            "axes": {"names": list(self.axes.names), "directions": [numbers(u) for u in self.axes.directions.T]},
            "standard": is_standard(self.prior),
            "sources": [{"name": n, "label": r.label, "draws": drawn[n]} for n, r in first.items()],
            "choice": self.choice,
            "rows": {
                "ids": p.row_ids.tolist(),
                "labels": None if p.labels is None else p.labels.tolist(),
                "z": [numbers(z) for z in p.mean],
            },
            "most": {"shared": SHARED},
            "tries": {} if self.trials is None else self.trials.values,
        }

    def decode(self, z: Sequence[float], source: str = "prior") -> dict[str, Any]:
        """The mean of p(x|z) as the page shows it, and log r(z) - log p(z) of a source, nats, where it has a density.

        Raises:
            UsageError: not d finite numbers up to 10,000, or no such source.
        """
        r, point = self.source(source), torch.tensor(list(z), dtype=torch.float64)
        if len(point) != self.prior.d:
            raise UsageError(f"z: expected {self.prior.d} numbers, got {len(point)}")
        if not bool((point.abs() <= FAR).all()):
            raise UsageError(f"z: expected finite numbers from {-FAR:g} to {FAR:g}, got others")
        z_ = point.to(self.posteriors.mean)[None]
        return {"x": self._shown(z_)[0], "log_ratio": self._log_ratio(z_, r)[0]}

    def row(self, at: int) -> dict[str, Any]:
        """A datum: x where it is known, the mean of its posterior decoded, and the posterior along all axes.

        Raises:
            UsageError: no such row on the map.
        """
        (i,), p = self._rows([at]).tolist(), self.posteriors
        x = None if self.x is None else shown(self._units(self.x[i]), image=self.model.image is not None)
        posterior = None if p.form == "points" else self.axes.gaussian(p.mean[i], p.scale[i])
        return {"x": x, "made": self._shown(p.mean[i : i + 1])[0], "z": numbers(p.mean[i]), "posterior": posterior}

    def shared(self, rows: Sequence[int]) -> dict[str, Any]:
        """p(z|D) of one latent that some rows D share: the product of experts, which is exact if the encoder is.

        Returns:
            `ok`; what it `says`, where it is no density or not known; else the Gaussian along all axes, its mean `z`,
            and x `made` from that.

        Raises:
            UsageError: no rows, more than 64, one twice, or none of the map.
        """
        at, p = self._rows(rows), self.posteriors
        if p.form == "points":
            return {
                "ok": False,
                "says": "Posteriors are known by draws, or codes without a posterior: what data share is not known.",
            }
        if not is_standard(self.prior):
            return {
                "ok": False,
                "says": f"It is known in closed form under N(0, I) only; the prior is {self.prior.label}.",
            }
        some = p.take(at)
        fit = ProductOfExpertsSettings().fit(Task(some, some, self.prior, stream(self.seed, "explore", "shared")))
        if not fit.outcome.ok:
            return {"ok": False, "says": f"{fit.outcome.message}."}
        parts = fit.distribution.tensors()
        posterior = self.axes.gaussian(parts["mean"], parts["scale"])
        made = self._shown(parts["mean"][None])[0]
        return {"ok": True, "says": "", "z": numbers(parts["mean"]), "posterior": posterior, "made": made}

    def between(self, start: int, end: int, source: str) -> dict[str, Any]:
        """Two ways from the mean of one row's posterior to that of another: straight, and through draws of a source.

        Returns:
            `straight` and `through`: for every stop `z`, `x` and `log_ratio`, log r(z) - log p(z) in nats or None.

        Raises:
            UsageError: no such rows or source.
        """
        r, at = self.source(source), self._rows([start, end])
        a, b = self.posteriors.mean[at]
        draws = r.sample(DRAWS, rng=stream(self.seed, "explore", r.label))
        dims = active_dimensions(self.posteriors) or None
        ways = {"straight": straight(a, b, STOPS), "through": through(a, b, draws, STOPS, dims=dims)}
        found = {}
        for way, z in ways.items():
            points = z.to(self.posteriors.mean)
            stops = zip(points, self._shown(points), self._log_ratio(points, r), strict=True)
            found[way] = [{"z": numbers(p), "x": x, "log_ratio": g} for p, x, g in stops]
        return found

    def trying(self, setting: str, value: float) -> dict[str, Any]:
        """Fit with another setting: its gain on the selection split, whether it copies, and draws as a new source.

        Raises:
            UsageError: nothing may be tried, or not this.
        """
        if self.trials is None:
            raise UsageError("setting: nothing may be tried here")
        tried = self.trials.tried(setting, value)
        source = {"name": _name(setting, value), "label": tried.r.label, "draws": self._draws(tried.r)}
        return {**tried.says(), "source": source}

    def source(self, name: str) -> LatentDistribution:
        """The distribution called `name`: `prior`, one of the sources, or what was tried.

        Raises:
            UsageError: there is none.
        """
        known = {"prior": self.prior, **self.sources, **{n: t.r for n, t in self._tried.items()}}
        if name not in known:
            raise UsageError(f"source: expected one of {', '.join(known)}, got {name!r:.80}")
        return known[name]

    @property
    def _tried(self) -> dict[str, Tried]:
        return {} if self.trials is None else {_name(*key): t for key, t in self.trials.made.items()}

    def _rows(self, rows: Sequence[int]) -> Int[Tensor, " m"]:
        """Positions on the map, checked."""
        n = self.posteriors.n
        if not 1 <= len(rows) <= SHARED or len(set(rows)) < len(rows) or not all(0 <= i < n for i in rows):
            raise UsageError(f"rows: expected 1 to {SHARED} different numbers from 0 to {n - 1}, got others")
        return torch.tensor(list(rows), dtype=torch.long)

    def _draws(self, r: LatentDistribution) -> list[list[float]]:
        n = min(DRAWS, _points(r.d, len(self.sources)))
        return [numbers(z) for z in r.sample(n, rng=stream(self.seed, "explore", r.label))]

    def _log_ratio(self, z: Float[Tensor, "n d"], r: LatentDistribution) -> list[float | None]:
        if r.density == "none":
            return [None] * len(z)
        prior = self.prior
        found: list[float | None] = list(numbers(r.log_prob(z) - prior_log_prob(prior, z)))
        return found

    def _decoded(self, z: Float[Tensor, "n d"]) -> Float[Tensor, "n *datum"]:
        """Means of p(x|z), in the units in which x is shown."""
        rng = stream(self.seed, "explore", "decode")  # of conditions, where a decoder is told some
        parts = decoded(as_decoder(self.model.decoder), z, noise="mean", rng=rng)
        return self._units(torch.cat([x.cpu() for _, x in parts]))

    def _shown(self, z: Float[Tensor, "n d"]) -> list[dict[str, Any]]:
        return [shown(x, image=self.model.image is not None) for x in self._decoded(z)]

    def _units(self, x: Float[Tensor, "*datum"]) -> Float[Tensor, "*datum"]:
        """From the units that the model sees: those of an image are 0 to 1; else to the units of the data."""
        return x if self.model.image is not None else self.model.restore(x)

    def _columns(self, draws: list[list[float]]) -> tuple[list[str], list[list[float]]]:
        """Names of the columns, and the least and the largest value of each on the map; of a table only."""
        if self.model.image is not None:
            return [], []
        z = self.posteriors.mean
        x = [self._decoded(z), self._decoded(torch.tensor(draws).to(z))]
        x += [] if self.x is None else [self._units(self.x)]
        flat = torch.cat([part.flatten(1).double() for part in x])
        names = list(self.columns) or [f"x{j}" for j in range(flat.shape[1])]
        low, high = numbers(flat.amin(0)), numbers(flat.amax(0))
        return names[:COLUMNS], [list(pair) for pair in zip(low, high, strict=True)][:COLUMNS]


def _name(setting: str, value: float) -> str:
    return f"{setting} {value:g}"
