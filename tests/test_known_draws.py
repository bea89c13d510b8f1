"""Posteriors of which only draws are known, with log q there: the likelihood gain has them as its proposal."""

import math
from dataclasses import replace
from functools import cache

import pytest
import torch
from torch import Tensor
from torch.distributions import Independent, Normal

import zprime
from oracles import linear_gaussian
from zprime import bring
from zprime.bring.brought import Brought
from zprime.data import Rows
from zprime.errors import ArrayError, NumericalError, UsageError
from zprime.family import check_log_q
from zprime.latent import Gaussian, Prior
from zprime.measure.candidates import Candidates, candidate_of
from zprime.measure.likelihood.by_datum import ByDatum
from zprime.measure.likelihood.density_error import density_errors
from zprime.measure.likelihood.exchange import uncheckable
from zprime.measure.likelihood.finer import Measured
from zprime.measure.likelihood.gains import PRIOR, measure_gains
from zprime.measure.likelihood.inference import inference_gap
from zprime.measure.likelihood.scores import exact_posterior_estimate, likelihood_estimate
from zprime.measure.likelihood.side import check_choice, likelihood_side, measure_splits
from zprime.measure.study import Split, Study, gather
from zprime.measure.verdicts.likelihood import decide
from zprime.measure.verdicts.selected import choose
from zprime.posteriors import MemoryPosteriors
from zprime.reporting.explain import explain
from zprime.reporting.page import html
from zprime.reporting.terminal import show
from zprime.results.audit import Audit, AuditSettings, load
from zprime.results.names import CandidateId, Gain
from zprime.rng import stream
from zprime.statistics.pareto import pareto_khat

MODEL = linear_gaussian(D=5, d=2, var=0.3)
VAE = MODEL.vae()
R = Gaussian(torch.tensor([0.4, -0.2]).double(), torch.tensor([[0.8, 0.0], [0.3, 0.6]]).double())
NAME = CandidateId("r")
QUICK = AuditSettings(rows=100, samples=0, draws=200, exchange=50, members=80, simulated=100, grid=4, map=50)


def rows(n: int, seed: int = 0) -> Tensor:
    """Rows whose z is drawn from R."""
    z = R.sample(n, rng=stream(seed, "z")).double()
    noise = torch.randn(n, 5, generator=stream(seed, "noise"), dtype=torch.float64)
    return z @ MODEL.weight.T + MODEL.bias + math.sqrt(MODEL.var) * noise


def drawn(x: Tensor, m: int, seed: int = 0) -> Split:
    """Draws of the exact posteriors, with their log-density."""
    q = Independent(Normal(*MODEL.posterior(x)), 1)
    mean, scale = MODEL.posterior(x)
    noise = torch.randn(m, *mean.shape, generator=stream(seed, "draws"), dtype=torch.float64)
    z = mean + scale * noise
    ids = torch.arange(len(x)).repeat_interleave(m)
    points = MemoryPosteriors(z.transpose(0, 1).flatten(0, 1), None, row_ids=ids, log_q=q.log_prob(z).T.flatten())
    return Split("heldout", points, Rows("heldout", x.repeat_interleave(m, 0), ids), points.datum)


def test_with_exact_posteriors_log_p_is_exact_to_rounding_and_the_gain_to_its_draws() -> None:
    """Weights under the prior are constant; under another Gaussian log p_r(x) has a closed form."""
    x = rows(40)
    gains = measure_gains(Candidates({"r": R}), drawn(x, 200), rng=stream(0, "g"), model=VAE)
    assert gains.log_prior is not None
    assert torch.allclose(gains.log_prior, MODEL.log_evidence(x), atol=1e-9)
    covariance = (R.scale_tril @ R.scale_tril.T)[None]
    exact = MODEL.log_evidence(x, mean=R.mean[None], covariance=covariance) - MODEL.log_evidence(x)
    gap = gains.likelihood[NAME] - exact
    assert float(gap.mean()) == pytest.approx(0, abs=0.02)
    assert float(gap.abs().max()) < 0.5
    assert torch.allclose(gains.likelihood[NAME], gains.exact_posterior[NAME], atol=1e-9)
    e = exact_posterior_estimate(gains, NAME, 0)
    assert e.because.startswith("no closed form, by the draws of q: moved")
    assert "from 50 to 200 draws" in e.because
    assert PRIOR not in gains.exact_posterior_quarter
    e = likelihood_estimate(gains, NAME, 0)
    assert (e.n, e.groups, e.stable) == (40, 0, True)
    assert "from 50 to 200 draws" in e.because
    assert bool(gains.khat[PRIOR].isneginf().all())  # equal but for rounding: no tail
    assert gains.khat[NAME].shape == (40,)
    fit, kl = MODEL.elbo(x)
    gap_of = inference_gap(Measured(gains), seed=0)
    assert gap_of.kl.stderr is not None
    assert gap_of.kl.value == pytest.approx(float(kl.mean()), abs=0.03)
    assert gap_of.reconstruction.value == pytest.approx(float(fit.mean()), abs=0.03)
    assert gap_of.gap.value == pytest.approx(0, abs=0.03)


def test_few_draws_are_a_lower_bound_and_not_called_stable() -> None:
    """A q of half the width: the log of a mean of 8 weights is too small, and moves."""
    x = rows(200)
    split = drawn(x, 8)
    mean = MODEL.posterior(x)[0].repeat_interleave(8, 0)
    points = split.posteriors
    assert points.log_q is not None
    narrow = MemoryPosteriors(
        mean + 0.4 * (points.mean - mean), None, row_ids=points.row_ids, log_q=points.log_q - 2 * math.log(0.4)
    )
    gains = measure_gains(
        Candidates({"r": R}), replace(split, posteriors=narrow), rng=stream(0, "g"), model=VAE, draws=4
    )
    assert gains.log_prior is not None
    assert gains.log_prior_quarter is not None
    exact = float(MODEL.log_evidence(x).mean())
    assert float(gains.log_prior_quarter.mean()) < float(gains.log_prior.mean()) - 0.05 < exact - 0.05
    assert not inference_gap(Measured(gains), seed=0).log_prob.stable
    assert bool(gains.khat[PRIOR].isnan().all())  # of few draws there is none


def test_draws_are_joined_by_datum_in_whatever_order_they_come() -> None:
    """Unequal numbers of draws, mixed up: means, logs of means, first quarters and k-hat by hand."""
    rng = stream(0, "mixed")
    ids = torch.tensor([3] * 40 + [1] * 30 + [2] * 3)[torch.randperm(73, generator=rng)]
    z = torch.randn(73, 1, generator=rng, dtype=torch.float64)
    by = ByDatum.of(MemoryPosteriors(z, None, row_ids=ids, log_q=z[:, 0]))
    values = torch.randn(73, generator=rng, dtype=torch.float64)
    full, quarter = by.log_means(values)
    for i, (datum, few) in enumerate({1: 7, 2: 1, 3: 10}.items()):
        own = values[ids == datum]
        assert float(by.mean(values)[i]) == pytest.approx(float(own.mean()))
        assert float(full[i]) == pytest.approx(float(own.exp().mean().log()))
        assert float(quarter[i]) == pytest.approx(float(own[:few].exp().mean().log()))
        assert torch.allclose(by.khat(values)[i], pareto_khat(own[None])[0], equal_nan=True)
        assert int(ids[by.first[i]]) == datum


def test_data_keep_their_groups_and_what_their_draws_count() -> None:
    split = drawn(rows(6), 4)
    by = ByDatum.of(split.posteriors)
    assert by.design(split).plain
    grouped = by.design(replace(split, groups=torch.arange(24) // 8))
    assert grouped.groups is not None
    assert grouped.groups.tolist() == [0, 0, 1, 1, 2, 2]
    weighted = split.posteriors.weighted(torch.arange(24.0).double())
    assert weighted.log_q is not None
    assert split.posteriors.log_q is not None
    assert torch.equal(weighted.log_q, split.posteriors.log_q)
    told = ByDatum.of(weighted).design(replace(split, posteriors=weighted)).weights
    assert told is not None
    assert torch.allclose(told * 276, torch.arange(24.0).double().reshape(6, 4).sum(1))


def test_rows_that_the_decoder_cannot_make_are_named() -> None:
    split = drawn(rows(4), 8)

    class Broken:
        def decode(self, z: Tensor) -> object:
            p = VAE.decode(z)
            return type(
                "P", (), {"log_prob": lambda self, x: torch.full((len(x),), -torch.inf).double() + 0 * p.log_prob(x)}
            )()

    with pytest.raises(NumericalError, match="row 0 at all of 8 draws"):
        measure_gains(Candidates({"r": R}), split, rng=stream(0, "g"), model=Broken())


def encoder(x: Tensor) -> tuple[Tensor, Tensor]:
    """An affine transform of a Gaussian, by the same matrix for all rows: z, and log q(z|x)."""
    mean, lower = moments(x)
    base = torch.randn_like(mean)
    log_base = Independent(Normal(torch.zeros(2).double(), 1.0), 1).log_prob(base)
    return mean + base @ lower[0].T, log_base - lower[0].diagonal().log().sum()


def moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Its mean and factor: somewhat wider than the exact posterior, and correlated."""
    mean, scale = MODEL.posterior(x)
    lower = torch.tensor([[1.2, 0.0], [0.5, 1.1]]).double() * scale[0][:, None]
    return mean, lower.expand(len(x), 2, 2).clone()


SPLITS = {"train": rows(200, 1), "selection": rows(100, 2), "heldout": rows(100, 3)}


@cache
def brought() -> Brought:
    return bring.draws(encoder, SPLITS, VAE.decode, draws=32, seed=3)


@cache
def audited() -> Audit:
    mine = brought()
    return zprime.audit({"r": R}, mine.posteriors, model=mine.model, rows=mine.rows, settings=QUICK)


def test_draws_of_an_affine_flow_give_the_audit_of_its_full_covariances() -> None:
    whole = bring.modules(moments, VAE.decode, SPLITS, gives="scale_tril", check=False)
    settings = replace(QUICK, exchange=0, simulated=0, draws=100)
    other = zprime.audit({"r": R}, whole.posteriors, model=whole.model, rows=whole.rows, settings=settings)
    found = audited()
    for gain in Gain:
        a, b = (x.entry("r+p1").heldout.of(gain) for x in (found, other))
        assert a is not None
        assert b is not None
        assert a.gain.value == pytest.approx(b.gain.value, abs=0.05), gain
        assert a.gain.n == b.gain.n == 100
        assert a.gain.stderr == pytest.approx(b.gain.stderr, rel=0.15)
    assert torch.allclose(found.log_prob("r"), other.log_prob("r"), atol=0.7)
    assert found.model.kl is not None
    kl = other.surgery["train"].mean_kl
    assert found.model.kl.value == pytest.approx(kl.value, abs=0.06)
    assert (found.model.kl.n, found.model.kl.groups) == (200, 0)


def test_the_whole_audit_says_what_is_there_and_why_the_rest_is_not(tmp_path) -> None:
    audit = audited()
    e = audit.entry("r+p1").heldout.likelihood
    assert e is not None
    assert e.gain.value > 0.05
    assert e.gain.n == 100
    assert e.khat is not None
    side = audit.likelihood
    assert side is not None
    assert side.calibration == []
    assert audit.verdict.exchange is None
    assert audit.verdict.decision == "undecided"
    assert "the exchange check cannot be made: posteriors are known by their draws" in audit.verdict.sentence
    assert audit.verdict.chosen is not None
    assert audit.verdict.chosen.gain is Gain.LIKELIHOOD
    assert audit.membership is not None
    assert audit.membership.score is Gain.LIKELIHOOD
    assert audit.membership.model is not None
    assert (audit.membership.members, audit.membership.others) == (80, 100)
    for text in (explain(audit), html(audit)):
        assert "Of the posteriors only draws are known, with log q(z|x) there" in text
        assert "The exchange check and the calibration encode simulated rows" in text
    assert "by importance sampling on the known draws of each posterior" in html(audit)
    show(audit)
    audit.save(tmp_path / "audit")
    again = load(tmp_path / "audit")
    assert again.model == audit.model
    assert again.verdict == audit.verdict
    assert torch.equal(again.log_prob("r"), audit.log_prob("r"))


def test_units_of_the_prior_change_log_q_by_their_logarithms() -> None:
    """z = loc + scale u: the gains, the KL and log p(x) are those of u."""
    loc, scale = torch.tensor([1.0, -2.0]).double(), torch.tensor([2.0, 0.5]).double()

    def wide(x: Tensor) -> tuple[Tensor, Tensor]:
        u, log_q = encoder(x)
        return loc + scale * u, log_q - scale.log().sum()

    moved = bring.draws(
        wide, SPLITS, lambda z: VAE.decode((z - loc) / scale), draws=32, seed=3, prior=Normal(loc, scale)
    )
    mine = brought()
    for s in SPLITS:
        a, b = moved.posteriors[s].gather().log_q, mine.posteriors[s].gather().log_q
        assert a is not None
        assert b is not None
        assert torch.allclose(a, b)
    assert moved.says[1] == mine.says[1]
    assert "with log q there" in mine.says[0]


def test_log_q_goes_with_its_rows() -> None:
    p = drawn(rows(5), 4).posteriors
    assert p.log_q is not None
    assert p.log_q.dtype == torch.float64
    at = torch.tensor([7, 2, 2])
    assert torch.equal(p.take(at).log_q, p.log_q[at])
    assert p.alone().log_q is not None
    assert p.gather().log_q is p.log_q
    assert p.restrict([0]).log_q is None  # the marginal's is another
    assert MemoryPosteriors(p.mean, None).log_q is None


@pytest.mark.parametrize(
    ("log_q", "scale", "text"),
    [
        (
            torch.zeros(5, 2),
            None,
            r"log_q: expected 5 numbers, log q\(z\|x\) of each draw in nats, got .* shape \[5, 2\]",
        ),
        (torch.zeros(5).long(), None, "got torch.int64"),
        (torch.tensor([0.0, 0.0, math.nan, 0.0, 0.0]), None, "log_q: expected finite numbers"),
        (torch.zeros(5), torch.ones(5, 2), "log_q: expected it beside draws alone"),
    ],
)
def test_a_log_q_that_cannot_be_is_refused(log_q: Tensor, scale: Tensor | None, text: str) -> None:
    with pytest.raises(ArrayError, match=text):
        check_log_q(log_q, torch.zeros(5, 2), points=scale is None)
    if scale is not None:
        with pytest.raises(ArrayError, match=text):
            MemoryPosteriors(torch.zeros(5, 2), scale, log_q=log_q)


def test_a_log_q_that_does_not_fit_the_draws_is_refused() -> None:
    z = {s: torch.randn(20, 4, 2, generator=stream(0, s)) for s in ("train", "heldout")}
    flat = {s: torch.zeros(20, 4, 2) for s in z}
    with pytest.raises(
        ArrayError, match=r"log_q: expected one number a draw in train, shape \[20, 4\], got \[20, 4, 2\]"
    ):
        bring.draws(None, z, log_q=flat)
    with pytest.raises(ArrayError, match=r"in train, shape \[20, 4\], got \[20\]"):
        bring.draws(None, z, log_q={s: torch.zeros(20) for s in z})
    with pytest.raises(UsageError, match="log_q: expected the splits of the draws, train, heldout, got train"):
        bring.draws(None, z, log_q={"train": torch.zeros(20, 4)})
    with pytest.raises(UsageError, match="log_q: expected it as the encoder's second answer"):
        bring.draws(encoder, SPLITS, log_q={s: torch.zeros(20, 4) for s in SPLITS})
    with pytest.raises(ArrayError, match=r"with a number a row, shape \[200\], got \[200, 2\] beside z"):
        bring.draws(lambda x: (encoder(x)[0], torch.zeros(len(x), 2)), SPLITS)
    known = bring.draws(None, z, log_q={s: torch.zeros(20, 4) for s in z}).posteriors
    bare = bring.draws(None, z).posteriors
    assert bare["train"].gather().log_q is None
    with pytest.raises(ArrayError, match="log_q: expected it at the draws of all splits or of none, got it for train"):
        zprime.audit({"r": R}, {**bare, "train": known["train"]}, settings=QUICK)


def test_without_log_q_or_draws_to_spend_there_is_no_likelihood_gain() -> None:
    split = drawn(rows(20), 8)
    candidates = Candidates({"r": R})
    bare = replace(split, posteriors=MemoryPosteriors(split.posteriors.mean, None, row_ids=split.posteriors.row_ids))
    found = measure_gains(candidates, bare, rng=stream(0, "g"), model=VAE)
    assert not found.likelihood
    assert found.kl is None
    assert len(found.ids) == 160
    assert not measure_gains(candidates, split, rng=stream(0, "g"), model=VAE, draws=0).likelihood
    known = measure_gains(candidates, split, rng=stream(0, "g"), model=VAE)
    assert float(known.elbo[NAME].mean()) == pytest.approx(float(found.elbo[NAME].mean()))
    assert torch.allclose(known.exact_posterior[NAME], found.exact_posterior[NAME].reshape(20, 8)[:, 0])


class Roughly(Gaussian):
    """A Gaussian whose log-density is known up to 0.3 nats."""

    kind = "roughly"

    def replicates(self) -> list[Gaussian]:
        return [Gaussian(self.mean + 0.3, self.scale_tril)]


def test_the_error_of_an_inexact_density_is_in_all_three_gains() -> None:
    split = drawn(rows(40), 32)
    candidates = Candidates({"r": Roughly(R.mean, R.scale_tril)})
    errors = density_errors(candidates, split, VAE, 200, rng=stream(0, "d"))
    own, other = (
        measure_gains(Candidates({"r": r}), split, rng=stream(0, "g"), model=VAE)
        for r in (R, Gaussian(R.mean + 0.3, R.scale_tril))
    )
    assert set(errors) == set(Gain)
    some = torch.linspace(0, 39, 16).long()
    for gain in Gain:
        want = abs(float((own.of(gain)[NAME] - other.of(gain)[NAME])[some].mean()))
        assert errors[gain][NAME] == pytest.approx(want, rel=1e-6), gain
    assert set(density_errors(candidates, split, None, 200, rng=stream(0, "d"))) == {Gain.ELBO, Gain.EXACT_POSTERIOR}


def test_posteriors_of_several_components_have_no_exchange_check_and_the_verdict_says_why() -> None:
    """`model.encode` answers one Gaussian to a simulated row: calibration and check would be of another encoder."""
    given = {}
    for s, x in SPLITS.items():
        mean, scale = MODEL.posterior(x)
        two = torch.stack([mean - 0.2 * scale, mean + 0.2 * scale], 1).flatten(0, 1)
        ids = torch.arange(len(x)) + 1000 * list(SPLITS).index(s)
        parts = ids.repeat_interleave(2)
        given[s] = (
            MemoryPosteriors(two, scale.repeat_interleave(2, 0), row_ids=parts),
            Rows(s, x.repeat_interleave(2, 0), parts),
        )
    posteriors, x = ({s: v[i] for s, v in given.items()} for i in (0, 1))
    prior = Prior(2)
    settings = replace(QUICK, draws=40, rows=40)
    study = Study(*gather(posteriors, x), prior=prior, model=VAE, settings=settings)
    candidates = Candidates({"r": candidate_of(R, 0.01, prior)}, prior=prior)
    split_gains = measure_splits(study, candidates)
    assert uncheckable(study).startswith("posteriors have several components, and `model.encode` answers one Gaussian")
    assert uncheckable(replace(study, heldout=replace(study.heldout, posteriors=posteriors["heldout"].alone()))) == ""
    chosen = replace(choose(candidates, split_gains["selection"], seed=0), unchecked=uncheckable(study))
    assert chosen.best == "r+p1"
    checked = check_choice(study, candidates, chosen)
    assert checked is None
    verdict = decide(candidates, chosen, split_gains["heldout"], checked, seed=0)
    assert verdict.decision == "undecided"
    assert "the exchange check cannot be made: posteriors have several components" in verdict.sentence
    side = likelihood_side(study, candidates, split_gains["heldout"], best=verdict.best, draws=study.settings.draws)
    assert side is not None
    assert side.calibration == []
