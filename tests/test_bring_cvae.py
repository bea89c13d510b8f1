"""A CVAE trained on scikit-learn's digits (c = class, one-hot), brought in one call, audited, and asked for a class."""

import functools

import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn
from torch.distributions import Independent, Normal

from zprime import audit, fit, sample
from zprime.bring import modules
from zprime.bring.brought import Brought
from zprime.results.audit import AuditSettings
from zprime.results.names import Gain

SCALE = 0.25
STEPS, BATCH = 1500, 128


class CVAE(nn.Module):
    """q(z|x, c), p(x|z, c) and a learned p(z|c), tiny."""

    def __init__(self) -> None:
        super().__init__()
        self.enc = nn.Sequential(nn.Linear(74, 64), nn.Tanh(), nn.Linear(64, 8))
        self.dec = nn.Sequential(nn.Linear(14, 64), nn.Tanh(), nn.Linear(64, 64))
        self.pri = nn.Linear(10, 8)

    def encode(self, x: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_var = self.enc(torch.cat([x, c], 1)).chunk(2, 1)
        return mean, log_var

    def decode(self, z: Tensor, c: Tensor) -> Independent:
        return Independent(Normal(self.dec(torch.cat([z, c], 1)), SCALE), 1)

    def prior(self, c: Tensor) -> Normal:
        loc, log_scale = self.pri(c).chunk(2, 1)
        return Normal(loc, (0.3 * log_scale).exp())


@functools.lru_cache
def digits() -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    x, y = load_digits(return_X_y=True)
    x, y = torch.from_numpy(x).float() / 16, torch.from_numpy(y)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    parts = dict(zip(("train", "selection", "heldout"), order.split([1197, 300, 300]), strict=True))
    return {s: x[i] for s, i in parts.items()}, {s: y[i] for s, i in parts.items()}


@pytest.fixture(scope="module")
def mine() -> Brought:
    x, y = digits()
    c = {s: nn.functional.one_hot(v, 10).float() for s, v in y.items()}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = CVAE()
        optimiser = torch.optim.Adam(net.parameters(), lr=3e-3)
        for _ in range(STEPS):
            at = torch.randint(len(x["train"]), (BATCH,))
            here, told = x["train"][at], c["train"][at]
            mean, log_var = net.encode(here, told)
            q, p = Normal(mean, (0.5 * log_var).exp()), net.prior(told)
            kl = torch.distributions.kl_divergence(q, p).sum(1)
            loss = (kl - net.decode(q.rsample(), told).log_prob(here)).mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    return modules(net.encode, net.decode, x, conditions=c, prior=net.prior, gives="log-variance", labels=y)


def test_a_class_that_is_given_is_the_class_that_is_drawn(mine: Brought) -> None:
    x, y = digits()
    judge = LogisticRegression(max_iter=300).fit(x["train"].numpy(), y["train"].numpy())
    assert judge.score(x["heldout"].numpy(), y["heldout"].numpy()) > 0.93
    generator = mine.generator(fit("gaussian", **mine.splits).distribution)
    wanted = torch.arange(10).repeat_interleave(30)
    _, made = sample(generator, 300, given=nn.functional.one_hot(wanted, 10))
    assert judge.score(made[:, :64].numpy(), wanted.numpy()) > 0.85
    _, threes = sample(generator, 50, given=nn.functional.one_hot(torch.tensor(3), 10))
    assert float((judge.predict(threes[:, :64].numpy()) == 3).mean()) > 0.85
    _, any_ = sample(generator, 1000, noise="draw")  # classes as in the training rows
    shares = any_[:, 64:].mean(0)
    torch.testing.assert_close(shares, nn.functional.one_hot(y["train"], 10).float().mean(0), atol=0.04, rtol=0)


def test_it_is_audited_in_one_call_and_r_of_z_stands_beside(mine: Brought) -> None:
    fits = {"gaussian": fit("gaussian", **mine.splits)}
    few = AuditSettings(rows=20, draws=80, grid=4, map=10, simulated=0, samples=0)
    found = audit(fits, mine.posteriors, model=mine.model, rows=mine.rows, settings=few)
    assert found.entry("gaussian").heldout.likelihood is not None
    many = AuditSettings(rows=200, draws=80, exchange=0)
    beside = mine.compare(fits, {"gaussian": fit("gaussian", **mine.unconditional.splits)}, settings=many)
    # the prior network knows the class, and codes differ by it
    for gain in (Gain.ELBO, Gain.LIKELIHOOD):
        told, plain = (of["gaussian"].of(gain).gain for of in (beside.conditional, beside.unconditional))
        assert told.value > plain.value, gain
