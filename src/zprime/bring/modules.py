"""Any torch modules or callables as a trained VAE; or bare arrays."""

import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import Distribution

from zprime.arrays import blocks
from zprime.bring import readings
from zprime.bring.answers import Spelled, reading
from zprime.bring.brought import LOOK, Brought, beside, bring, look
from zprime.bring.callables import ENCODERS, Parts
from zprime.bring.conditional_priors import one_or_each
from zprime.bring.conditions import joined, spoken
from zprime.bring.coordinates import Coordinates, known
from zprime.bring.named import Likelihood, distribution_of, measured, most_likely, need_callable
from zprime.bring.places import Place, modules_of
from zprime.bring.probe import Misfit, differentiable, misfit, other_prior, probe
from zprime.bring.refusals import check_codes, check_steady
from zprime.bring.splits import need_mapping, split
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


def modules(
    encoder: ENCODERS,
    decoder: Callable[..., Any],
    data: Mapping[str, Any],
    *,
    gives: str | None = None,
    likelihood: Likelihood = None,
    labels: Mapping[str, Any] | None = None,
    groups: Mapping[str, Any] | None = None,
    prior: Given | Callable[[Tensor], Distribution] = None,
    conditions: Mapping[str, Any] | None = None,
    beta: float = 1.0,
    check: bool = True,
    seed: int = 0,
) -> Brought:
    """Bring any trained VAE: two torch modules or methods of one, or any two callables on batches of tensors.

    Modules, and the modules behind methods, partials, lambdas, DataParallel and torch.compile, are in evaluation mode
    while they compute, and as they were afterwards. Batches go to their device in their precision; what comes back is
    on the CPU, in float32 at least. A public facade: it takes as many arguments as a VAE has parts.

    Args:
        encoder: x, shape [n, *datum] -> (mean, scale), both [n, d]; or (reconstruction, mean, scale), or a dict,
            dataclass or named tuple with the usual names (mu, logvar, ...), or a torch Normal or MultivariateNormal.
        decoder: z, shape [n, d] -> a torch Distribution with a datum as its event, or what `likelihood` makes one of.
        data: `train`, the rows that the VAE was trained on, `heldout`, rows that it was not; and `selection`, if you
            have one: without it half of the held-out rows, at most 5,000, are set aside as selection split (rows that
            the VAE was trained on would flatter it). Arrays of torch, numpy or jax, lists, a torch Dataset or
            DataLoader (of rows, or of tuples that begin with one), in the units that the encoder takes.
        gives: what the second answer of the encoder is: `std`, `variance`, `log-variance` (`logvar`) or `log-std`; or,
            of shape [n, d, d], `scale_tril` (lower triangular) or `covariance`. None where the answer's names say it.
        likelihood: decoder's output -> Distribution, e.g. `zprime.likelihoods.Bernoulli()` (logits) or
            `zprime.likelihoods.Gaussian(scale=0.1)`, where `decoder` gives a plain tensor. Or a name: `bernoulli`
            (logits), `bernoulli-probs`, `poisson` (log-rates); `gaussian` and `laplace` have the scale at which the
            reconstructions of training rows are most likely.
        labels: split -> integers, for conditional kinds.
        groups: split -> one name a row, numbers or text, where rows come in groups, e.g. several of a subject: these
            are in one split, and the errors of an audit are by group.
        prior: what the VAE was trained with: ours, or a torch Distribution with one latent as its event; None is
            N(0, I). For one Gaussian all latents of what is returned are in units of the prior
            (`Brought.coordinates`); if its covariance is full those of the posteriors are full then, and this is done
            where rows x d x d is 200,000 at most. Any other is `Brought.prior`, which `audit` has to be given.
            With `conditions` also a function c -> Normal of shape [n, d]: latents are then in units of p(z|c).
        conditions: split -> c of each row, numbers or a matrix [n, k], of a model that is told it (a class, a batch, an
            embedding): `encoder(x, c)` and `decoder(z, c)`. Rows then hold x, flat, and c behind it; draws of x' take
            the c of training rows.
        beta: weight of the KL term in training, beside `likelihood`; for the check of `gives` alone.
        check: whether to check on some training rows that reconstructions are nearer to the rows than their mean is,
            and `gives` by the ELBO.
        seed: decides the selection split and the noise of the check.

    Raises:
        UsageError: a split is missing, an unknown reading, or one that the ELBO contradicts; a prior that
            cannot be used; an encoder whose answers are no Gaussian posteriors in R^d, or change with the call or the
            batch; rows that p(x|z) cannot make, or that the networks do not reconstruct.
        ArrayError: shapes that do not fit, rows that are not finite.
        NumericalError: log p(x|z) is not finite.
    """
    need_callable("encoder", encoder)
    need_callable("decoder", decoder)
    need_mapping("data", data)
    if not 0 < beta < math.inf:
        raise UsageError(f"beta: expected a number above 0, got {beta}")
    networks = [m for f in (encoder, decoder, prior) for m in modules_of(f)]
    place = Place.of(networks)
    one, per_row = one_or_each(prior, conditions)
    layout = None
    if conditions is not None:
        data, layout = joined(data, conditions)
    rows = split(data, labels or {}, groups, seed=seed, dtype=None if place is None else place.wide)
    x = rows["train"].x
    place = replace(place or Place(dtype=x.dtype), networks=(*networks, *modules_of(likelihood)))
    entries = int(x[0].numel()) - (0 if layout is None else layout.width)
    datum = tuple(x.shape[1:]) if layout is None else layout.shape
    parts = Parts(Spelled(encoder, entries), decoder, distribution_of(likelihood), place, layout, per_row, datum)
    gives = reading(gives, parts.named(x[:LOOK]))
    says: tuple[str, ...] = ()
    # at random: rows often come in an order, by class or by time
    some = x[torch.randperm(len(x), generator=stream(seed, "bring rows"))[:CHECKED].sort().values]
    if measured(likelihood):
        parts, says = _scaled(parts, likelihood, some, gives)
    model, told = parts.model(x, gives), parts.told(x, gives)
    if told is not None:
        says = (*says, *spoken(told, x))
    with torch.no_grad():
        wide = 0 if gives in readings.FULL else sum(len(r) for r in rows.values())
        at, learned = known(one, model.raw(some[:LOOK])[0].shape[1], factors=wide)
        check_steady(model.matrices, some, half=place.dtype != place.wide)
    look(model, some[:LOOK])
    with torch.no_grad():
        mean, raw = model.raw(some)
        check_codes(mean)
        probe(model.decode, some, mean, reconstructions=check)
        missed = misfit(model.decode, some, mean)
        if check and gives not in readings.FULL:
            plausible(model.decode, some, Answers(mean, raw, gives, at, learned), Loss(1 / beta, missed), seed=seed)
    spoken_of = () if missed is None else missed.says()
    if prior is None:
        spoken_of = (*spoken_of, *other_prior(mean, readings.read(raw, gives)))
    for sentence in spoken_of:
        log.warning("%s", sentence)
    if not differentiable(model.decode, some, mean):
        says = (
            *says,
            "log p(x|z) has no gradient in z: posterior modes, annealing and kinds that need it are left out",
        )
    mine = bring(model, rows, prior=learned, coordinates=at, says=(*says, *spoken_of))
    if told is None or per_row is None:
        return mine
    priors = {s: told.prior_of(r.x) for s, r in rows.items()}
    return beside(mine, priors, parts.unconditional(x, gives))


def _scaled(parts: Parts, likelihood: Likelihood, some: Tensor, gives: str) -> tuple[Parts, tuple[str, ...]]:
    """A named likelihood with the scale at which the reconstructions of some rows are most likely."""
    with torch.no_grad():
        model = parts.model(some, gives)
        scale = most_likely(likelihood, model.decode(model.raw(some)[0]), some)
    say = (
        f"p(x|z) is {likelihood} with scale {scale:.3g}, at which reconstructions of {len(some)} training rows are "
        "most likely (at the encoder's means); if the loss stands for another, give it: likelihoods.Gaussian(scale=...)"
    )
    return replace(parts, likelihood=distribution_of(likelihood, scale)), (say,)


@dataclass(frozen=True)
class Loss:
    """What log p(x|z) counted in training.

    Attributes:
        weight: beside the KL term.
        misfit: of reconstructions; None where p(x|z) has no standard deviation.
    """

    weight: float = 1.0
    misfit: Misfit | None = None

    @property
    def tempered(self) -> float:
        """The weight if p(x|z) had the standard deviation that reconstructions miss by."""
        return self.weight * (1.0 if self.misfit is None else self.misfit.tempering)

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
    mean = answers.mean
    noise = torch.randn(mean.shape, generator=stream(seed, "bring noise"), dtype=mean.dtype)

    def elbo(scale: Tensor, weight: float = loss.weight) -> Tensor:
        parts = []
        for i in blocks(len(x), BATCH):
            log_x = decode(mean[i] + scale[i] * noise[i]).log_prob(x[i])
            parts.append(weight * log_x.double() - answers.kl(i, scale))
        return torch.cat(parts)

    gives, raw, doubts = answers.gives, answers.second, loss.doubts
    if doubts and readings.better(raw, gives, lambda scale: elbo(scale, loss.tempered)) is None:
        remedy = f"With that standard deviation {gives} is right; say check=False if it is right with this one, too"
    readings.check(raw, gives, elbo, remedy=doubts + remedy)


__all__ = ["Answers", "Loss", "modules", "plausible"]
