"""Adapter: VAEs trained by pythae (Chadebec, Vincent & Allassonniere 2022; written against 0.1.2)."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Bernoulli, Distribution, Independent, Normal

from zprime.bring.brought import Brought
from zprime.bring.callables import Callables
from zprime.bring.encoded import bring
from zprime.bring.places import Place
from zprime.bring.splits import split
from zprime.bring.trial import Answers, Loss, plausible, some_of
from zprime.calls import called
from zprime.decoders import evaluating
from zprime.errors import UsageError
from zprime.latent.vamp import Vamp

TRAINED: Mapping[str, str] = {
    "VAE": "",
    "BetaVAE": "",
    "VAMP": "",
    "IWAE": "an importance-weighted bound",
    "MIWAE": "an importance-weighted bound",
    "CIWAE": "an importance-weighted bound",
    "PIWAE": "an importance-weighted bound",
    "DisentangledBetaVAE": "a KL term held at a capacity",
    "BetaTCVAE": "a re-weighted KL term",
    "FactorVAE": "a KL term with a penalty on total correlation",
    "INFOVAE_MMD": "a KL term with a penalty by MMD",
}
"""pythae's model name -> what it was trained with in place of the ELBO. All: q(z|x) a diagonal Gaussian."""

REMEDY = (
    "pythae takes an encoder's log_covariance for the log of a variance. If yours gives something else, so was it "
    "trained; give its parts to bring.modules with gives={other!r}, or say check=False if you are sure"
)


def _shipped(encoder: Any) -> bool:
    """Whether the encoder is one of pythae's own, which give a log-variance."""
    return type(encoder).__module__.startswith("pythae.")


@called("bring.pythae")
def pythae(
    model: Any,
    data: Mapping[str, Any],
    *,
    labels: Mapping[str, Any] | None = None,
    groups: Mapping[str, Any] | None = None,
    check: bool = True,
    seed: int = 0,
) -> Brought:
    """Bring a VAE that pythae trained: VAE, BetaVAE, IWAE, VAMP, and others with the same encoder and decoder.

    p(x|z) is what pythae's loss stands for: `bce` is Bernoulli (on grey values no density), `mse` is Gaussian with
    variance 1, and with variance beta for a BetaVAE, since `1/2 (x - f(z))^2 + beta KL` is beta times the negative ELBO
    of that model.

    Args:
        model: as trained; put into evaluation mode.
        data: `train`, `heldout` and perhaps `selection` (see `modules`), scaled as pythae was given them.
        labels: split -> integers, for conditional kinds.
        groups: split -> one name a row (see `modules`).
        check: whether to check that an encoder of your own gives a log-variance, as pythae's do: by the ELBO on some
            training rows, for VAE and BetaVAE, which are trained by it.
        seed: decides the selection split, and the noise of the check.

    Raises:
        UsageError: a `log_covariance` that the ELBO says is something else;
            a model whose q(z|x) is no diagonal Gaussian, or whose loss stands for no p(x|z); see `split`.
        ArrayError: shapes that do not fit, rows that are not finite.
    """
    name = getattr(model, "model_name", type(model).__name__)
    if name not in TRAINED:
        raise UsageError(
            f"model: expected one whose q(z|x) is a diagonal Gaussian ({', '.join(TRAINED)}), got {name}; if yours is "
            "one after all, give its parts to bring.modules"
        )
    loss = model.model_config.reconstruction_loss
    if loss not in ("bce", "mse"):
        raise UsageError(f"model: expected a reconstruction_loss that is bce or mse, got {loss!r}")
    beta = float(model.model_config.beta) if name == "BetaVAE" else 1.0
    place = Place.of([model]) or Place()

    def encode(x: Tensor) -> tuple[Tensor, Tensor]:
        answer = model.encoder(x)
        return answer["embedding"], answer["log_covariance"]

    def decode(z: Tensor) -> Distribution:
        mean = model.decoder(z)["reconstruction"]
        p = Bernoulli(mean, validate_args=False) if loss == "bce" else Normal(mean, beta**0.5, validate_args=False)
        return Independent(p, mean.ndim - 1, validate_args=False)

    rows = split(data, labels, groups, seed=seed, dtype=place.wide)
    brought = Callables(encode, decode, "log-variance", place)
    if check and not _shipped(model.encoder) and name in ("VAE", "BetaVAE"):
        x = some_of(rows["train"].x, seed)
        with torch.no_grad():
            mean, raw = brought.raw(x)
        weight = 1 / beta if loss == "bce" else 1.0  # mse with beta is an ELBO already, of variance beta
        plausible(brought.decode, x, Answers(mean, raw, "log-variance"), Loss(weight), seed=seed, remedy=REMEDY)
    with evaluating([model]):
        prior = _vamp(model) if name == "VAMP" else None
    says = _says(name, loss, beta)
    return bring(brought, rows, prior=prior, says=says)


@torch.no_grad()
def _vamp(model: Any) -> Vamp:
    """The trained prior: the encoder's posteriors at the pseudo-inputs, of equal weight."""
    k = model.number_components
    components = model.encoder(model.pseudo_inputs(model.idle_input).reshape(k, *model.model_config.input_dim))
    return Vamp(torch.zeros(k).log_softmax(0), components["embedding"], (0.5 * components["log_covariance"]).exp())


def _says(name: str, loss: str, beta: float) -> tuple[str, ...]:
    """Sentences on which p(x|z) is used, and what q(z|x) stands for."""
    says = []
    if loss == "mse":
        says.append(
            f"p(x|z) is Gaussian with variance {beta:g}" + ("" if beta == 1 else ": mse with beta stands for that")
        )
    else:
        says.append("p(x|z) is Bernoulli; where the data are grey values, log p(x|z) is a loss and not a density")
        if beta != 1:
            says.append(
                f"trained with beta = {beta:g}: q(z|x) is no approximation of the posterior under this p(x|z), so "
                "the exact-posterior gain is neither bound nor estimate; the likelihood gain is as exact as ever"
            )
    if TRAINED[name]:
        says.append(
            f"trained with {TRAINED[name]}, not the ELBO: q(z|x) is what the encoder gives, not the q of that bound, "
            "and ELBO gain and exact-posterior gain are conditional on it"
        )
    return tuple(says)
