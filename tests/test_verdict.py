"""The verdict's rule, on planted gains."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from zprime.latent import Defensive, Gaussian, Mixture
from zprime.measure.candidates import Candidates
from zprime.measure.likelihood.gains import RowGains
from zprime.measure.likelihood.scores import exact_posterior_estimate, likelihood_estimate
from zprime.measure.verdicts.likelihood import decide
from zprime.results.names import CandidateId, Gain
from zprime.results.verdicts import Verdict
from zprime.rng import stream

N = 400
PRIOR, SMALL, LARGE = (CandidateId.parse(n) for n in ("prior", "small+p1", "large+p1"))
BOTH = [Gain.ELBO, Gain.EXACT_POSTERIOR]


def gains(mean: float, spread: float = 1.0, name: str = "x") -> Tensor:
    """N gains with exactly this mean and spread."""
    z = torch.randn(N, generator=stream(0, "gains", name), dtype=torch.float64)
    return mean + spread * (z - z.mean()) / z.std()


def mixture(k: int) -> Mixture:
    return Mixture(torch.zeros(k).log_softmax(0), torch.zeros(k, 2), torch.ones(k, 2))


PANEL = Candidates(
    {"small": Defensive(Gaussian(torch.zeros(2), torch.ones(2)), 0.01), "large": Defensive(mixture(50), 0.01)}
)


def ladder(
    split: str, small: float, large: float, *, moved: float = 0.0, spread: float = 1.0, code: float | None = None
) -> RowGains:
    values = {PRIOR: torch.zeros(N).double(), SMALL: gains(small, spread, "a"), LARGE: gains(large, spread, "a")}
    quarter = {k: v + (moved if k == LARGE else 0.0) for k, v in values.items()}
    shifted = {k: v + (code if code is not None and k != PRIOR else 0.0) for k, v in values.items()}
    return RowGains(split, elbo=shifted, exact_posterior=values, likelihood=values, quarter=quarter, draws=400)


def verdict(selection: RowGains, heldout: RowGains) -> Verdict:
    return decide(PANEL, selection, heldout, seed=0)


def test_leaves_the_prior_for_the_best() -> None:
    v = verdict(ladder("selection", 0.5, 2.0), ladder("heldout", 0.5, 1.8))
    assert (v.decision, v.choice, v.gains) == ("leave the prior", "large+p1", [Gain.LIKELIHOOD])
    assert v.sentence.startswith(
        "Draw z' from mixture(50) + 1 % p, not from the prior: held-out data are 1.80 ± 0.05 nats per row"
    )
    assert v.numbers["heldout"].value == pytest.approx(1.8)


def test_a_tie_goes_to_the_one_that_stores_least() -> None:
    assert verdict(ladder("selection", 1.96, 2.0), ladder("heldout", 1.9, 1.9)).choice == "small+p1"
    assert verdict(ladder("selection", 1.94, 2.0), ladder("heldout", 1.9, 1.9)).choice == "large+p1"


def test_keeps_the_prior_when_nothing_is_better() -> None:
    v = verdict(ladder("selection", 0.01, 0.04), ladder("heldout", 3.0, 3.0))
    assert (v.decision, v.choice, v.best) == ("keep the prior", "prior", "prior")


def test_keeps_the_prior_when_held_out_data_do_not_confirm() -> None:
    v = verdict(ladder("selection", 0.0, 1.0), ladder("heldout", 0.0, 0.09))  # 2 s.e. are 0.1
    assert (v.decision, v.choice, v.best) == ("keep the prior", "prior", "large+p1")
    assert "needed more than 0.10" in v.why[1]


def test_held_out_is_opened_for_the_selected_one_only() -> None:
    v = verdict(ladder("selection", 0.0, 1.0), ladder("heldout", 9.0, -1.0))
    assert v.choice == "prior"


@pytest.mark.parametrize(("code", "decision"), [(0.0, "leave the prior"), (-3.0, "undecided")])
def test_untrusted_likelihood_needs_code_and_evidence_gain(code: float, decision: str) -> None:
    v = verdict(ladder("selection", 0.5, 2.0, moved=0.2), ladder("heldout", 0.5, 2.0, moved=0.2, code=code))
    assert (v.decision, v.gains) == (decision, BOTH)
    assert v.choice == ("large+p1" if decision == "leave the prior" else "prior")
    assert "large+p1 moved -0.200 nats from 100 to 400 draws (limit 0.050)" in v.why[0]


def test_trusted_on_selection_but_not_on_held_out_falls_back() -> None:
    v = verdict(ladder("selection", 0.5, 2.0), ladder("heldout", 0.5, 2.0, moved=0.2))
    assert v.gains == BOTH
    assert "on the held-out split the likelihood gain of large+p1 moved" in v.why[0]


def test_without_a_decoder() -> None:
    bare = {s: replace(ladder(s, 0.5, 2.0), likelihood={}, quarter={}) for s in ("selection", "heldout")}
    v = verdict(bare["selection"], bare["heldout"])
    assert (v.decision, v.choice) == ("leave the prior", "large+p1")
    assert v.why[0] == "the likelihood gain was not measured (no decoder)"


def test_trust_is_about_a_quarter_of_the_draws() -> None:
    assert likelihood_estimate(ladder("heldout", 0, 1, moved=0.049), LARGE, 0).stable
    assert not likelihood_estimate(ladder("heldout", 0, 1, moved=0.051), LARGE, 0).stable
    assert likelihood_estimate(ladder("heldout", 0, 1, moved=0.051, spread=2.0), LARGE, 0).stable  # 1 s.e. is 0.1


def test_every_number_of_the_choice_is_kept() -> None:
    """The rule, applied again to nothing but what the verdict keeps, gives the verdict."""
    for small, large in ((1.96, 2.0), (1.94, 2.0), (0.5, 0.2), (0.01, 0.04)):
        selection = ladder("selection", small, large, moved=0.01)
        v = verdict(selection, ladder("heldout", small, large))
        found = {s.name: s for s in v.ranking}
        assert set(found) == {"prior", "small+p1", "large+p1"}
        top = max(found.values(), key=lambda s: s.gain.value)
        for s in found.values():
            assert s.behind == pytest.approx(top.gain.value - s.gain.value)
            difference = (
                selection.likelihood[CandidateId.parse(top.name)] - selection.likelihood[CandidateId.parse(s.name)]
            )
            assert s.behind_stderr == pytest.approx(float(difference.std()) / N**0.5)
            assert s.limit == pytest.approx(max(s.behind_stderr, 0.05))
            assert s.tied == (s is top or s.behind < s.limit)
            assert s.likelihood == s.gain
        assert min((s for s in found.values() if s.tied), key=lambda s: s.bytes).name == v.best
        if v.best != "prior":
            heldout = v.numbers["heldout"]
            assert v.needed["heldout"] == pytest.approx(max(2 * (heldout.stderr or 0), 0.05))
            assert (v.decision == "leave the prior") == (heldout.value > v.needed["heldout"])


def test_one_untrusted_candidate_takes_the_rung_from_all() -> None:
    v = verdict(ladder("selection", 2.0, 0.5, moved=0.2), ladder("heldout", 2.0, 0.5))
    assert v.gains == BOTH
    assert (v.decision, v.choice) == ("leave the prior", "small+p1")
    assert [s.likelihood.stable for s in v.ranking if s.likelihood] == [True, True, False]
    assert set(v.needed) == set(v.numbers) == {"ELBO gain", "exact-posterior gain"}


def test_without_a_trusted_likelihood_gain_nothing_is_kept_either_it_is_undecided() -> None:
    """Rule 4: leave only if both other gains say so; else undecided, also where the ELBO gain prefers the prior."""
    v = verdict(ladder("selection", 0.5, 2.0, moved=0.2, code=-3.0), ladder("heldout", 0.5, 2.0, moved=0.2, code=-3.0))
    assert (v.decision, v.choice, v.best) == ("undecided", "prior", "prior")
    assert "large+p1 moved -0.200 nats" in v.why[0]
    assert {s.name: s.gain.value for s in v.ranking}["large+p1"] == pytest.approx(-1.0)


@pytest.mark.parametrize(("moved", "decision"), [(0.0, "leave the prior"), (0.2, "undecided")])
def test_an_evidence_gain_by_importance_sampling_must_stand_still_too(moved: float, decision: str) -> None:
    bare = {}
    for split in ("selection", "heldout"):
        one = ladder(split, 0.5, 2.0)
        earlier = {LARGE: one.exact_posterior[LARGE] - moved}
        bare[split] = replace(one, likelihood={}, quarter={}, exact_posterior_quarter=earlier)
    v = verdict(bare["selection"], bare["heldout"])
    assert v.decision == decision
    assert "by importance sampling: moved" in v.numbers["exact-posterior gain"].because


def test_rows_without_an_evidence_gain_are_left_out_and_said() -> None:
    one = ladder("heldout", 0.5, 2.0)
    one.exact_posterior[LARGE][3] = float("inf")
    e = exact_posterior_estimate(one, LARGE, 0)
    assert e.n == N - 1
    assert not e.stable
    assert e.because == "1 rows diverge: q is wider than the prior there"
