"""Likelihood gains of r(z) and r(z|c) over p(z|c), and the verdict: closed forms of a linear model, and planted faults.

Public case 2: c in {-2, 2}, z ~ N(c, 1), and an encoder whose q is the posterior, with s = .8. Then the exact-posterior
gain is the likelihood gain in every row.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar, final

import pytest
import torch
from torch import Tensor
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal

from oracles import linear_gaussian
from zprime import fit
from zprime.bring import arrays, modules
from zprime.bring.brought import Brought
from zprime.bring.by_row import ByRow, in_units, units_of
from zprime.bring.coordinates import Coordinates
from zprime.errors import ArrayError, UsageError
from zprime.latent import Affine, Defensive, FromTorch, Gaussian, Mixture, Prior
from zprime.latent.wrapper import Wrapper
from zprime.measure.likelihood.exchange import FINEST, Chain, Pool
from zprime.measure.study import Split, Study
from zprime.posteriors import MemoryPosteriors
from zprime.results.audit import AuditSettings
from zprime.results.names import CandidateId, Gain
from zprime.rng import stream

MODEL = linear_gaussian(D=3, d=1, var=4.0)  # 2.25 / 4 + 1 = 1 / .8^2
SIZES = {"train": 120, "selection": 100, "heldout": 100}
QUICK = AuditSettings(rows=100, draws=120, exchange=60, repair=0)
Shift = Callable[[Tensor], Tensor]


def decode(z: Tensor) -> Independent:
    return Independent(Normal(z @ MODEL.weight.T + MODEL.bias, MODEL.var**0.5), 1)


def same(c: Tensor) -> Tensor:
    return c


def brought(
    prior: Shift = same, truth: Mapping[str, Shift] | None = None, groups: Mapping[str, list[str]] | None = None
) -> Brought:
    """Trained with p(z|c) = N(prior(c), 1), its q exact; the data of a split have z ~ N(truth(c), 1)."""
    x, c = {}, {}
    for s, n in SIZES.items():
        rng = stream(0, "rows", s)
        c[s] = 4.0 * (torch.arange(n) // (n // 4) % 2).double() - 2
        z = (truth or {}).get(s, prior)(c[s])[:, None] + torch.randn(n, 1, generator=rng, dtype=torch.float64)
        noise = torch.randn(n, 3, generator=rng, dtype=torch.float64)
        x[s] = z @ MODEL.weight.T + MODEL.bias + MODEL.var**0.5 * noise

    def encoder(x: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        precision = MODEL.gram / MODEL.var + 1
        mean = ((x - MODEL.bias) @ MODEL.weight / MODEL.var + prior(c)[:, None]) / precision
        return mean, precision.rsqrt().expand_as(mean)

    return modules(
        encoder,
        lambda z, c: decode(z),
        x,
        conditions=c,
        prior=lambda c: Normal(prior(c)[:, None], 1.0),
        groups=groups,
        gives="std",
        check=False,
    )


def log_evidence(x: Tensor, mean: list[float], scale: list[float]) -> Tensor:
    """Log p_r(x) for a mixture of Gaussians with equal weights, in z."""
    covariance = torch.tensor(scale).double().square()[:, None, None]
    weight = torch.zeros(len(mean)).double().log_softmax(0)
    return MODEL.log_evidence(x, log_weight=weight, mean=torch.tensor(mean).double()[:, None], covariance=covariance)


def _cross(q: MemoryPosteriors, mean: Tensor, scale: Tensor) -> Tensor:
    """E_q log N(z; mean, scale^2) of each row, up to a constant."""
    return (-scale.log() - ((q.mean - mean).square() + q.scale.square()) / (2 * scale.square())).sum(1)


@pytest.fixture(scope="module")
def mine() -> Brought:
    return brought()


def normal(mean: float, scale: float) -> Gaussian:
    return Gaussian(torch.tensor([mean]).double(), torch.tensor([scale]).double())


def test_likelihood_gains_are_those_of_closed_forms_and_p_z_c_is_kept(mine: Brought) -> None:
    """Of one Gaussian, a mixture, a share of p(z), other coordinates and a density without tilts; of r(z|c) too."""
    two = Mixture(torch.zeros(2).log_softmax(0), torch.tensor([[-2.0], [2.0]]), torch.full((2, 1), 0.7))
    torch_two = MixtureSameFamily(
        Categorical(torch.ones(2)), Independent(Normal(torch.tensor([[-2.0], [2.0]]), 0.7), 1)
    )
    found = mine.compare(
        {"near": normal(0.4, 0.8), "shared": Defensive(normal(0.4, 0.8), 0.1)},
        {
            "N(0, I)": Prior(1),
            "two": two,
            "torch": FromTorch(torch_two),
            "mixed": Defensive(two, 0.2, mine.unconditional.prior),
            "moved": Affine(normal(0.0, 1.0), torch.tensor([1.0]).double(), torch.tensor([2.0]).double()),
        },
        settings=QUICK,
    )
    x, c = mine.rows["heldout"].x[:, :-1], mine.rows["heldout"].x[:, -1:]
    u = x - c @ MODEL.weight.T
    log_p = MODEL.log_evidence(u)
    of_two, of_p = log_evidence(x, [-2.0, 2.0], [0.7, 0.7]), log_evidence(x, [-2.0, 2.0], [1.0, 1.0])
    want = {
        "r(z|c) near": log_evidence(u, [0.4], [0.8]) - log_p,
        "r(z) marginal": of_p - log_p,
        "r(z) N(0, I)": MODEL.log_evidence(x) - log_p,
        "r(z) two": of_two - log_p,
        "r(z) torch": of_two - log_p,
        "r(z) mixed": torch.log(0.8 * of_two.exp() + 0.2 * of_p.exp()) - log_p,
        "r(z) moved": log_evidence(x, [1.0], [2.0]) - log_p,
    }
    want["r(z|c) shared"] = want["r(z|c) near"]
    want |= {f"{k}+p{10 if 'shared' in k else 1}": v for k, v in want.items()}
    assert set(found.entries) == set(want)
    for name, exact in want.items():
        share = CandidateId.parse(name).epsilon
        exact = torch.log((1 - share) * exact.exp() + share)
        scores = found.entries[name]
        gain = scores.likelihood.gain
        assert gain.value == pytest.approx(float(exact.mean()), abs=0.02), name
        assert gain.stderr == pytest.approx(float(exact.std() / 10), rel=0.05), name
        assert scores.exact_posterior.gain.value == pytest.approx(float(exact.mean()), abs=0.02), name
        assert (gain.n, gain.split, gain.seed, gain.stable) == (100, "heldout", 0, True), name
        assert "from 30 to 120 draws" in gain.because, name
        assert scores.likelihood.khat is not None, name
        assert ("by importance sampling" in scores.exact_posterior.gain.because) is ("torch" in name), name
    q, p = mine.unconditional.posteriors["heldout"].gather(), mine.priors["heldout"]
    coded = _cross(q, torch.ones(1), 2 * torch.ones(1)) - _cross(q, p.loc, p.scale)
    elbo = found.unconditional["moved"].elbo.gain
    assert elbo.value == pytest.approx(float(coded.mean()), abs=0.1)
    assert elbo.stderr == pytest.approx(float(coded.std() / 10), rel=0.1)
    assert found.conditional["near"] is found.entries["r(z|c) near"]  # as they were given
    assert found.conditional["shared"] is found.entries["r(z|c) shared+p10"]
    assert found.unconditional["two"] is found.entries["r(z) two"]
    best = found.unconditional["marginal"].likelihood.gain
    assert best.value == pytest.approx(-0.422, abs=3 * best.stderr)  # minus the information of c on x
    assert (found.choice, found.verdict.decision) == ("p(z|c)", "keep the prior")


def test_an_r_of_z_given_c_that_repairs_a_shift_is_chosen() -> None:
    """The model's p(z|c) lies 2 too high in both classes: r(z|c) knows c and lies right."""
    mine = brought(lambda c: c + 2, dict.fromkeys(SIZES, same))
    own = fit("gaussian", **mine.unconditional.splits)
    told = {"gaussian": fit("gaussian", **mine.splits), "repair": normal(-2.0, 1.0)}
    found = mine.compare(told, {"gaussian": own}, settings=QUICK)
    assert (found.choice, found.verdict.decision) == ("r(z|c) repair+p1", "leave the prior")
    assert found.verdict.sentence.startswith("Draw z' from r(z|c) repair + 1 % p, not from the prior")
    assert found.verdict.exchange.passed
    x, c = mine.rows["heldout"].x[:, :-1], mine.rows["heldout"].x[:, -1:]
    right = MODEL.log_evidence(x - c @ MODEL.weight.T) - MODEL.log_evidence(x - (c + 2) @ MODEL.weight.T)
    assert found.verdict.heldout.value == pytest.approx(float(right.mean()), abs=0.05)
    best, plain = found.conditional["repair"].likelihood.gain, found.unconditional["gaussian"].likelihood.gain
    assert best.value > plain.value
    nothing = mine.compare({"repair": normal(-2.0, 1.0)}, settings=AuditSettings(rows=100, draws=120, exchange=0))
    assert (nothing.choice, nothing.verdict.decision) == ("p(z|c)", "undecided")
    assert "the exchange check was left out" in nothing.verdict.sentence


def test_an_r_of_z_is_chosen_where_c_says_nothing() -> None:
    mine = brought(truth=dict.fromkeys(SIZES, torch.zeros_like))
    found = mine.compare({"gaussian": fit("gaussian", **mine.splits)}, {"N(0, I)": Prior(1)}, settings=QUICK)
    assert found.choice == "r(z) N(0, I)+p1"
    assert found.verdict.exchange.passed
    assert abs(found.verdict.exchange.delta.value) < 3 * found.verdict.exchange.delta.stderr


def test_the_selection_split_chooses_and_the_held_out_split_confirms() -> None:
    mine = brought(truth={"selection": torch.zeros_like})
    found = mine.compare({}, {"N(0, I)": Prior(1)}, settings=QUICK)
    assert found.verdict.best == "r(z) N(0, I)+p1"
    assert (found.choice, found.verdict.decision) == ("p(z|c)", "keep the prior")
    assert "held-out data do not confirm it" in found.verdict.sentence
    assert found.verdict.heldout.split == "heldout"


def test_errors_of_likelihood_gains_are_by_group(mine: Brought) -> None:
    """Rows of a group have one c, and N(3, 1) loses in one class and gains in none."""
    by = {s: [f"{s}{i // (n // 4)}" for i in range(n)] for s, n in SIZES.items()}
    quick = AuditSettings(rows=100, draws=40, exchange=0)
    alone, grouped = (
        m.compare({}, {"high": normal(3.0, 1.0)}, settings=quick).unconditional["high"].likelihood.gain
        for m in (mine, brought(groups=by))
    )
    assert (alone.groups, grouped.groups) == (0, 4)
    assert grouped.stderr > 2 * alone.stderr
    assert grouped.value == pytest.approx(alone.value)


def test_all_share_draws_and_the_seed_decides_them(mine: Brought) -> None:
    quick = AuditSettings(rows=40, draws=40, exchange=0)
    r = {"one": normal(0.5, 1.0), "same": normal(0.5, 1.0)}
    first, again, other = (mine.compare(r, {}, settings=quick, seed=s) for s in (0, 0, 1))
    assert first.conditional["one"].likelihood.gain == first.conditional["same"].likelihood.gain
    assert first.conditional["one"].likelihood == again.conditional["one"].likelihood
    assert first.conditional["one"].likelihood.gain.value != other.conditional["one"].likelihood.gain.value
    assert (first.seed, other.seed) == (0, 1)
    assert other.conditional["one"].likelihood.gain.n == 40


@final
@dataclass(frozen=True, repr=False, eq=False)
class Rough(Wrapper):
    """A log-density that is an estimate: as its replicates have it, it is off by .3 nats."""

    kind: ClassVar[str] = "rough-for-a-test"
    off: float = 0.0
    d = property(lambda self: self.base.d)
    density = property(lambda self: "estimate")

    def log_prob(self, z: Tensor) -> Tensor:
        return self.base.log_prob(z) + self.off

    def sample(self, n: int, *, rng: torch.Generator) -> Tensor:
        return self.base.sample(n, rng=rng)

    def replicates(self) -> list["Rough"]:
        return [Rough(self.base, s) for s in (0.3, -0.3)]

    def tensors(self) -> dict[str, Tensor]:
        return {}

    def config(self) -> dict[str, float]:
        return {}

    @classmethod
    def rebuild(cls, config: object, tensors: object) -> "Rough":
        raise NotImplementedError


def test_the_error_of_a_density_that_is_an_estimate_is_in_all_gains(mine: Brought) -> None:
    quick = AuditSettings(rows=40, draws=40, exchange=0)
    found = mine.compare({}, {"exact": normal(0.0, 1.5), "rough": Rough(normal(0.0, 1.5))}, settings=quick)
    for gain in Gain:
        one, other = (found.unconditional[k].of(gain).gain for k in ("exact", "rough"))
        assert other.stderr == pytest.approx((one.stderr**2 + 0.09) ** 0.5, rel=0.05), gain
        assert "its log r(z) is not exact" in other.because, gain


def chain(mine: Brought, r: Gaussian) -> Chain:
    at = {s: units_of(k) for s, k in mine.priors.items()}
    splits = [Split(s, mine.posteriors[s].gather(), mine.rows[s], told=at[s]) for s in SIZES]
    found = ByRow({"r": Defensive(in_units(r, "r", by_row=True), 0.01)})
    return Chain(
        Study(*splits, prior=Prior(1), model=mine.model, settings=QUICK), mine.model, found, CandidateId("r", 1.0)
    )


def test_the_exchange_check_is_under_the_conditions_of_training_rows(mine: Brought) -> None:
    """Simulated rows have the c that their candidate was told, at both ends and at the bridges; the gain is right."""
    found = chain(mine, normal(0.0, 0.5))
    for place in (0, FINEST // 2, FINEST):
        simulated, x = found._simulate(place)
        assert torch.equal(simulated.told[:, 0], x[:, -1]), place
        assert len(torch.unique(x[:, -1])) == 2, place
    z = found._simulate(FINEST)[1][:, :-1]
    centre = (z - MODEL.bias) @ MODEL.weight / MODEL.gram
    assert abs(float(centre.mean())) < 3 * float(centre.std()) / 60**0.5  # x of r(z): around 0 in both classes
    for steps in (1, 2):
        delta, stderr = found.shift(steps)
        assert abs(delta) < 3 * stderr, steps


def test_a_bridge_is_one_of_z_and_c_together() -> None:
    """p^(1-t) r^t of both classes, with one normaliser: the mean of theirs."""
    at = Coordinates(torch.tensor([[0.0], [3.0]]).double(), torch.tensor([[1.0], [2.0]]).double())
    found = ByRow({"r": in_units(normal(1.0, 0.5), "r", by_row=True)})
    pool = Pool(found, CandidateId("r"), rng=stream(0, "pool"), told=units_of(at))
    u = torch.linspace(-12, 12, 4001, dtype=torch.float64)[:, None]
    log_p = Prior(1).log_prob(u)
    inside = [
        Normal((1.0 - k.loc) / k.scale, 0.5 / k.scale) for k in (Coordinates(at.loc[i], at.scale[i]) for i in (0, 1))
    ]
    log_r = [p.log_prob(u).squeeze(1) for p in inside]
    for place in (2, 6):
        t = place / FINEST
        mass = torch.stack([((1 - t) * log_p + t * k).exp() for k in log_r])
        total = float(mass.sum() * (u[1] - u[0]) / 2)
        for k in log_r:
            got = pool.log_prob(place, k, log_p)
            torch.testing.assert_close(got, (1 - t) * log_p + t * k - torch.tensor(total).log(), atol=0.05, rtol=0)
        drawn = pool.pick(place, 4000, rng=stream(0, "drawn"))
        share = float(mass[1].sum() / mass.sum())
        assert float((pool.owner[drawn] == 1).double().mean()) == pytest.approx(share, abs=0.04)


def test_what_is_printed_says_all_gains_and_the_verdict(mine: Brought) -> None:
    quick = AuditSettings(rows=40, draws=40, exchange=0)
    found = mine.compare({"<b>": normal(0.5, 1.0)}, {"N(0, I)": Prior(1)}, settings=quick)
    told = str(found)
    for text in ("r(z) N(0, I)+p1", "r(z) marginal", "ELBO gain", "likelihood gain", "40 rows", found.verdict.sentence):
        assert text in told, text
    assert found.table().rows[0].style == "chosen"
    assert "r(z|c) &lt;b&gt;" in found._repr_html_()
    assert found.verdict.sentence in repr(found)
    bare = {s: torch.randn(n, 1, generator=stream(0, s)) for s, n in SIZES.items()}
    c = {s: torch.zeros(n) for s, n in SIZES.items()}
    codes = arrays(
        bare,
        {s: torch.full((n, 1), 0.8) for s, n in SIZES.items()},
        prior=lambda c: Normal(c[:, None], 1.0),
        conditions=c,
        check=False,
    )
    without = codes.compare({}, {"N(0, I)": Prior(1)})
    assert (without.choice, without.verdict.decision) == ("p(z|c)", "undecided")
    assert "likelihood gain" not in [k.heading for k in without.table().columns]


def test_what_cannot_be_used_is_refused_in_words(mine: Brought) -> None:
    with pytest.raises(UsageError, match="call it something else"):
        mine.compare({"a+p1": Prior(1)})
    with pytest.raises(UsageError, match="draws: expected 0, or a multiple of 4"):
        mine.compare(settings=AuditSettings(draws=41))
    r = in_units(normal(0.0, 1.0), "r(z) r", by_row=True)
    with pytest.raises(UsageError, match="expected as many values of each of 0 rows, got 3"):
        r.log_prob(torch.zeros(3, 1))
    with pytest.raises(UsageError, match="save that"):
        type(r).rebuild({}, {})
    rows = dict(mine.rows) | {"heldout": mine.rows["train"].take(torch.arange(100))}
    copied = Brought(mine.posteriors, mine.model, rows, priors=mine.priors, unconditional=mine.unconditional)
    with pytest.raises(ArrayError, match="equal a training row"):
        copied.compare(settings=QUICK)
