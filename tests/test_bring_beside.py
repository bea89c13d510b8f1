"""An r(z) that ignores conditions beside an r(z|c), both over p(z|c): closed forms, laws, and what is refused."""

import functools
import math

import pytest
import torch
from torch import Tensor
from torch.distributions import Independent, MixtureSameFamily, Normal

from oracles import linear_gaussian
from zprime import fit, sample
from zprime.bring import arrays, modules
from zprime.bring.brought import Brought
from zprime.errors import ArrayError, UsageError
from zprime.latent import Affine, Defensive, FromTorch, Gaussian, Mixture, Prior
from zprime.results.audit import AuditSettings

MODEL = linear_gaussian(D=5, d=2, var=0.3)
SIZES = {"train": 300, "selection": 80, "heldout": 80}
QUICK = AuditSettings(draws=80, exchange=0)
ALL = AuditSettings(first_draws=400)  # all draws at once
LOC = torch.tensor([[-2.0, 0.0], [1.0, 0.5]]).double()
WIDTH = torch.tensor([[1.0, 3.0], [0.5, 1.0]]).double()


def classes() -> dict[str, Tensor]:
    return {s: torch.arange(n) % 2 for s, n in SIZES.items()}


def data() -> dict[str, Tensor]:
    return {s: MODEL.sample(n, seed=i)[0] + MODEL.weight.sum(1) for i, (s, n) in enumerate(SIZES.items())}


def decode(z):
    return Independent(Normal(z @ MODEL.weight.T + MODEL.bias, MODEL.var**0.5), 1)


def brought(shift: Tensor = LOC, width: Tensor = WIDTH) -> Brought:
    """The linear model, with z = shift[c] + width[c] u."""

    def encoder(x, c):
        mean, scale = MODEL.posterior(x)
        return shift[c] + width[c] * mean, width[c] * scale

    return modules(
        encoder,
        lambda z, c: decode((z - shift[c]) / width[c]),
        data(),
        conditions=classes(),
        prior=lambda c: Normal(shift[c], width[c]),
        gives="std",
        check=False,
    )


@pytest.fixture(scope="module")
def mine() -> Brought:
    return brought()


def test_a_conditional_prior_beats_every_r_of_z_by_the_information_of_c() -> None:
    """Case 2 of the public questions: c in {-2, 2}, z ~ N(c, 1), s = .8: .633 nats, .422 by the exact posterior."""
    rng, n = torch.Generator().manual_seed(0), {"train": 4000, "selection": 1000, "heldout": 16_000}
    c = {s: 4.0 * (torch.arange(k) % 2) - 2 for s, k in n.items()}
    mean = {s: (v + 0.6 * torch.randn(len(v), generator=rng)).double()[:, None] for s, v in c.items()}
    scale = {s: torch.full_like(v, 0.8) for s, v in mean.items()}
    mine = arrays(mean, scale, prior=lambda c: Normal(c[:, None], 1.0), conditions=c)
    assert any("the prior is p(z|c), with means up to 2" in s for s in mine.says)
    own = {k: fit(k, **mine.unconditional.splits) for k in ("gaussian", "mixture")}
    told = {"gaussian": fit("gaussian", **mine.splits)}
    found = mine.compare(told, own)
    assert list(found.unconditional) == ["marginal", "gaussian", "mixture"]
    best = found.unconditional["marginal"]
    assert best.elbo.gain.value == pytest.approx(-0.633, abs=3 * best.elbo.gain.stderr)
    assert best.exact_posterior.gain.value == pytest.approx(-0.422, abs=3 * best.exact_posterior.gain.stderr)
    assert best.elbo.gain.stderr < 0.01
    for name in own:
        other = found.unconditional[name]
        assert other.elbo.gain.value < -0.633 + 3 * other.elbo.gain.stderr
        assert other.exact_posterior.gain.value < -0.422 + 3 * other.exact_posterior.gain.stderr
    assert abs(found.conditional["gaussian"].elbo.gain.value) < 0.01


def test_exact_posterior_gain_is_that_of_quadrature_for_every_form(mine: Brought) -> None:
    """Log int q(z) r(z) / p(z|c) dz, row by row of 2 dimensions, on a grid."""
    tril = torch.tensor([[0.6, 0.0], [0.3, 0.5]]).double()
    two = Mixture(torch.tensor([0.3, 0.7]).log(), torch.tensor([[-1.0, 0.0], [1.0, 0.3]]), torch.full((2, 2), 0.5))
    r = {
        "diagonal": Gaussian(torch.tensor([-1.0, 0.2]).double(), torch.tensor([0.6, 0.7]).double()),
        "full": Gaussian(torch.tensor([-1.0, 0.2]).double(), tril),
        "mixture": two,
        "shared": Defensive(two, 0.1, mine.unconditional.prior),
        "torch": FromTorch(
            MixtureSameFamily(
                torch.distributions.Categorical(torch.tensor([0.3, 0.7])),
                Independent(Normal(torch.tensor([[-1.0, 0.0], [1.0, 0.3]]), 0.5), 1),
            )
        ),
    }
    found = mine.compare({}, r, settings=AuditSettings(exchange=0))
    q, at = mine.unconditional.posteriors["heldout"].gather(), mine.priors["heldout"]
    grid = torch.linspace(-6, 6, 161, dtype=torch.float64)
    g = torch.stack(torch.meshgrid(grid, grid, indexing="ij"), -1).reshape(-1, 2)
    area = math.log(float(grid[1] - grid[0]) ** 2)
    want = dict.fromkeys(r, 0.0)
    for i in range(80):
        z = q.mean[i] + q.scale[i] * g
        log_w = Normal(q.mean[i], q.scale[i]).log_prob(z) - Normal(at.loc[i], at.scale[i]).log_prob(z)
        for name, k in r.items():
            terms = log_w.sum(1) + k.log_prob(z) + area + q.scale[i].log().sum()
            want[name] += float(torch.logsumexp(terms, 0)) / 80
    for name in r:
        gain = found.unconditional[name].exact_posterior.gain
        assert gain.value == pytest.approx(want[name], abs=0.05 if name == "torch" else 1e-3), name
        assert ("by importance sampling" in gain.because) is (name == "torch"), name
        assert found.unconditional[name].elbo.gain.value < gain.value
    one, other = (found.unconditional[k].elbo.gain.value for k in ("mixture", "torch"))
    assert one == pytest.approx(other, abs=1e-5)


def test_a_share_of_the_prior_counts_in_either_sort(mine: Brought) -> None:
    """(1 - e) r + e p: each row's exact-posterior gain is log[(1 - e) exp(gain of r) + e]."""
    r = fit("gaussian", **mine.splits).distribution
    rows = mine.posteriors["heldout"].gather()
    alone = r.tilt(rows.mean, rows.scale, draws=0, rng=torch.Generator()).log_ratio
    found = mine.compare({"alone": r, "shared": Defensive(r, 0.1)}, {}, settings=QUICK).conditional
    for name, want in (("alone", alone), ("shared", torch.log(0.9 * alone.exp() + 0.1))):
        assert found[name].exact_posterior.gain.value == pytest.approx(float(want.mean()), abs=1e-6)


def test_gains_are_those_in_other_coordinates(mine: Brought) -> None:
    """z -> A z + b with p(z|c) and with each candidate; and written as N(c, I) or shifted to N(0, I)."""
    a, b = torch.tensor([0.5, 4.0]).double(), torch.tensor([3.0, -7.0]).double()
    there = brought(b + a * LOC, a * WIDTH)
    told = {k: fit(k, **mine.splits).distribution for k in ("gaussian", "mixture")}
    plain = {k: fit(k, **mine.unconditional.splits).distribution for k in ("gaussian", "mixture")}
    one = mine.compare(told, plain, settings=QUICK)
    other = there.compare(told, {k: Affine(r, b, a) for k, r in plain.items()}, settings=QUICK)
    for here, moved in ((one.conditional, other.conditional), (one.unconditional, other.unconditional)):
        assert list(here) == list(moved)
        for name in here:
            for of in ("elbo", "exact_posterior", "likelihood"):
                x, y = (getattr(s[name], of).gain.value for s in (here, moved))
                assert x == pytest.approx(y, abs=1e-5), (name, of)
    shifted = brought(0 * LOC, 0 * WIDTH + 1)  # z - loc(c), over scale(c): its prior is N(0, I)
    back = shifted.compare(told, told, settings=QUICK)
    for name in told:  # there an r(z|c) is an r(z)
        for of in ("elbo", "exact_posterior"):
            x, y, w = (getattr(s[name], of).gain.value for s in (one.conditional, back.conditional, back.unconditional))
            assert x == pytest.approx(y, abs=1e-5), (name, of)
            assert x == pytest.approx(w, abs=1e-5), (name, of)
    # an r(z) is another distribution for each c there
    rows = shifted.posteriors["heldout"].gather()
    total = 0.0
    for c in (0, 1):
        of_class = rows.take((torch.arange(80) % 2 == c).nonzero().flatten())
        moved = Affine(plain["gaussian"], -LOC[c] / WIDTH[c], 1 / WIDTH[c])
        total += float(moved.tilt(of_class.mean, of_class.scale, draws=0, rng=torch.Generator()).log_ratio.mean()) / 2
    assert one.unconditional["gaussian"].exact_posterior.gain.value == pytest.approx(total, abs=1e-5)


def test_an_r_of_z_in_units_of_a_matrix_is_the_one_written_out(mine: Brought) -> None:
    a, b = torch.tensor([[1.5, 0.0], [-0.7, 0.6]]).double(), torch.tensor([0.5, -1.0]).double()
    found = mine.compare({}, {"moved": Affine(Prior(2), b, a), "written": Gaussian(b, a)}, settings=ALL).unconditional
    one, other = (found[k].elbo.gain.value for k in ("moved", "written"))
    assert one == pytest.approx(other, abs=1e-8)
    one, other = (found[k].exact_posterior.gain.value for k in ("moved", "written"))
    assert one == pytest.approx(other, abs=0.05)  # by draws


def test_the_model_in_its_own_z_is_the_one_that_was_given(mine: Brought) -> None:
    own = mine.unconditional
    mean, scale = MODEL.posterior(data()["heldout"])
    c = classes()["heldout"]
    found = own.posteriors["heldout"].gather()
    torch.testing.assert_close(found.mean, LOC[c] + WIDTH[c] * mean)
    torch.testing.assert_close(found.scale, WIDTH[c] * scale)
    again = own.model.encode(own.rows["heldout"].x)
    torch.testing.assert_close(again[0], found.mean)
    p = own.prior  # half of the rows are of each class
    z = torch.randn(50, 2, generator=torch.Generator().manual_seed(0)).double()
    parts = torch.stack([Normal(LOC[k], WIDTH[k]).log_prob(z).sum(1) for k in (0, 1)])
    torch.testing.assert_close(p.log_prob(z), torch.logsumexp(parts, 0) - math.log(2))
    z, x = sample(own.generator(Gaussian(torch.tensor([5.0, 5.0]), torch.tensor([1e-6, 1e-6]))), 8, given=1)
    torch.testing.assert_close(x[:, :-1], decode((z.double() - LOC[1]) / WIDTH[1]).mean, check_dtype=False)


def test_groups_count_in_the_errors() -> None:
    rng = torch.Generator().manual_seed(0)
    c = {s: torch.arange(n) // (n // 4) % 2 for s, n in SIZES.items()}
    mean = {s: (2.0 * v + 0.6 * torch.randn(len(v), generator=rng)).double()[:, None] for s, v in c.items()}
    scale = {s: torch.full_like(v, 0.8) for s, v in mean.items()}
    prior = lambda c: Normal(2.0 * c.double()[:, None], 1.0)  # noqa: E731
    by = {s: [f"{s}{i // 20}" for i in range(len(v))] for s, v in c.items()}
    alone, grouped = (
        arrays(mean, scale, prior=prior, conditions=c, groups=g).compare({}, {"N(0, I)": Prior(1)}).unconditional
        for g in (None, by)
    )
    assert grouped["N(0, I)"].elbo.gain.groups == 4
    assert grouped["N(0, I)"].elbo.gain.stderr > 2 * alone["N(0, I)"].elbo.gain.stderr
    assert grouped["N(0, I)"].elbo.gain.value == pytest.approx(alone["N(0, I)"].elbo.gain.value)


def test_conditions_follow_their_rows_into_the_selection_split() -> None:
    """Half of the held-out rows are set aside, in an order of their own: each keeps its p(z|c)."""
    c = {"train": torch.arange(40.0), "heldout": torch.arange(60.0)}
    codes = {s: v.double()[:, None] + 0.1 for s, v in c.items()}
    scale = {s: torch.ones_like(v) for s, v in codes.items()}
    mine = arrays(codes, scale, prior=lambda c: Normal(c[:, None], 2.0), conditions=c, check=False)
    for s in ("selection", "heldout"):
        p = mine.posteriors[s].gather()
        torch.testing.assert_close(p.mean, torch.full_like(p.mean, 0.05))
        torch.testing.assert_close(mine.priors[s].loc[:, 0], (p.row_ids - 40).double())  # c of the row with this id
        torch.testing.assert_close(mine.unconditional.posteriors[s].gather().mean, mine.priors[s].loc + 0.1)


def test_what_cannot_be_compared_is_refused_in_words(mine: Brought) -> None:
    halves = {s: torch.randn(50, 2, generator=torch.Generator().manual_seed(0)) for s in ("train", "heldout")}
    plain = arrays(halves, {s: torch.ones(50, 2) for s in halves}, check=False)
    for call, text in (
        (plain.compare, "expected a model with a prior p"),
        (functools.partial(mine.compare, {"a": Prior(3)}), "a: expected 2 latents, as the posteriors have, got 3"),
        (functools.partial(mine.compare, {}, {"a": Prior(3)}), "a: expected 2 latents, as the posteriors have, got 3"),
        (functools.partial(mine.inside, Prior(2)), "latents are in units of p"),
        (functools.partial(mine.outside, Prior(2)), "latents are in units of p"),
    ):
        with pytest.raises(UsageError, match=text):
            call()
    mean, c = {s: torch.zeros(9, 2) for s in ("train", "heldout")}, {s: torch.zeros(9) for s in ("train", "heldout")}
    one = {s: torch.ones(9, 2) for s in mean}
    for how, error, text in (
        ({"conditions": c}, UsageError, "conditions: expected a prior that is a function of them"),
        ({"prior": lambda c: Normal(c[:, None], 1.0)}, UsageError, "give the conditions that it takes, too"),
        ({"prior": lambda c: Normal(c[:, None], 1.0), "conditions": c}, ArrayError, r"p\(z\|c\) \[9, 1\]"),
    ):
        with pytest.raises(error, match=text):
            arrays(mean, one, **how)
