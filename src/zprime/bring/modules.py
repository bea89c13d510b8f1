"""Any torch modules or callables as a trained VAE; or bare arrays."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import Distribution

from zprime.arrays import blocks
from zprime.bring import readings
from zprime.bring.brought import LOOK, Brought, beside, bring, look
from zprime.bring.conditional_priors import one_or_each
from zprime.bring.conditions import Conditioned, Told, joined, spoken
from zprime.bring.coordinates import Coordinates, known
from zprime.bring.places import Place, back, modules_of, tensor
from zprime.bring.refusals import check_codes, check_form, check_steady
from zprime.bring.splits import split
from zprime.distribution import LatentDistribution
from zprime.errors import ArrayError
from zprime.latent.priors import Given
from zprime.measure.prior import prior_kl
from zprime.posteriors import MemoryPosteriors
from zprime.rng import stream

log = logging.getLogger("zprime")
CHECKED = 256  # rows that the reading of the scale is checked on
OFF = 3.0  # a scale of p(x|z) this many times off what reconstructions miss by is spoken of
BATCH = 512
SCALINGS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "2x - 1": lambda x: 2 * x - 1,
    "(x + 1) / 2": lambda x: (x + 1) / 2,
    "x / 255": lambda x: x / 255,
    "255 x": lambda x: 255 * x,
    "the standardised x": lambda x: (x - x.mean(0)) / x.std(0).clamp(min=1e-6),
}
"""What rows may have been to the networks in training, where they are given otherwise."""
ENCODERS = Callable[..., Any]


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
class Callables:
    """Two callables as a model, with the `encode` and `decode` that zprime needs."""

    encoder: ENCODERS
    decoder: Callable[[Tensor], Any]
    gives: str
    place: Place  # where the networks compute, and in what

    def matrices(self, x: Float[Tensor, "n *datum"]) -> list[Tensor]:
        """All matrices that the encoder answers, on the CPU and in float32 at least; two or more of one shape.

        Raises:
            ArrayError: there are not two matrices of one shape, a row for each datum.
            UsageError: it is the answer of a model whose latents are of another sort.
        """
        answer = self.encoder(self.place.go(x))
        check_form(answer, len(x))
        parts = answer if isinstance(answer, tuple | list) else []
        found = [self.place.back(t) for t in parts if hasattr(t, "shape")]
        shapes = [list(t.shape) for t in found]
        full = self.gives in readings.FULL
        if full and len(shapes) >= 2 and len(shapes[0]) == 2 and shapes[1] == [*shapes[0], shapes[0][1]]:
            return found[:2]
        if full or len(shapes) < 2 or shapes[0] != shapes[1] or len(shapes[0]) != 2 or shapes[0][0] != len(x):
            want = f"two matrices (mean and scale) of shape [{len(x)}, d]"
            if full:
                want = f"a mean of shape [{len(x)}, d] and a {self.gives} of shape [{len(x)}, d, d]"
            raise ArrayError(
                f"encode: expected {want}, got {shapes or type(answer).__name__}; wrap your encoder so that it returns "
                "(mean, scale)"
            )
        return [t for t, shape in zip(found, shapes, strict=True) if shape == shapes[0]]

    def raw(self, x: Float[Tensor, "n *datum"]) -> tuple[Tensor, Tensor]:
        """The encoder's first two answers, mean and scale as it gives them."""
        mean, second, *_ = self.matrices(x)
        return mean, second

    def encode(self, x: Float[Tensor, "n *datum"]) -> tuple[Tensor, Tensor]:
        """Mean of q(z|x), and its standard deviations or Cholesky factor."""
        mean, raw = self.raw(x)
        return mean, readings.read(raw, self.gives)

    def decode(self, z: Float[Tensor, "n d"]) -> Distribution:
        """p(x|z), with a datum as its event."""
        p = self.decoder(self.place.go(z))
        if not isinstance(p, Distribution) or p.batch_shape != z.shape[:1]:
            got = f"batch shape {list(p.batch_shape)}" if isinstance(p, Distribution) else type(p).__name__
            raise ArrayError(
                f"decode: expected a torch Distribution with batch shape [{len(z)}] and a datum as its event, got "
                f"{got}; wrap the last dimensions in torch.distributions.Independent, or give likelihood="
            )
        return back(p)


def modules(
    encoder: ENCODERS,
    decoder: Callable[..., Any],
    data: Mapping[str, Any],
    *,
    gives: str,
    likelihood: Callable[[Tensor], Distribution] | None = None,
    labels: Mapping[str, Any] | None = None,
    groups: Mapping[str, Any] | None = None,
    prior: Given | Callable[[Tensor], Distribution] = None,
    conditions: Mapping[str, Any] | None = None,
    check: bool = True,
    seed: int = 0,
) -> Brought:
    """Bring any trained VAE: two torch modules or methods of one, or any two callables on batches of tensors.

    Modules, and the modules behind methods, partials, lambdas, DataParallel and torch.compile, are put into evaluation
    mode. Batches go to their device in their precision; what comes back is on the CPU, in float32 at least. A public
    facade: it takes as many arguments as a VAE has parts.

    Args:
        encoder: x, shape [n, *datum] -> (mean, scale), both [n, d].
        decoder: z, shape [n, d] -> a torch Distribution with a datum as its event, or what `likelihood` makes one of.
        data: `train`, the rows that the VAE was trained on, `heldout`, rows that it was not; and `selection`, if you
            have one: without it half of the held-out rows, at most 5,000, are set aside as selection split (rows that
            the VAE was trained on would flatter it). Arrays of torch, numpy or jax, lists, a torch Dataset or
            DataLoader (of rows, or of tuples that begin with one), in the units that the encoder takes.
        gives: what the second answer of the encoder is: `std`, `variance`, `log-variance` or `log-std`; or, of shape
            [n, d, d], `scale_tril` (lower triangular) or `covariance`.
        likelihood: decoder's output -> Distribution, e.g. `zprime.likelihoods.Bernoulli()` (logits) or
            `zprime.likelihoods.Gaussian(scale=0.1)`, where `decoder` gives a plain tensor.
        labels: split -> integers, for conditional kinds.
        groups: split -> one name a row, numbers or text, where rows come in groups, e.g. several of a subject: these
            are in one split, and the errors of an audit are by group.
        prior: what the VAE was trained with: ours, or a torch Distribution with one latent as its event; None is
            N(0, I). For one Gaussian all latents of what is returned are in units of the prior
            (`Brought.coordinates`); if its covariance is full those of the posteriors are full then, and this is done
            up to 64 dimensions, if they fit into memory. Any other is `Brought.prior`, which `audit` has to be given.
            With `conditions` also a function c -> Normal of shape [n, d]: latents are then in units of p(z|c).
        conditions: split -> c of each row, numbers or a matrix [n, k], of a model that is told it (a class, a batch, an
            embedding): `encoder(x, c)` and `decoder(z, c)`. Rows then hold x, flat, and c behind it; draws of x' take
            the c of training rows.
        check: whether to check `gives` by the ELBO on some training rows.
        seed: decides the selection split and the noise of the check.

    Raises:
        UsageError: a split is missing, an unknown reading, or one that the ELBO contradicts; a prior that
            cannot be used; an encoder whose answers are no Gaussian posteriors in R^d, or change with the call or the
            batch.
        ArrayError: shapes that do not fit, rows that are not finite.
    """
    networks = [m for f in (encoder, decoder, prior) for m in modules_of(f)]
    place = Place.of(networks)
    one, per_row = one_or_each(prior, conditions)
    if conditions is not None:
        data, layout = joined(data, conditions)
    rows = split(data, labels or {}, groups, seed=seed, dtype=None if place is None else place.wide)
    for module in networks:
        module.eval()

    def decode(z: Tensor, *c: Tensor) -> Any:
        answer = decoder(z, *c)
        if likelihood is None:
            return answer
        return likelihood(answer if isinstance(answer, Tensor) else tensor(answer))

    some, place = rows["train"].x[:CHECKED], place or Place(dtype=rows["train"].x.dtype)
    says: tuple[str, ...] = ()
    given: Told | None = None
    if conditions is None:
        model = Callables(encoder, decode, gives, place)
    else:
        given = Told(encoder, decode, per_row, gives, layout, layout.parts(rows["train"].x)[1], place)
        model = Callables(given.encode, given.decode, gives, Place(dtype=place.wide))
        says = spoken(given, rows["train"].x)
    with torch.no_grad():
        wide = 0 if gives in readings.FULL else sum(len(r) for r in rows.values())
        at, learned = known(one, model.raw(some[:LOOK])[0].shape[1], factors=wide)
        check_steady(model.matrices, some, half=model.place.dtype != model.place.wide)
    look(model, some[:LOOK])
    with torch.no_grad():
        mean, raw = model.raw(some)
        check_codes(mean)
        if check and gives not in readings.FULL:
            plausible(model.decode, some, Answers(mean, raw, gives, at, learned), seed=seed)
        missed = misfit(model.decode, some, mean)
    for sentence in missed:
        log.warning("%s", sentence)
    says = (*says, *missed)
    mine = bring(model, rows, prior=learned, coordinates=at, says=says)
    if given is None or given.prior is None:
        return mine
    own, priors = replace(given, prior=None), {s: given.prior_of(r.x) for s, r in rows.items()}
    return beside(mine, priors, replace(model, encoder=own.encode, decoder=own.decode))


def misfit(
    decode: Callable[[Tensor], Distribution], x: Float[Tensor, "n *datum"], mean: Float[Tensor, "n d"]
) -> tuple[str, ...]:
    """Say so if the standard deviation of p(x|z) is far from the error of reconstructions: all gains depend on it.

    `mean` is the encoder's first answer to the rows `x`.
    """
    p = decode(mean)
    if isinstance(p, Conditioned):
        p, x = p.beside(x)
    try:
        if p.support is None or p.support.is_discrete:
            return ()
        missed, scale = float((x - p.mean).square().mean().sqrt()), float(p.variance.mean().sqrt())
    except NotImplementedError:  # some distributions have no moments, or no support
        return ()
    for name, other in SCALINGS.items():
        if missed > OFF * float((other(x) - p.mean).square().mean().sqrt()):
            return (
                f"reconstructions look like {name} of the rows x: they miss x by {missed:.3g} (root mean square), and "
                f"{name} by a third of that or less; were the networks trained on {name}? Give the rows so",
            )
    if not missed > 0 or 1 / OFF <= missed / scale <= OFF:
        return ()
    return (
        f"reconstructions of {len(x)} training rows miss by {missed:.3g} (root mean square), and p(x|z) has a standard "
        f"deviation of {scale:.3g}: if that is not the sigma of the loss that the VAE was trained with, gains and "
        "verdict are of another model",
    )


@torch.no_grad()
def plausible(
    decode: Callable[[Tensor], Distribution],
    x: Float[Tensor, "n *datum"],
    answers: Answers,
    *,
    weight: float = 1.0,
    seed: int = 0,
    **how: str,
) -> None:
    """Compare the claimed reading with the others by what training raised, with the same noise for all.

    Args:
        decode: p(x|z).
        x: training rows.
        answers: the encoder's to them.
        weight: of log p(x|z) beside the KL term, in training.
        seed: of the noise.
        how: `remedy`, see `readings.check`.

    Raises:
        UsageError: another reading is clearly better.
    """
    mean = answers.mean
    noise = torch.randn(mean.shape, generator=stream(seed, "bring noise"), dtype=mean.dtype)

    def elbo(scale: Tensor) -> Tensor:
        parts = []
        for i in blocks(len(x), BATCH):
            log_x = decode(mean[i] + scale[i] * noise[i]).log_prob(x[i])
            parts.append(weight * log_x.double() - answers.kl(i, scale))
        return torch.cat(parts)

    readings.check(answers.second, answers.gives, elbo, **how)


__all__ = ["Answers", "Callables", "modules", "plausible"]
