"""Encoder, decoder and p(x|z), tried on some training rows before all rows are encoded."""

import functools
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import Distribution

from zprime.arrays import blocks
from zprime.bring import readings
from zprime.bring.answers import reading
from zprime.bring.callables import Callables, Parts
from zprime.bring.conditions import Told, spoken
from zprime.bring.coordinates import Coordinates, known
from zprime.bring.encoded import LOOK, look
from zprime.bring.logits import of_tanh
from zprime.bring.misfit import Misfit, misfit
from zprime.bring.named import USUAL, Likelihood, distribution_of, measured, most_likely, plain
from zprime.bring.nearness import no_nearer
from zprime.bring.order import check_order
from zprime.bring.probe import compare, differentiable, encodes_with_gradient, other_prior, probe
from zprime.bring.refusals import check_codes, check_steady
from zprime.distribution import LatentDistribution
from zprime.errors import UsageError
from zprime.latent.priors import Given
from zprime.measure.prior import prior_kl
from zprime.posteriors import MemoryPosteriors
from zprime.rng import stream

log = logging.getLogger("zprime")
CHECKED = 256  # rows that the reading of the scale is checked on
NEAR = 1.5  # the same before a reading is doubted
BATCH = 512


@dataclass(frozen=True)
class Claims:
    """What is said of encoder and decoder, and is tried: see `modules`.

    `words` says sentences as they are written where the model was described.
    """

    gives: str | None = None
    likelihood: Likelihood = None
    prior: Given = None
    beta: float = 1.0
    check: bool = True
    seed: int = 0
    words: Callable[[str], str] = str


@dataclass(frozen=True)
class Tried:
    """A model that was tried.

    Attributes:
        parts: what it consists of, with a p(x|z) that has its scale.
        model: encoder and decoder, with their own latents.
        gives: what the second answer of the encoder is.
        scale: of a p(x|z) that was given by name alone, as measured; None for others.
        coordinates: in which the prior is N(0, I); None for the model's own.
        prior: in them, where it is not N(0, I).
        says: what to know of it: sentences.
        seconds: that the encoder took for a row.
        told: encoder, decoder and prior that are told conditions; None without any.
    """

    parts: Parts
    model: Callables
    gives: str
    scale: float | None = None
    coordinates: Coordinates | None = None
    prior: LatentDistribution | None = None
    says: tuple[str, ...] = ()
    seconds: float = 0.0
    told: Told | None = None


def tried(parts: Parts, x: Float[Tensor, "n *datum"], claims: Claims, *, n: int) -> Tried:
    """Try a model on some training rows.

    Args:
        parts: encoder and decoder, and p(x|z) as far as it is known.
        x: all training rows.
        claims: what is said of the model.
        n: rows of all splits, which decide whether a prior with a full covariance is taken for the unit.

    Raises:
        UsageError: as for `modules`.
        ArrayError: as for `modules`.
        NumericalError: log p(x|z) is not finite.
    """
    gives = reading(claims.gives, parts.named(x[:LOOK]))
    says: tuple[str, ...] = ()
    scale: float | None = None
    some = some_of(x, claims.seed)
    if measured(claims.likelihood):
        parts, scale, says = _scaled(parts, claims.likelihood, some, gives)
    model, told = parts.model(x, gives), parts.told(x, gives)
    if told is not None:
        says = (*says, *spoken(told, x))
    with torch.no_grad():
        wide = 0 if gives in readings.FULL else n
        at, learned = known(claims.prior, model.raw(some[:LOOK])[0].shape[1], factors=wide)
        check_steady(model.matrices, some, half=parts.place.dtype != parts.place.wide)
    look(model, some[:LOOK])
    with torch.no_grad():
        start = time.perf_counter()
        mean, raw = model.raw(some)
        seconds = (time.perf_counter() - start) / len(some)
        check_codes(mean)
        made = probe(model.decode, some, mean)
        ordered, weight = gives in readings.FULL, 1 / claims.beta
        answers = None if ordered else Answers(mean, raw, gives, at, learned)
        if claims.check and answers is not None:
            elbo = functools.partial(_Elbo(model.decode, some, answers, claims.seed).of, weight=weight)
            ordered = check_order(model.decode, some, (mean, raw), gives, elbo)
        if claims.check:
            compare(*made)
        missed = misfit(*made)
        if claims.check and answers is not None:
            named = "" if scale is None else plain(str(claims.likelihood))
            plausible(model.decode, some, answers, Loss(weight, missed, named), seed=claims.seed)
    spoken_of = () if missed is None else missed.says()
    wrong = of_tanh(*made) or (() if missed is not None and missed.like else no_nearer(*made))
    spoken_of = (*wrong, *spoken_of)
    if claims.prior is None and parts.prior is None and not wrong:
        spoken_of = (*spoken_of, *other_prior(mean, readings.read(raw, gives), ordered=ordered))
    for sentence in spoken_of:
        log.warning("%s", claims.words(sentence))
    if not differentiable(model.decode, some, mean):
        says = (
            *says,
            "log p(x|z) has no gradient in z: posterior modes, annealing and kinds that need it are left out",
        )
    if not encodes_with_gradient(model.raw, some):
        says = (*says, "the encoder's mean has no gradient in x: the kind vamp, which needs it, cannot be fitted")
    for sentence in says:
        log.info("%s", claims.words(sentence))
    says = tuple(map(claims.words, (*says, *spoken_of)))
    return Tried(parts, model, gives, scale, at, learned, says, seconds, told)


def some_of(x: Float[Tensor, "n *datum"], seed: int) -> Float[Tensor, "m *datum"]:
    """The rows that a model is tried on; at random, since rows often come in an order, by class or by time."""
    return x[torch.randperm(len(x), generator=stream(seed, "bring rows"))[:CHECKED].sort().values]


def _scaled(parts: Parts, likelihood: Likelihood, some: Tensor, gives: str) -> tuple[Parts, float, tuple[str, ...]]:
    """A named likelihood with the scale at which the reconstructions of some rows are most likely."""
    with torch.no_grad():
        model = parts.model(some, gives)
        scale = most_likely(likelihood, model.decode(model.raw(some)[0]), some)
    usual = USUAL[plain(str(likelihood))]
    say = (
        f"p(x|z) is {likelihood} with scale {scale:.3g}, at which reconstructions of {len(some)} training rows are "
        "most likely (at the encoder's means); if the loss stands for another, give it: "
        f"{usual.says}{usual.others}"
    )
    return replace(parts, likelihood=distribution_of(likelihood, scale)), scale, (say,)


@dataclass(frozen=True)
class Answers:
    """What an encoder answers to some rows.

    Attributes:
        mean: of q(z|x).
        second: its spread.
        gives: what the second is said to be: `std`, `variance`, `log-variance` or `log-std`.
        at: coordinates in which the prior is N(0, I); None for those of the answers.
        prior: what the KL is from, in those coordinates; None is N(0, I).
    """

    mean: Float[Tensor, "n d"]
    second: Float[Tensor, "n d"]
    gives: str
    at: Coordinates | None = None
    prior: LatentDistribution | None = None

    def kl(self, rows: slice, scale: Float[Tensor, "n d"]) -> Float[Tensor, " m"]:
        """KL(q||p) of some rows, for these standard deviations of all; nats, float64; the same draws at every call."""
        q = self.mean[rows].double(), scale[rows].double()
        at = q if self.at is None else self.at.of(*q)
        return prior_kl(self.prior, MemoryPosteriors(*at), rng=stream(0, "bring kl", rows.start))


@dataclass(frozen=True)
class Loss:
    """What log p(x|z) counted in training.

    Attributes:
        weight: beside the KL term.
        misfit: of reconstructions; None where p(x|z) has no standard deviation.
        named: the likelihood, if only its name was given and its scale is measured; empty else.
    """

    weight: float = 1.0
    misfit: Misfit | None = None
    named: str = ""

    @property
    def tempered(self) -> float:
        """The weight if p(x|z) had the standard deviation that reconstructions miss by."""
        return self.weight * (1.0 if self.misfit is None else self.misfit.tempering)

    @property
    def usual(self) -> float:
        """The weight if a likelihood by name had the scale of the usual loss, sums over entries and latents."""
        usual = USUAL.get(self.named)
        if usual is None or self.misfit is None:
            return self.weight
        return float(self.weight * (self.misfit.scale / usual.deviation) ** usual.power)

    @property
    def doubts(self) -> str:
        """What to look at before the reading of the spread is doubted."""
        if self.misfit is None or 1 / NEAR < self.misfit.missed / self.misfit.scale < NEAR:
            return ""
        m = self.misfit
        return (
            f"First look at p(x|z): its standard deviation is {m.scale:.3g}, and reconstructions miss by "
            f"{m.missed:.3g}. likelihoods.Gaussian.from_loss tells which one a loss stands for, and beta= is the "
            "weight of its KL term. "
        )


@dataclass(frozen=True)
class _Elbo:
    """What training raised, of each row, with the same noise for all means and standard deviations of q."""

    decode: Callable[[Tensor], Distribution]
    x: Float[Tensor, "n *datum"]
    answers: Answers
    seed: int

    def of(self, mean: Float[Tensor, "n d"], scale: Float[Tensor, "n d"], weight: float) -> Float[Tensor, " n"]:
        """Nats a row; `weight` is what log p(x|z) counts."""
        noise = torch.randn(mean.shape, generator=stream(self.seed, "bring noise"), dtype=mean.dtype)
        q, parts = replace(self.answers, mean=mean), []
        for i in blocks(len(self.x), BATCH):
            log_x = self.decode(mean[i] + scale[i] * noise[i]).log_prob(self.x[i])
            parts.append(weight * log_x.double() - q.kl(i, scale))
        return torch.cat(parts)


@torch.no_grad()
def plausible(
    decode: Callable[[Tensor], Distribution],
    x: Float[Tensor, "n *datum"],
    answers: Answers,
    loss: Loss,
    *,
    seed: int = 0,
    remedy: str = readings.REMEDY,
) -> None:
    """Compare the claimed reading with the others by what training raised, with the same noise for all.

    Args:
        decode: p(x|z).
        x: training rows.
        answers: the encoder's to them.
        loss: what log p(x|z) counted in training.
        seed: of the noise.
        remedy: what to do about it; `{other}` is the best reading.

    Raises:
        UsageError: another reading is clearly better.
    """
    of = functools.partial(_Elbo(decode, x, answers, seed).of, answers.mean)

    def elbo(scale: Tensor, weight: float = loss.weight) -> Tensor:
        return of(scale, weight)

    gives, raw, doubts = answers.gives, answers.second, loss.doubts
    if loss.named and (found := readings.better(raw, gives, elbo)) is not None:
        # a measured scale always fits the reconstructions, and need not be that of the loss: it is doubted first
        right = readings.better(raw, gives, lambda scale: elbo(scale, loss.usual)) is None
        raise UsageError(_other_scale(loss, answers, found, right=right))
    if doubts and readings.better(raw, gives, lambda scale: elbo(scale, loss.tempered)) is None:
        remedy = f"With that standard deviation {gives} is right; say check=False if it is right with this one, too"
    readings.check(raw, gives, elbo, remedy=doubts + remedy)


def _other_scale(loss: Loss, answers: Answers, found: tuple[str, str], *, right: bool) -> str:
    """What to say where a measured scale and `gives` contradict each other; `right` is whether the usual one fits."""
    other, gap = found
    usual, scale = USUAL[loss.named], "" if loss.misfit is None else f", {loss.misfit.scale:.3g},"
    fits = f" (with it gives={answers.gives!r} is right)" if right else ""
    return (
        f"likelihood: the standard deviation of p(x|z){scale} was measured, since only the name {loss.named!r} was "
        f"given, and need not be that of the loss: with it the ELBO of {len(answers.mean)} rows is {gap} nats a row "
        f"lower with gives={answers.gives!r} than with {other!r}. First give the p(x|z) of the loss: {usual.says}{fits}"
        f"{usual.others}; binary cross-entropy is likelihood='bernoulli-probs', or 'bernoulli' for logits. Only if the "
        f"measured one is right say gives={other!r}, or check=False if you are sure of both"
    )
