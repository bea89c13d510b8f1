"""The exchange check: may the likelihood gain of a candidate be used? Measured on rows that the model itself made.

docs/theory.md, section 3. Rows are simulated from the prior and from the candidate, and encoded; the estimator of the
likelihood gain g is run on both. If g were exact, a row would have come from the candidate with probability sigma(g).
Bennett's (1976) rule says by how much g must be shifted for that to hold. An encoder that misses a mode of the
posterior, which no number of draws shows, fails here.

Where candidate and prior hardly overlap, the shift is found in steps, over bridges `r_t` in proportion to
`p^(1-t) r^t`. Those are drawn by resampling in the latent space, where both densities are known. An error of the
normaliser of a bridge is in the step before it and, with the other sign, in the step after it, so it cancels.
"""

import itertools
import math
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor

from zprime.arrays import blocks
from zprime.distribution import LatentDistribution
from zprime.encoding import is_flow
from zprime.measure.candidates import Candidates
from zprime.measure.likelihood.by_datum import ByDatum
from zprime.measure.likelihood.decoding import check_decoded, chunk, log_probs_at, log_probs_of_rows
from zprime.measure.likelihood.modes import searched
from zprime.measure.likelihood.proposal import Plan, propose
from zprime.measure.likelihood.row_draws import log_means
from zprime.measure.likelihood.simulation import SIMULATED, encode, simulate, simulate_from
from zprime.measure.prior import prior_log_prob
from zprime.measure.study import Split, Study
from zprime.posteriors import MemoryPosteriors
from zprime.results.likelihood import Exchange
from zprime.results.names import CandidateId
from zprime.results.thresholds import THRESHOLDS
from zprime.rng import fork
from zprime.statistics.bennett import bennett, spread
from zprime.statistics.estimate import Z95, Estimate, mean_estimate
from zprime.vae import Model

UNIT = "nats per row"
FINEST = 8  # steps from the prior to the candidate, at most
POOL = 20_000  # latents that bridges are drawn from: half from the prior, half from the candidate
EFFECTIVE = 10.0  # effective draws of the pool for each row of a bridge, at least: rows of a bridge share them
WHAT = "exchange check"


def exchange_check(study: Study, candidates: Candidates, wanted: CandidateId, gain: float) -> Exchange | None:
    """Simulate from the prior and from a candidate, and find by how much the likelihood gain is overstated.

    Args:
        study: with the model; says how many rows are simulated and how many draws a row the estimator takes.
        candidates: all of them, since the estimator's proposal is made of all.
        wanted: the candidate.
        gain: its gain on the selection split, nats a row: what the error of the shift is held against.

    Returns:
        None without a model, where no rows or no draws are asked for, or where `uncheckable` says why not.
    """
    settings, model = study.settings, study.model
    if model is None or not settings.exchange or not settings.draws or uncheckable(study):
        return None
    chain = Chain(study, model, candidates, wanted)
    steps = 1
    delta, stderr = chain.shift(steps)
    while stderr > THRESHOLDS.informative * abs(gain) and steps < FINEST and chain.can_refine(2 * steps):
        steps *= 2
        delta, stderr = chain.shift(steps)
    value = Estimate(
        delta, stderr, delta - Z95 * stderr, delta + Z95 * stderr, settings.exchange, UNIT, SIMULATED, study.seed
    )
    from_prior, from_candidate = chain.ends()
    return Exchange(
        name=str(wanted),
        rows=settings.exchange,
        draws=chain.draws or settings.draws,
        delta=value,
        bridges=steps - 1,
        on_prior=mean_estimate(from_prior, unit=UNIT, split=SIMULATED, seed=study.seed),
        on_candidate=mean_estimate(from_candidate, unit=UNIT, split=SIMULATED, seed=study.seed),
        informative=stderr <= THRESHOLDS.informative * abs(gain),
    )


def uncheckable(study: Study) -> str:
    """Why simulated rows cannot be encoded as the rows of the study were; empty where they can.

    The check runs the estimator of the likelihood gain on rows that the model made, and `model.encode` answers one
    Gaussian to each: where posteriors are something else, that is not the same estimator. A VAE of zprime whose
    posteriors are flows gives draws of simulated rows, with log q there, as of others.
    """
    posteriors = study.heldout.posteriors
    if posteriors.log_q is not None and is_flow(study.model):
        return ""
    if posteriors.form == "points":
        return "posteriors are known by their draws, and `model.encode` gives none of simulated rows with log q there"
    if posteriors.family is not None:
        return "posteriors have several components, and `model.encode` answers one Gaussian to a simulated row"
    return ""


@dataclass(frozen=True, eq=False)
class Terms:
    """Of k draws z for every row x, what its log p(x) is computed from, under whatever z has a density; float64, nats.

    Attributes:
        fixed: log p(x|z) less log proposal(z).
        log_r: log-density of the candidate at z.
        log_p: of the prior.
    """

    fixed: Float[Tensor, "n k"]
    log_r: Float[Tensor, "n k"]
    log_p: Float[Tensor, "n k"]


class Chain:
    """Rows simulated at places t from 0 (the prior) to 1 (the candidate), and log p of x at the places asked for."""

    def __init__(self, study: Study, model: Model, candidates: Candidates, wanted: CandidateId) -> None:
        self.study, self.model, self.candidates, self.wanted = study, model, candidates, wanted
        self.rows = study.settings.exchange
        codes = study.heldout.posteriors
        self.draws = 0 if codes.form != "points" else int(ByDatum.of(codes).count.min())  # of a flow
        self.plan = None if self.draws else Plan.of(candidates, study.settings.draws, modes=study.search)
        self.like = self._like(study.train)
        told = None if self.like is None else self.like.told
        self.pool = Pool(candidates, wanted, rng=self._rng("pool"), told=told)
        self._terms: dict[int, Terms] = {}
        self._log_prob: dict[tuple[int, int], Float[Tensor, " n"]] = {}

    def shift(self, steps: int) -> tuple[float, float]:
        """The shift over so many steps, and its standard error, nats."""
        each = FINEST // steps
        places = range(0, FINEST + 1, each)
        total = 0.0
        moves = {place: torch.zeros(self.rows, dtype=torch.float64) for place in places}
        for a, b in itertools.pairwise(places):
            one = bennett(*(self.log_prob(place, b) - self.log_prob(place, a) for place in (a, b)))
            total += one.delta
            moves[a], moves[b] = moves[a] + one.of_p, moves[b] + one.of_r
        return total, spread(list(moves.values()))

    def can_refine(self, steps: int) -> bool:
        """Whether the pool holds enough draws of every bridge."""
        places = range(0, FINEST, FINEST // steps)[1:]
        return all(self.pool.effective(place) >= EFFECTIVE * self.rows for place in places)

    def ends(self) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"]]:
        """The likelihood gain of the rows from the prior, and of those from the candidate."""
        from_prior, from_candidate = (self.log_prob(place, FINEST) - self.log_prob(place, 0) for place in (0, FINEST))
        return from_prior, from_candidate

    @torch.no_grad()
    def log_prob(self, place: int, under: int) -> Float[Tensor, " n"]:
        """Log p(x) of the rows of one place under another, by the estimator of the likelihood gain; computed once."""
        if (place, under) not in self._log_prob:
            t = self._terms_of(place)
            found = log_means(t.fixed + self.pool.log_prob(under, t.log_r, t.log_p))[0]
            self._log_prob[place, under] = found
        return self._log_prob[place, under]

    def _terms_of(self, place: int) -> Terms:
        """The rows of a place decoded, once: finer steps ask for their log p under more places."""
        if place not in self._terms:
            simulated, x = self._simulate(place)
            if self.plan is None:
                self._terms[place] = self._at_draws(simulated.posteriors, x)
                return self._terms[place]
            rng, progress = self._rng("modes", place), self.study.progress
            simulated = searched(self.study, self.candidates, simulated, rng=rng, progress=progress)
            self._terms[place] = self._decode(simulated, x, self._rng("estimate", place))
        return self._terms[place]

    def _simulate(self, place: int) -> tuple[Split, Tensor]:
        rng = self._rng("simulate", place)
        heldout = self.study.heldout
        dtype = heldout.posteriors.mean.dtype if heldout.rows is None else heldout.rows.x.dtype
        like = self.like
        if place in (0, FINEST):
            here = self.candidates.told(None if like is None else like.told)
            r: LatentDistribution = here.prior if place == 0 else here.distribution(self.wanted)
            _, rows = simulate(r, self.model, self.rows, dtype=dtype, rng=rng, like=_data(like))
        else:
            at = self.pool.pick(place, self.rows, rng=rng)
            like = None if like is None else like.take(self.pool.owner[at])
            rows = simulate_from(self.pool.z[at].to(dtype), self.model, rng=rng, like=_data(like))
        rows = replace(rows, ids=rows.ids + place * self.rows)  # equal rows of two places have noise of their own
        told = None if like is None else like.told
        return Split(SIMULATED, encode(self.model, rows, self.draws), rows, told=told), rows.x

    def _like(self, train: Split) -> Split | None:
        """Training rows whose conditions the simulated rows have; None where no candidate is told of any.

        All places have the same ones. With them beside z, a bridge is between two distributions of both.
        """
        if train.told is None:
            return None
        return train.take(torch.randint(train.n, (self.rows,), generator=self._rng("like")))

    def _at_draws(self, points: MemoryPosteriors, x: Tensor) -> Terms:
        """At draws of flows, which are the proposal, as in the gains of such posteriors."""
        assert points.log_q is not None
        self.study.progress(WHAT, 0, len(x))
        log_x = log_probs_at(self.model, points.mean, x, points.row_of).reshape(len(x), -1)
        check_decoded(log_x, torch.arange(len(x)))
        log_r = self.candidates.log_probs(points.mean)[self.wanted]
        log_p = prior_log_prob(self.candidates.prior, points.mean)
        self.study.progress(WHAT, len(x), len(x))
        log_q, log_r, log_p = (t.reshape(len(x), -1) for t in (points.log_q, log_r, log_p))
        return Terms(log_x - log_q, log_r, log_p)

    def _decode(self, simulated: Split, x: Tensor, rng: torch.Generator) -> Terms:
        posteriors, plan = simulated.posteriors, self.plan
        assert plan is not None
        found: list[tuple[Tensor, Tensor, Tensor]] = []
        for part in blocks(len(x), chunk(self.study.settings.draws)):
            self.study.progress(WHAT, part.start, len(x))
            scale = posteriors.scale[part]
            modes = None if simulated.modes is None else simulated.modes[part]
            here = self.candidates.told(None if simulated.told is None else simulated.told[part])
            drawn = propose(here, plan, posteriors.mean[part], scale, fork(rng, part.start), modes)
            log_r = here.blend_log_probs(drawn.base, drawn.prior)[self.wanted]
            log_x = log_probs_of_rows(self.model, drawn, x[part])
            check_decoded(log_x, simulated.posteriors.row_ids[part])
            found.append((log_x - drawn.proposal, log_r, drawn.prior))
        self.study.progress(WHAT, len(x), len(x))
        return Terms(*(torch.cat(parts) for parts in zip(*found, strict=True)))

    def _rng(self, *names: str | int) -> torch.Generator:
        return self.study.stream("exchange", str(self.wanted), *names)


def _data(like: Split | None) -> Tensor | None:
    """The rows themselves."""
    return None if like is None or like.rows is None else like.rows.x


class Pool:
    """Latents from prior and candidate, half and half, from which bridges between the two are resampled.

    They are drawn when a bridge first asks for them: most checks need none. Where a candidate differs by row, a latent
    belongs to one of some rows (`owner`), of which `told` is told: each row has as many, or one more.
    """

    def __init__(
        self,
        candidates: Candidates,
        wanted: CandidateId,
        *,
        rng: torch.Generator,
        told: Float[Tensor, "n k"] | None = None,
    ) -> None:
        self._candidates, self._wanted, self._rng, self._told = candidates, wanted, rng, told
        self.owner = (torch.arange(POOL // 2) % (1 if told is None else len(told))).repeat(2)

    @cached_property
    def z(self) -> Float[Tensor, "m d"]:
        """The latents, float64."""
        both = (("p", self._candidates.prior), ("r", self._r(self.owner[: POOL // 2])))
        return torch.cat([d.sample(POOL // 2, rng=fork(self._rng, name)).double() for name, d in both])

    def log_prob(self, place: int, log_r: Tensor, log_p: Tensor) -> Tensor:
        """Log of the bridge's density, from those of candidate and prior at the same latents."""
        if place in (0, FINEST):
            return log_p if place == 0 else log_r
        return self._power(place, log_r, log_p) - (torch.logsumexp(self._log_weight(place), 0) - math.log(POOL))

    def draw(self, place: int, n: int, *, rng: torch.Generator) -> Float[Tensor, "n d"]:
        """Draws of a bridge."""
        return self.z[self.pick(place, n, rng=rng)]

    def pick(self, place: int, n: int, *, rng: torch.Generator) -> Int[Tensor, " n"]:
        """Which latents of the pool are draws of a bridge."""
        share = torch.softmax(self._log_weight(place), 0)
        return torch.multinomial(share, n, replacement=True, generator=rng)

    def effective(self, place: int) -> float:
        """Effective number of draws of a bridge that the pool holds (Kish)."""
        return float(1 / torch.softmax(self._log_weight(place), 0).square().sum())

    @cached_property
    def _log_densities(self) -> tuple[Float[Tensor, " m"], Float[Tensor, " m"]]:
        """Of candidate and prior at the latents."""
        return self._r(self.owner).log_prob(self.z), prior_log_prob(self._candidates.prior, self.z)

    def _r(self, owner: Int[Tensor, " m"]) -> LatentDistribution:
        """The candidate, for the rows that latents belong to."""
        return self._candidates.told(None if self._told is None else self._told[owner]).distribution(self._wanted)

    def _log_weight(self, place: int) -> Float[Tensor, " m"]:
        log_r, log_p = self._log_densities
        return self._power(place, log_r, log_p) - (torch.logaddexp(log_r, log_p) - math.log(2))

    @staticmethod
    def _power(place: int, log_r: Tensor, log_p: Tensor) -> Tensor:
        t = place / FINEST
        return (1 - t) * log_p + t * log_r
