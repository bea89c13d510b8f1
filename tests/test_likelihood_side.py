"""Inference gap, bits per dimension, annealed bounds beside the likelihood gain, and all of them in one audit."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.distributions import Bernoulli, Independent, Normal

from oracles import evidence, linear_gaussian
from studies import study
from zoo import ZOO
from zprime.auditing import audit
from zprime.data import Rows
from zprime.errors import UsageError
from zprime.latent import Gaussian
from zprime.measure.candidates import Candidates
from zprime.measure.likelihood.ais import AISSettings, Annealed
from zprime.measure.likelihood.bits import bits_per_dimension, units
from zprime.measure.likelihood.finer import Measured
from zprime.measure.likelihood.gains import RowGains, measure_gains
from zprime.measure.likelihood.inference import inference_gap
from zprime.measure.likelihood.sandwich import sandwich
from zprime.measure.likelihood.simulation import Simulator
from zprime.measure.study import Split
from zprime.posteriors import MemoryPosteriors
from zprime.reporting.likelihood import sentences
from zprime.results.audit import Audit, AuditSettings
from zprime.results.audit import load as load_audit
from zprime.results.facts import DataInfo
from zprime.results.likelihood import Sandwich
from zprime.results.names import CandidateId
from zprime.rng import stream
from zprime.statistics.estimate import mean_estimate
from zprime.vae import Model

MODEL = linear_gaussian()
PANEL = Candidates({"mixture": ZOO["mixture"](2, torch.float64)})


def ladder(widen: float, n: int = 200, draws: int = 400) -> RowGains:
    x, _ = MODEL.sample(n, seed=3)
    mean, scale = MODEL.posterior(x)
    return measure_gains(
        PANEL,
        Split("heldout", MemoryPosteriors(mean, scale * widen), Rows("heldout", x, torch.arange(n))),
        rng=stream(0, "ladder"),
        model=MODEL.vae(),
        draws=draws,
    )


@pytest.mark.parametrize("widen", [0.6, 1.0, 1.4])
def test_inference_gap_is_the_divergence_from_the_posterior(widen: float) -> None:
    found = inference_gap(Measured(ladder(widen)), seed=0)
    truth = 2 * (0.5 * (widen**2 - 1) - math.log(widen))
    assert found.gap.low - 0.02 < truth < found.gap.high + 0.02
    assert found.gap.stable
    assert found.gap.n == 200
    assert found.log_prob.value == pytest.approx(found.elbo.value + found.gap.value)
    assert found.elbo.value == pytest.approx(found.reconstruction.value - found.kl.value)
    assert found.kl.stderr is None


def test_the_gap_of_an_exact_encoder_has_no_error_but_that_of_its_draws() -> None:
    found = ladder(1.0)
    gap = inference_gap(Measured(found), seed=0).gap
    assert gap.stderr is not None
    assert gap.stderr < 0.15
    assert abs(gap.value) < 4 * gap.stderr


def test_a_gap_that_still_moves_is_not_trusted() -> None:
    found = ladder(0.6)
    assert found.log_prior is not None
    found = replace(found, log_prior_quarter=found.log_prior - 0.3)
    gap = inference_gap(Measured(found), seed=0).gap
    assert not gap.stable
    assert "moved +0.300 nats from 100 to 400 draws" in gap.because


def test_a_ladder_without_a_decoder_has_no_gap() -> None:
    mean, scale = MODEL.posterior(MODEL.sample(5)[0])
    bare = measure_gains(PANEL, Split("heldout", MemoryPosteriors(mean, scale)), rng=stream(0, "x"))
    with pytest.raises(UsageError, match="gains: expected gains that were measured with a decoder"):
        inference_gap(Measured(bare), seed=0)


class Pixels:
    def decode(self, z: Tensor) -> Independent:
        return Independent(Bernoulli(logits=z.repeat(1, 4), validate_args=False), 1)


class Grey:
    def decode(self, z: Tensor) -> Independent:
        return Independent(Normal(z.repeat(1, 4), 0.5), 1)


def test_bits_of_a_density_are_those_of_the_data_as_stored() -> None:
    """Standard deviation 0.5 in scaled units is 127.5 of 255 grey values: the density of the latter, in closed form."""
    z = torch.zeros(40, 1)
    x = 0.5 * torch.randn(40, 4, generator=stream(0, "x"))
    log_prob = Grey().decode(z).log_prob(x)
    stored = Independent(Normal(torch.zeros(40, 4), 127.5), 1).log_prob(255 * x)
    e = mean_estimate(log_prob, unit="nats per row", split="heldout", seed=0)
    found = bits_per_dimension(e, units(Grey(), x, z, log_scale=4 * math.log(255)))
    assert found.value == pytest.approx(-float(stored.mean()) / 4 / math.log(2), rel=1e-5)
    assert found.low < found.value < found.high
    assert found.stderr == pytest.approx(e.stderr / 4 / math.log(2))
    assert found.unit == "bits per dimension"
    assert "not the probability of a bin" in units(Grey(), x, z, log_scale=1.0).says
    assert "scaled units (those of the data are not known)" in units(Grey(), x, z, log_scale=None).says


def test_bits_of_binary_data_are_a_code_length_and_of_grey_data_under_bernoulli_nothing() -> None:
    z = torch.zeros(3, 1)
    binary = units(Pixels(), torch.ones(3, 4), z, log_scale=4 * math.log(255))
    assert binary.log_scale == 0
    e = mean_estimate(Pixels().decode(z).log_prob(torch.ones(3, 4)), unit="nats", split="heldout", seed=0)
    assert bits_per_dimension(e, binary).value == pytest.approx(1.0)  # a fair coin a pixel
    grey = units(Pixels(), torch.full((3, 4), 0.5), z, log_scale=0.0)
    assert not grey.meaningful
    assert "binarise" in grey.says


def simulated(name: str, model: Model, settings: AISSettings, *, rows: int) -> Sandwich:
    about = study(
        {"heldout": MemoryPosteriors(*MODEL.posterior(MODEL.sample(5)[0]))}, settings=AuditSettings(ais=rows, draws=200)
    )
    simulator = Simulator(name, PANEL.distribution(CandidateId.parse(name)), model, torch.float64)
    return sandwich(about, PANEL, simulator, settings=settings, rng=stream(0, "s"))


def test_sandwich_holds_the_truth_and_judges_rung_c() -> None:
    for name in ("prior", "mixture"):
        s = simulated(name, MODEL.vae(widen=0.7), AISSettings(20, 4, 4), rows=30)
        assert s.forward.low < s.reverse.high
        assert s.gap.stable
        assert -0.1 < s.gap.value < 0.3
        assert abs(s.below.value) < 0.2
        assert s.below.value + s.above.value == pytest.approx(s.gap.value)
        # the simulated rows are the same whatever is measured on them
        from zprime.measure.likelihood.simulation import simulate
        from zprime.rng import fork

        r = PANEL.distribution(CandidateId.parse(name))
        _, rows = simulate(r, MODEL.vae(), 30, dtype=torch.float64, rng=fork(stream(0, "s"), "simulate", name))
        truth = float(evidence(MODEL, rows.x, r).mean())
        slack = 4 * (s.gap.stderr or 0.0) + 0.02
        assert s.forward.value - slack < truth < s.reverse.value + slack


def test_a_wide_sandwich_is_not_trusted() -> None:
    narrow = MODEL.vae(widen=0.1)
    s = simulated("prior", narrow, AISSettings(2, 1, 1), rows=20)
    assert not s.gap.stable
    assert "more temperatures bring them together" in s.gap.because


SMALL = AuditSettings(rows=60, draws=120, grid=4, map=10, simulated=150, ais=4, temperatures=8)


def whole(widen: float = 1.0) -> Audit:
    posteriors, rows = {}, {}
    for i, name in enumerate(("train", "selection", "heldout")):
        x, _ = MODEL.sample(80, seed=i)
        x = x + MODEL.weight.sum(1)  # as if z had been drawn about 1
        mean, scale = MODEL.posterior(x)
        posteriors[name] = MemoryPosteriors(mean, widen * scale)
        rows[name] = Rows(name, x, torch.arange(80))
    r = Gaussian(torch.ones(2).double(), torch.ones(2).double())
    model = MODEL.vae(widen=widen)
    data = DataInfo(log_scale=6 * math.log(10.0))
    return audit({"shifted": r}, posteriors, model=model, rows=rows, data=data, settings=SMALL)


def test_all_of_it_in_an_audit_and_back_from_disk(tmp_path) -> None:
    found = whole()
    side = found.likelihood
    assert side is not None
    assert {str(i) for i in side.log_prob} == {str(i) for i in side.bits} == {"prior", "shifted+p1", "shifted"}
    gain = side.log_prob[CandidateId("shifted")].value - side.log_prob[CandidateId("prior")].value
    assert gain == pytest.approx(found.entry("shifted").heldout.likelihood.gain.value)
    nats = side.log_prob[CandidateId("prior")].value - 6 * math.log(10)
    assert side.bits[CandidateId("prior")].value == pytest.approx(-nats / 6 / math.log(2))
    assert [c.source for c in side.calibration] == ["prior", "shifted+p1"]
    assert all(c.calibrated for c in side.calibration)
    assert [s.name for s in side.sandwiches] == ["prior", "shifted+p1"]
    assert set(side.gaps) == {"heldout"}
    found.save(tmp_path / "audit")
    again = load_audit(tmp_path / "audit")
    assert again.likelihood == side
    assert again.verdict == found.verdict
    for part in ("quarter.heldout.shifted", "log_prior.selection", "reconstruction.heldout", "kl.heldout"):
        assert torch.equal(again.tensors[part], found.tensors[part])
    said = sentences(found)
    assert len(said) == 6
    assert said == sentences(again)
    assert str(side.gaps["heldout"].gap) in said[1]
    assert "no test rejects the encoder" in said[2]
    assert f"{side.bits[CandidateId('shifted', 1.0)].value:.4f}" in said[0]


def test_a_wrong_encoder_is_named_and_without_a_decoder_nothing_is_said() -> None:
    found = whole(0.5)
    said = sentences(found)
    assert "too narrow" in said[2]
    assert "the encoder's posteriors are not the model's (p < 0.001)" in said[2]
    assert sentences(replace(found, likelihood=None)) == []


@pytest.mark.parametrize(("gap", "stable"), [(0.95, True), (1.05, False)])
def test_a_sandwich_is_wide_from_one_nat_on(gap: float, stable: bool, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: FBT001
    class Chains:
        def __init__(self, *args: object, **kwargs: object) -> None:
            pass

        def forward(self) -> Annealed:
            return Annealed(torch.linspace(-9, -8, 20).double(), torch.ones(20).double(), torch.zeros(20, 1, 2))

        def reverse(self, z: torch.Tensor) -> Annealed:
            return replace(self.forward(), log_prob=self.forward().log_prob + gap)

    monkeypatch.setattr("zprime.measure.likelihood.sandwich.Annealer", Chains)
    s = simulated("prior", MODEL.vae(), AISSettings(), rows=20)
    assert s.gap.value == pytest.approx(gap)
    assert s.gap.stable is stable
