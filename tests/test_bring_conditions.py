"""Models that are told a class, a batch, an embedding: gains are over p(z|c), and x' is drawn under the data's c."""

import functools
import math

import pytest
import torch
from torch import nn
from torch.distributions import Independent, MultivariateNormal, Normal

from oracles import linear_gaussian
from zprime import audit, fit, sample
from zprime.bring import arrays, modules
from zprime.bring.conditions import Layout
from zprime.errors import ArrayError, UsageError
from zprime.latent import Prior
from zprime.likelihoods import Gaussian
from zprime.results.audit import AuditSettings

MODEL = linear_gaussian(D=5, d=2, var=0.3)
BETA = torch.tensor([[3.0, 0.0, -2.0, 1.0, 0.0], [0.0, 1.0, 0.0, -4.0, 2.0]]).double()
SMALL = AuditSettings(rows=60, draws=200, grid=4, map=10, simulated=200, exchange=60, samples=60)
SIZES = {"train": 300, "selection": 80, "heldout": 80}


def clean(shift: float = 1.0) -> dict[str, torch.Tensor]:
    return {s: MODEL.sample(n, seed=i)[0] + shift * MODEL.weight.sum(1) for i, (s, n) in enumerate(SIZES.items())}


def classes() -> dict[str, torch.Tensor]:
    return {s: torch.arange(n) % 2 for s, n in SIZES.items()}


def data() -> dict[str, torch.Tensor]:
    """x = W z + b + BETA[c] + noise."""
    return {s: x + BETA[classes()[s]] for s, x in clean().items()}


def encoder(x, c):
    return MODEL.posterior(x - BETA[c])


def decoder(z, c):
    return Independent(Normal(z @ MODEL.weight.T + MODEL.bias + BETA[c], MODEL.var**0.5), 1)


def test_a_conditional_model_has_the_audit_of_the_model_with_the_condition_taken_away() -> None:
    told = modules(encoder, decoder, data(), conditions=classes(), gives="std")
    plain = modules(
        lambda x: MODEL.posterior(x - BETA[0]),
        lambda z: decoder(z, torch.zeros(len(z)).long()),
        {s: x + BETA[0] for s, x in clean().items()},
        gives="std",
    )
    found = []
    for mine in (told, plain):
        fits = {k: fit(k, **mine.splits) for k in ("gaussian", "aggregated")}
        found.append(audit(fits, mine.posteriors, model=mine.model, rows=mine.rows, settings=SMALL))
    for e in found[0].entries:
        other = next(o for o in found[1].entries if o.id == e.id)
        assert e.heldout.elbo.gain.value == pytest.approx(other.heldout.elbo.gain.value, abs=1e-6)
        assert e.heldout.likelihood.gain.value == pytest.approx(other.heldout.likelihood.gain.value, abs=1e-6)
    assert found[0].log_prior.value == pytest.approx(found[1].log_prior.value, abs=1e-6)
    assert any("take the conditions of training rows at random" in s for s in told.says)


def test_density_is_under_the_condition_of_the_row_and_draws_are_under_those_of_training_rows() -> None:
    mine = modules(encoder, decoder, data(), conditions=classes(), gives="std")
    x = mine.rows["train"].x
    assert x.shape == (300, 6)
    assert torch.equal(x[:, -1].long(), classes()["train"])
    z = torch.randn(300, 2, generator=torch.Generator().manual_seed(0)).double()
    torch.testing.assert_close(
        mine.model.decode(z).log_prob(x), decoder(z, classes()["train"]).log_prob(data()["train"])
    )
    _, made = sample(mine.generator(fit("gaussian", **mine.splits).distribution), 4000, noise="draw")
    assert made[:, -1].double().mean() == pytest.approx(0.5, abs=0.05)
    for c in (0, 1):
        of_class = made[made[:, -1] == c][:, :-1].double()
        torch.testing.assert_close(of_class.mean(0), data()["train"][c::2].mean(0), rtol=0, atol=0.6)


def test_samples_are_under_the_condition_that_is_given() -> None:
    mine = modules(encoder, decoder, data(), conditions=classes(), gives="std")
    gen = mine.generator(Prior(2))
    z, x = sample(gen, 40, given=1)
    torch.testing.assert_close(x[:, :-1], decoder(z.double(), torch.ones(40).long()).mean)
    assert bool((x[:, -1] == 1).all())
    _, drawn = sample(gen, 40, given=1, noise="draw")
    assert bool((drawn[:, -1] == 1).all())
    c = (torch.arange(600) >= 520).long()  # more than are decoded at a time
    z, x = sample(gen, 600, given=c)
    torch.testing.assert_close(x[:, :-1], decoder(z.double(), c).mean)
    assert torch.equal(x[:, -1].long(), c)
    assert torch.equal(sample(gen, 600, given=c.tolist())[1], x)
    assert set(sample(gen, 40, noise="draw")[1][:, -1].tolist()) == {0, 1}  # those of the data


def test_a_given_condition_that_cannot_be_used_is_refused_in_words() -> None:
    gen = modules(encoder, decoder, data(), conditions=classes(), gives="std").generator(Prior(2))
    vectors = {s: torch.rand(n, 3) for s, n in SIZES.items()}
    vague = modules(
        lambda x, c: MODEL.posterior(x.double()),
        lambda z, c: decoder(z, 0 * z[:, 0].long()),
        data(),
        conditions=vectors,
        gives="std",
        check=False,
    ).generator(Prior(2))
    zeros = lambda z: decoder(z, 0 * z[:, 0].long())  # noqa: E731
    plain = modules(MODEL.posterior, zeros, clean(), gives="std", check=False).generator(Prior(2))
    assert torch.equal(
        sample(vague, 5, given=vectors["train"][3])[1][:, -3:], vectors["train"][3].double().expand(5, 3)
    )
    assert torch.equal(sample(vague, 5, given=vectors["train"][:5])[1][:, -3:], vectors["train"][:5].double())
    for model, given, error, text in (
        (gen, 2, UsageError, "given: expected one of 0, 1, as training rows have, got 2"),
        (gen, [0, 1], ArrayError, r"one condition, shape \[\], or one for each of 5 samples, shape \[5\], got \[2\]"),
        (vague, [0.0, 1.0], ArrayError, r"one condition, shape \[3\], or one for each of 5 samples, shape \[5, 3\]"),
        (vague, [0.0, 1.0, math.nan], ArrayError, "given: expected finite numbers"),
        (plain, 0, UsageError, "given: expected None, for this decoder takes z alone"),
    ):
        with pytest.raises(error, match=text):
            sample(model, 5, given=given)


def conditional_prior(c):
    """Means of -2 and 2, by class, in the first dimension; the second is wider."""
    loc = torch.stack([4.0 * c.double() - 2, torch.zeros(len(c)).double()], 1)
    return Independent(Normal(loc, torch.tensor([1.0, 3.0]).double()), 1)


def encoder_there(x, c):
    p = conditional_prior(c).base_dist
    mean, scale = encoder(x, c)
    return p.loc + p.scale * mean, 2 * (p.scale * scale).log()


def decoder_there(z, c):
    p = conditional_prior(c).base_dist
    return decoder((z - p.loc) / p.scale, c)


def test_a_conditional_prior_is_the_base_of_gains() -> None:
    """z -> loc(c) + scale(c) z with p(z|c) leaves every gain as it was."""
    here = modules(encoder, decoder, data(), conditions=classes(), gives="std")
    there = modules(
        encoder_there, decoder_there, data(), conditions=classes(), gives="log-variance", prior=conditional_prior
    )
    assert there.prior is None
    assert there.coordinates is None
    assert any("the prior is p(z|c), with means up to 2 and standard deviations from 1 to 3" in s for s in there.says)
    found = []
    for mine in (here, there):
        fits = {k: fit(k, **mine.splits) for k in ("gaussian", "aggregated")}
        found.append(audit(fits, mine.posteriors, model=mine.model, rows=mine.rows, settings=SMALL))
    for e in found[0].entries:
        other = next(o for o in found[1].entries if o.id == e.id)
        for of in ("elbo", "exact_posterior", "likelihood"):
            one, two = (getattr(x.heldout, of).gain.value for x in (e, other))
            assert one == pytest.approx(two, abs=1e-5), (e.name, of)


@pytest.mark.parametrize("claimed", ["std", "variance", "log-std"])
def test_a_wrong_reading_is_caught_under_a_conditional_prior(claimed: str) -> None:
    with pytest.raises((UsageError, ArrayError), match="gives: "):
        modules(encoder_there, decoder_there, data(), conditions=classes(), gives=claimed, prior=conditional_prior)


def test_codes_of_a_conditional_prior_keep_it_and_seem_to_gain_over_n_0_i() -> None:
    """Case 1 of the public questions: a in {0, 1} at odds, m = a + sqrt(.75) e, s = .5, d = 6."""
    rng, d = torch.Generator().manual_seed(0), 6
    a = {
        s: (torch.arange(n) % 2).double()[:, None] for s, n in (("train", 4000), ("selection", 1000), ("heldout", 2000))
    }
    e = {s: math.sqrt(0.75) * torch.randn(len(v), d, generator=rng, dtype=torch.float64) for s, v in a.items()}
    scale = {s: torch.full_like(v, 0.5) for s, v in e.items()}
    bare = AuditSettings(rows=2000, draws=0, map=10, simulated=0)
    after = arrays(e, scale)
    kept = audit({"g": fit("gaussian", **after.splits)}, after.posteriors, settings=bare)
    assert kept.verdict.choice == "prior"
    assert abs(kept.entry("g").heldout.elbo.gain.value) < 0.05
    # p(z|a) over N(0, I): 1/2 E a^2 = .25 nats a dimension, 1/2 E a^2 (1 - s^2) = .1875 by the exact posterior
    told = arrays(
        {s: e[s] + a[s] for s in e},
        scale,
        prior=lambda c: Normal(c.double()[:, None].expand(-1, d), 1.0),
        conditions={s: v[:, 0] for s, v in a.items()},
    )
    found = told.compare({"g": fit("gaussian", **told.splits)}, {"N(0, I)": Prior(d)}, settings=bare)
    over = found.unconditional["N(0, I)"]
    assert -over.elbo.gain.value / d == pytest.approx(0.25, abs=0.01)
    assert -over.exact_posterior.gain.value / d == pytest.approx(0.1875, abs=0.01)
    assert abs(found.conditional["g"].elbo.gain.value) < 0.05
    for s, p in told.posteriors.items():  # and so the audit is the same
        torch.testing.assert_close(p.gather().mean, after.posteriors[s].gather().mean)
        torch.testing.assert_close(p.gather().scale, after.posteriors[s].gather().scale)


class Net(nn.Module):
    """An embedding of the class beside the latents, in single precision."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(2, 5)
        self.net, self.back = nn.Linear(5, 4), nn.Linear(2, 5)

    def encode(self, x, c):
        return self.net(x - self.embed(c)).chunk(2, 1)

    def decode(self, z, c):
        return self.back(z) + self.embed(c)


def test_classes_reach_an_embedding_as_whole_numbers_and_vectors_as_they_are() -> None:
    net = Net()
    mine = modules(
        net.encode,
        net.decode,
        data(),
        conditions=classes(),
        gives="log-variance",
        likelihood=Gaussian(scale=1.0),
        check=False,
    )
    assert mine.rows["train"].x.dtype == torch.float32
    assert mine.model.decode(torch.zeros(3, 2)).sample().shape == (3, 6)
    seen = []

    def see(x, c):
        seen.append((tuple(c.shape[1:]), c.dtype))
        return MODEL.posterior(x.double())

    for c in (torch.rand(300, 3), torch.rand(300)):
        both = {s: c[:n] for s, n in SIZES.items()}
        modules(see, lambda z, c: decoder(z, 0 * z[:, 0].long()), data(), conditions=both, gives="std", check=False)
        assert set(seen) == {(tuple(c.shape[1:]), torch.float64)}
        seen.clear()


def test_images_stay_images_for_the_networks() -> None:
    layout = Layout((1, 4, 4), 3)
    x, c = torch.rand(5, 1, 4, 4), torch.rand(5, 3)
    row = layout.join(x, c)
    assert row.shape == (5, 19)
    for got, want in zip(layout.parts(row), (x, c), strict=True):
        assert torch.equal(got, want)


def test_conditions_that_cannot_be_used_are_refused_in_words() -> None:
    call = functools.partial(modules, encoder, decoder, data(), gives="std")
    few = {**classes(), "heldout": torch.zeros(3).long()}
    mixed = {**classes(), "heldout": torch.zeros(80)}
    deep = {s: torch.zeros(n, 2, 2) for s, n in SIZES.items()}
    for how, error, text in (
        ({"conditions": {"train": classes()["train"]}}, UsageError, "expected those of train, selection, heldout"),
        ({"conditions": few}, ArrayError, r"expected 80 numbers, or as many rows, in heldout, got shape \[3\]"),
        ({"conditions": mixed}, ArrayError, "expected one form in all splits"),
        ({"conditions": deep}, ArrayError, "flatten what has more dimensions"),
        ({"prior": conditional_prior}, UsageError, "expected one distribution, got a function; give the conditions"),
        (
            {"conditions": classes(), "prior": lambda c: MultivariateNormal(torch.zeros(len(c), 2), torch.eye(2))},
            UsageError,
            r"expected a function from conditions to torch Normal distributions of shape \[n, d\]",
        ),
    ):
        with pytest.raises(error, match=text):
            call(**how)
