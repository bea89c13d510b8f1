"""Any torch modules or callables as a trained VAE; or bare arrays."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor
from torch.distributions import Distribution

from zprime.arrays import need_positive
from zprime.bring.answers import Spelled
from zprime.bring.brought import Brought, beside
from zprime.bring.callables import ENCODERS, Parts
from zprime.bring.conditional_priors import one_or_each
from zprime.bring.conditions import joined
from zprime.bring.encoded import bring
from zprime.bring.named import Likelihood, distribution_of, need_callable
from zprime.bring.places import Place, modules_of
from zprime.bring.refusals import check_no_flow
from zprime.bring.splits import need_mapping, split
from zprime.bring.trial import Claims, tried
from zprime.calls import called
from zprime.latent.priors import Given


@called("bring.modules", instead="a VAE in one object goes to bring.model")
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
        check: whether to check on some training rows that reconstructions are not far from the rows (those no nearer
            than the mean row are told), and `gives` by the ELBO.
        seed: decides the selection split and the noise of the check.

    Raises:
        UsageError: a split is missing, the encoder is that of a VAE of zprime with flow posteriors, an unknown
            reading, or one that the ELBO contradicts; a prior that cannot be used; an encoder whose answers are no
            Gaussian posteriors in R^d, or change with the call or the batch; rows that p(x|z) cannot make, or that the
            networks do not reconstruct.
        ArrayError: shapes that do not fit, rows that are not finite.
        NumericalError: log p(x|z) is not finite.
    """
    need_callable("encoder", encoder)
    check_no_flow(encoder)
    need_callable("decoder", decoder)
    need_mapping("data", data)
    need_positive("beta", beta)
    networks = [m for f in (encoder, decoder, prior) for m in modules_of(f)]
    place = Place.of(networks)
    one, per_row = one_or_each(prior, conditions)
    layout = None
    if conditions is not None:
        data, layout = joined(data, conditions)
    rows = split(data, labels, groups, seed=seed, dtype=None if place is None else place.wide)
    x = rows["train"].x
    place = replace(place or Place(dtype=x.dtype), networks=(*networks, *modules_of(likelihood)))
    entries = int(x[0].numel()) - (0 if layout is None else layout.width)
    datum = tuple(x.shape[1:]) if layout is None else layout.shape
    parts = Parts(Spelled(encoder, entries), decoder, distribution_of(likelihood), place, layout, per_row, datum)
    claims = Claims(gives, likelihood, one, beta, check, seed)
    found = tried(parts, x, claims, n=sum(len(r) for r in rows.values()))
    told = found.told
    says, seconds = found.says, found.seconds
    mine = bring(found.model, rows, prior=found.prior, coordinates=found.coordinates, says=says, seconds=seconds)
    if told is None or per_row is None:
        return mine
    priors = {s: told.prior_of(r.x) for s, r in rows.items()}
    return beside(mine, priors, found.parts.unconditional(x, found.gives))
