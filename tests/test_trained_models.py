"""Models of several makes, trained here on the digits and audited: a full-covariance posterior, a flow, a VampPrior."""

from collections.abc import Callable, Iterable

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal

import zprime
from zprime import bring, likelihoods
from zprime.results.audit import Audit, AuditSettings
from zprime.rng import stream

QUICK = AuditSettings(rows=60, samples=0, draws=200, exchange=0, members=50, simulated=0, grid=4, map=50)
D = 2


def digits() -> dict[str, Tensor]:
    from sklearn.datasets import load_digits

    x = torch.as_tensor(load_digits().data, dtype=torch.float32) / 16
    x = x[torch.randperm(len(x), generator=stream(0, "digits"))]
    return {"train": x[:1200], "selection": x[1200:1500], "heldout": x[1500:]}


def mlp(*widths: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for a, b in zip(widths[:-1], widths[1:], strict=True):
        layers += [nn.Linear(a, b), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def train(loss: Callable[[Tensor], Tensor], parameters: Iterable[Tensor], x: Tensor, steps: int = 300) -> None:
    adam = torch.optim.Adam(list(parameters), 3e-3)
    for step in range(steps):
        batch = x[torch.randint(len(x), (128,), generator=stream(step, "batch"))]
        value = loss(batch)
        adam.zero_grad()
        value.backward()
        adam.step()


def log_x(decoder: nn.Module, z: Tensor, x: Tensor) -> Tensor:
    return Independent(Normal(decoder(z), 0.2), 1).log_prob(x)


def audited(mine: bring.Brought, *kinds: str) -> Audit:
    fits = {k: zprime.fit(k, **mine.splits) for k in kinds}
    prior = {} if mine.prior is None else {"prior": mine.prior}
    return zprime.audit(fits, mine.posteriors, model=mine.model, rows=mine.rows, settings=QUICK, **prior)


def test_a_full_covariance_vae() -> None:
    """Audited with its own posterior; the likelihood gain is not below what the diagonal alone would give it."""
    torch.manual_seed(0)
    encoder, decoder = mlp(64, 64, D + D * D), mlp(D, 64, 64)

    def encode(x: Tensor) -> tuple[Tensor, Tensor]:
        raw = encoder(x)
        lower = raw[:, D:].reshape(-1, D, D).tril(-1)
        return raw[:, :D], lower + torch.diag_embed(
            raw[:, D:].reshape(-1, D, D).diagonal(dim1=1, dim2=2).clamp(-6, 2).exp()
        )

    def loss(x: Tensor) -> Tensor:
        mean, tril = encode(x)
        q = torch.distributions.MultivariateNormal(mean, scale_tril=tril)
        z = q.rsample()
        p = torch.distributions.MultivariateNormal(torch.zeros(D), torch.eye(D))
        return -(log_x(decoder, z, x) - torch.distributions.kl_divergence(q, p)).mean()

    data = digits()
    train(loss, [*encoder.parameters(), *decoder.parameters()], data["train"])
    mine = bring.modules(encode, decoder, data, gives="scale_tril", likelihood=likelihoods.Gaussian(scale=0.2))
    p = mine.posteriors["heldout"].gather()
    assert p.form == "full"
    assert float(p.scale[:, 1, 0].abs().mean()) > 0.01
    audit = audited(mine, "gaussian", "mixture")
    gain = audit.entry("mixture+p1").heldout
    assert gain.likelihood is not None
    assert gain.likelihood.gain.low > 0
    assert audit.likelihood is not None
    assert audit.surgery["train"].mean_kl.value > 1


def test_a_flow_posterior_vae() -> None:
    """q(z|x) is an affine flow of a Gaussian, conditional on x: known by draws; samples are compared with data."""
    torch.manual_seed(0)
    encoder, warp, decoder = mlp(64, 64, 2 * D), mlp(64 + 1, 32, 2), mlp(D, 64, 64)

    def encode(x: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_scale = encoder(x).chunk(2, 1)
        z = mean + log_scale.clamp(-6, 2).exp() * torch.randn_like(mean)
        log_q = Independent(Normal(mean, log_scale.clamp(-6, 2).exp()), 1).log_prob(z)
        stretch, shift = warp(torch.cat([x, z[:, :1]], 1)).tanh().chunk(2, 1)  # a coupling layer
        return torch.cat([z[:, :1], z[:, 1:] * stretch.exp() + shift], 1), log_q - stretch[:, 0]

    def loss(x: Tensor) -> Tensor:
        z, log_q = encode(x)
        return -(log_x(decoder, z, x) + Independent(Normal(torch.zeros(D), 1.0), 1).log_prob(z) - log_q).mean()

    data = digits()
    train(loss, [*encoder.parameters(), *warp.parameters(), *decoder.parameters()], data["train"])
    mine = bring.draws(encode, data, decoder, draws=8, likelihood=likelihoods.Gaussian(scale=0.2))
    assert any(s.startswith("mean KL(q||p)") for s in mine.says)
    audit = audited(mine, "gaussian", "mixture")
    gain = audit.entry("mixture+p1").heldout
    assert gain.exact_posterior is not None
    assert gain.exact_posterior.gain.value > gain.elbo.gain.value
    assert gain.likelihood is not None  # log q is known at the draws
    assert gain.likelihood.gain.value > gain.elbo.gain.value
    assert audit.verdict.decision == "undecided"  # no exchange check: simulated rows have no draws with log q
    assert audit.model.posterior == "draws"


def test_a_vampprior_vae() -> None:
    """Its learned prior is the base: N(0, I) is then a worse candidate, though the encoder never saw it."""
    torch.manual_seed(0)
    encoder, decoder = mlp(64, 64, 2 * D), mlp(D, 64, 64)
    pseudo = nn.Parameter(torch.rand(20, 64))

    def encode(x: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_variance = encoder(x).chunk(2, 1)
        return mean, log_variance.clamp(-8, 4)

    def prior() -> MixtureSameFamily:
        mean, log_variance = encode(pseudo)
        return MixtureSameFamily(
            Categorical(logits=torch.zeros(20)), Independent(Normal(mean, (0.5 * log_variance).exp()), 1)
        )

    def loss(x: Tensor) -> Tensor:
        mean, log_variance = encode(x)
        q = Independent(Normal(mean, (0.5 * log_variance).exp()), 1)
        z = q.rsample()
        return -(log_x(decoder, z, x) + prior().log_prob(z) - q.log_prob(z)).mean()

    data = digits()
    train(loss, [*encoder.parameters(), *decoder.parameters(), pseudo], data["train"])
    with torch.no_grad():
        learned = prior()
    mine = bring.modules(
        encode, decoder, data, gives="log-variance", likelihood=likelihoods.Gaussian(scale=0.2), prior=learned
    )
    audit = audited(mine, "gaussian")
    assert audit.prior.startswith("mixture")
    normal = audit.entry("standard-normal").heldout
    assert normal.likelihood is not None
    assert normal.likelihood.gain.high < 0
    assert audit.verdict.choice == "prior"


@pytest.mark.parametrize("gives", ["scale_tril", "covariance"])
def test_what_is_no_covariance_is_refused(gives: str) -> None:
    x = torch.rand(40, 3, generator=stream(0, "x"))
    bad = -torch.eye(3).expand(40, 3, 3)
    with pytest.raises(zprime.errors.ZprimeError, match="positive definite|above 0"):
        bring.modules(
            lambda x: (x, bad[: len(x)]),
            lambda z: z,
            {"train": x, "heldout": x},
            gives=gives,
            likelihood=likelihoods.Gaussian(scale=0.2),
        )
    with pytest.raises(zprime.errors.ArrayError, match=rf"a {gives} of shape \[.*, d, d\]"):
        bring.modules(lambda x: (x, x), lambda z: z, {"train": x, "heldout": x}, gives=gives)
