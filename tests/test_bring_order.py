"""Encoders whose two answers are in the wrong order are refused, and right models of many kinds are not."""

import functools
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Independent, Normal
from torch.nn import functional as F

from zprime import bring
from zprime.bring.order import check_order
from zprime.bring.own import Own
from zprime.errors import ArrayError, UsageError
from zprime.likelihoods import Gaussian
from zprime.own_code import Guard
from zprime.rng import stream

LIKELIHOODS = {
    "gaussian": Gaussian(scale=0.3),
    "noise": Gaussian(scale=0.3),
    "bernoulli": "bernoulli",
    "poisson": "poisson",
}


def rows(kind: str, n: int, D: int, name: str) -> Tensor:
    """Of three factors, curved; `noise` has none."""
    rng = stream(0, kind, name)
    loadings = torch.randn(3, D, generator=stream(0, "loadings"))
    z = torch.randn(n, 3, generator=rng)
    signal = torch.tanh(z @ loadings) + 0.5 * torch.sin(2 * z @ loadings.flip(0))
    if kind == "bernoulli":
        return torch.bernoulli(torch.sigmoid(3 * signal), generator=rng)
    if kind == "poisson":
        return torch.poisson(torch.exp(1 + signal), generator=rng)
    return (signal if kind == "gaussian" else 0) + 0.3 * torch.randn(n, D, generator=rng)


class VAE(nn.Module):
    """With one hidden layer on either side, as most are that people write."""

    def __init__(self, D: int, d: int, gives: str) -> None:
        super().__init__()
        self.hidden, self.mean, self.spread = nn.Linear(D, 48), nn.Linear(48, d), nn.Linear(48, d)
        self.back, self.out, self.gives = nn.Linear(d, 48), nn.Linear(48, D), gives

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = F.relu(self.hidden(x))
        spread = self.spread(h)
        return self.mean(h), spread if self.gives == "logvar" else F.softplus(spread) + 1e-4

    def decode(self, z: Tensor) -> Tensor:
        return self.out(F.relu(self.back(z)))


@functools.cache
def trained(kind: str, D: int, d: int, gives: str = "logvar", steps: int = 400, beta: float = 1.0) -> VAE:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        vae, x = VAE(D, d, gives), rows(kind, 2000, D, "train")
        optimiser = torch.optim.Adam(vae.parameters(), 3e-3)
        for _ in range(steps):
            batch = x[torch.randint(0, len(x), (128,))]
            mean, spread = vae.encode(batch)
            std = (spread / 2).exp() if gives == "logvar" else spread
            out = vae.decode(mean + std * torch.randn_like(std))
            if kind == "bernoulli":
                missed = F.binary_cross_entropy_with_logits(out, batch, reduction="none")
            elif kind == "poisson":
                missed = out.exp() - batch * out
            else:
                missed = (out - batch).square() / (2 * 0.3**2)
            kl = 0.5 * (mean.square() + std.square() - 1 - 2 * std.log())
            loss = (missed.sum(1) + beta * kl.sum(1)).mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    return vae.eval()


def swapped(vae: VAE) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    return lambda x: vae.encode(x)[::-1]


def brought(vae: VAE, kind: str, encode: object = None, **how: object) -> bring.Brought:
    D = vae.out.out_features
    data = {"train": rows(kind, 400, D, "train"), "heldout": rows(kind, 60, D, "heldout")}
    how = {"gives": vae.gives, "likelihood": LIKELIHOODS[kind], **how}
    return bring.modules(encode or vae.encode, vae.decode, data, **how)


WRONG = "mean and (?:{}) are in the wrong order, so that encoder and decoder do not belong together: .*Swap them"


@pytest.mark.parametrize("d", [1, 2, 8, 20])
@pytest.mark.parametrize("kind", ["gaussian", "bernoulli", "poisson"])
def test_swapped_answers_are_refused(kind: str, d: int) -> None:
    vae = trained(kind, 12, d)
    with pytest.raises(UsageError, match=WRONG.format("log-variance") + r": give an encoder that answers \(mean, log-"):
        brought(vae, kind, swapped(vae))
    assert not any("in the order" in s or "another prior" in s for s in brought(vae, kind).says)
    assert brought(vae, kind, swapped(vae), check=False).posteriors["train"].n == 400


@pytest.mark.parametrize("d", [2, 8, 20])
def test_swapped_standard_deviations_are_refused_however_they_are_called(d: int) -> None:
    vae = trained("gaussian", 12, d, "std")
    with pytest.raises(
        ArrayError, match=r"Is it the mean, and the first .*Then give an encoder that answers .mean, std"
    ):
        brought(vae, "gaussian", swapped(vae))
    with pytest.raises(UsageError, match=WRONG.format("log-variance|std")):
        brought(vae, "gaussian", swapped(vae), gives="logvar")
    with pytest.raises(UsageError, match="Say gives='std'"):
        brought(vae, "gaussian", gives="logvar")
    assert brought(vae, "gaussian").says == ()


@pytest.mark.parametrize("likelihood", ["gaussian", Gaussian(scale=0.1), Gaussian(scale=0.8)])
def test_swapped_answers_are_refused_under_another_sigma_too(likelihood: object) -> None:
    vae = trained("gaussian", 12, 8)
    with pytest.raises(UsageError, match=WRONG.format("log-variance")):
        brought(vae, "gaussian", swapped(vae), likelihood=likelihood)


def test_swapped_answers_of_a_function_in_a_file_and_of_a_told_model_are_refused() -> None:
    vae, x = trained("gaussian", 12, 2), rows("gaussian", 400, 12, "train")
    answer = {"encoder": swapped(vae), "decoder": vae.decode, "gives": "logvar", "likelihood": LIKELIHOODS["gaussian"]}
    with pytest.raises(UsageError, match=WRONG.format("log-variance")):
        Own.of(answer, Guard("mymodel.py", Path("mymodel.py")), seed=0).tried(x, n=500)
    data = {"train": x, "heldout": rows("gaussian", 60, 12, "heldout")}
    told: dict[str, object] = {
        "conditions": {"train": torch.zeros(400), "heldout": torch.zeros(60)},
        "gives": "logvar",
        "likelihood": LIKELIHOODS["gaussian"],
    }
    with pytest.raises(UsageError, match=WRONG.format("log-variance")):
        bring.modules(lambda x, c: swapped(vae)(x), lambda z, c: vae.decode(z), data, **told)
    assert bring.modules(lambda x, c: vae.encode(x), lambda z, c: vae.decode(z), data, **told).says


RIGHT = {
    "one latent, one number": ("gaussian", 1, 1, "logvar", 400, 1.0),
    "tiny": ("gaussian", 3, 2, "std", 400, 1.0),
    "more latents than numbers": ("gaussian", 3, 20, "logvar", 400, 1.0),
    "collapsed: nothing to tell": ("noise", 12, 8, "logvar", 400, 1.0),
    "collapsed: a strong KL": ("gaussian", 12, 8, "logvar", 400, 100.0),
    "collapsed std": ("bernoulli", 3, 8, "std", 400, 20.0),
    "hardly trained": ("gaussian", 12, 8, "logvar", 20, 1.0),
    "not trained": ("bernoulli", 12, 20, "logvar", 0, 1.0),
    "counts": ("poisson", 3, 1, "std", 400, 1.0),
}


@pytest.mark.parametrize("name", RIGHT)
def test_right_models_are_not_refused(name: str) -> None:
    kind, D, d, gives, steps, beta = RIGHT[name]
    vae = trained(kind, D, d, gives, steps, beta)
    mine = brought(vae, kind, beta=beta)
    assert mine.posteriors["train"].n == 400
    assert not any("in the order" in s for s in mine.says)


@pytest.mark.parametrize("seed", range(4))
def test_a_decoder_that_was_not_trained_is_no_evidence(seed: int) -> None:
    """Either answer may happen to be the better one by far, and none is nearer to the rows than their mean."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        vae = VAE(12, 8, "logvar").eval()
    for encode in (vae.encode, swapped(vae)):
        brought(vae, "bernoulli", encode)


def test_a_decoder_that_takes_no_other_z_than_means_is_let_through() -> None:
    vae = trained("gaussian", 12, 2)

    def decode(z: Tensor) -> Tensor:
        if float(z.mean()) < -1:
            raise ValueError("no code")
        return vae.decode(z)

    assert float(vae.encode(rows("gaussian", 400, 12, "train"))[1].detach().mean()) < -1
    data = {"train": rows("gaussian", 400, 12, "train"), "heldout": rows("gaussian", 60, 12, "heldout")}
    assert bring.modules(vae.encode, decode, data, gives="logvar", likelihood=LIKELIHOODS["gaussian"]).says == ()


def test_where_the_order_is_not_clear_it_is_named_before_another_prior() -> None:
    """Of a collapsed model z tells nothing: codes far from N(0, I) may be either."""
    vae, x = trained("noise", 12, 8), rows("noise", 400, 12, "train")
    data = {"train": x, "heldout": rows("noise", 60, 12, "heldout")}
    how = {"data": data, "gives": "logvar", "likelihood": LIKELIHOODS["noise"]}
    constant = lambda z: vae.decode(0 * z)  # noqa: E731
    far = lambda x: (vae.encode(x)[0] + 3, vae.encode(x)[1])  # noqa: E731
    (said,) = bring.modules(far, constant, **how).says
    order, prior = "see first whether the encoder's two answers are in the order (mean, spread)", "has another prior"
    assert 0 < said.index(order) < said.index(prior)
    clear = trained("gaussian", 12, 8)
    wide = lambda x: (3 * clear.encode(x)[0], clear.encode(x)[1] + 2.2)  # noqa: E731
    how |= {"data": {s: rows("gaussian", n, 12, s) for s, n in (("train", 400), ("heldout", 60))}}
    (said,) = bring.modules(wide, lambda z: clear.decode(z / 3), **how).says
    assert prior in said
    assert order not in said


X = torch.randn(200, 4, generator=stream(0, "rows"))
ZERO, NEAR = torch.zeros(200, 4), X + 0.1


def normal(z: Tensor) -> Independent:
    return Independent(Normal(z, 1.0), 1)


def sharp_only_at_zero(z: Tensor) -> Independent:
    """So wide elsewhere that nearer means are less likely."""
    return Independent(Normal(z, torch.where(z == 0, 1.0, 9.0)), 1)


def sharp_but_at_zero(z: Tensor) -> Independent:
    """So wide at 0 that other means are more likely, though they are farther."""
    return Independent(Normal(torch.where(z == 0, X + 0.01, z), torch.where(z == 0, 30.0, 1.0)), 1)


def far(z: Tensor) -> Independent:
    return Independent(Normal(torch.where(z == 0, 9.0, z + 5), 1.0), 1)


def higher(mean: Tensor, scale: Tensor) -> Tensor:
    """An ELBO that is higher at the second answer."""
    return (mean == NEAR).double().sum(1)


@pytest.mark.parametrize(
    ("decode", "elbo"),
    [
        (sharp_only_at_zero, higher),
        (sharp_but_at_zero, higher),
        (far, higher),
        (normal, lambda mean, scale: -higher(mean, scale)),
        (normal, lambda mean, scale: 0 * higher(mean, scale)),
    ],
    ids=["log p lower", "farther", "farther than the mean of rows", "ELBO lower", "ELBO the same"],
)
def test_only_what_is_better_in_every_way_is_refused(decode: Callable, elbo: Callable) -> None:
    with pytest.raises(UsageError, match=r"its second by only 0.1, .* 4.0 nats a row higher. Swap them: give"):
        check_order(normal, X, (ZERO, NEAR), "log-variance", higher)
    check_order(decode, X, (ZERO, NEAR), "log-variance", elbo)


def test_the_order_is_clear_where_the_first_is_the_better_one() -> None:
    assert check_order(normal, X, (NEAR, ZERO), "log-variance", higher)
    assert not check_order(normal, X, (ZERO, ZERO), "log-variance", higher)
