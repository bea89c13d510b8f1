"""The latent side in one call: what it reuses, what it adds, and that it survives JSON."""

import json

import pytest
import torch

from studies import study
from zoo import posteriors, weighted
from zprime import serialise
from zprime.latent import Active, Aggregated, Defensive, Gaussian
from zprime.measure.candidates import Candidates
from zprime.measure.latents.side import CONTROL, latents_side
from zprime.measure.latents.surgery import surgery
from zprime.measure.likelihood.gains import measure_gains
from zprime.measure.study import Split
from zprime.posteriors import MemoryPosteriors
from zprime.results.latents import LatentsSide
from zprime.results.names import CandidateId
from zprime.rng import stream

SPLITS = ("train", "selection", "heldout")


def run(candidates: Candidates, p: dict[str, MemoryPosteriors], seed: int = 0) -> LatentsSide:
    split_gains = {s: measure_gains(candidates, Split(s, p[s]), rng=stream(0, s)) for s in SPLITS[1:]}
    cut = surgery(Split("train", p["train"]), rng=stream(0, "surgery"))
    return latents_side(study(p, seed=seed), candidates, split_gains, cut)


def splits(n: int = 60) -> dict[str, MemoryPosteriors]:
    return {s: posteriors(2, n=n, seed=i) for i, s in enumerate(SPLITS)}


def exact(p: dict[str, MemoryPosteriors]) -> Aggregated:
    return Aggregated(p["train"].mean, p["train"].scale, p["train"].weights)


def one() -> Gaussian:
    return Gaussian(torch.zeros(2).double(), torch.full((2,), 1.4).double())


def test_every_candidate_and_a_control_is_tested_and_it_survives_json() -> None:
    p = splits()
    found = run(Candidates({"aggregated": Defensive(exact(p), 0.1), "one": one()}), p)
    assert list(found.two_sample) == [CONTROL, "prior", "aggregated+p10", "one"]
    assert [str(i) for i in found.leave_one_out] == ["aggregated+p10", "aggregated"]
    assert found.minibatch is not None
    assert found.hole is not None
    assert found.two_sample["one"].mmd.squared.n == 60
    text = json.dumps(serialise.to_jsonable(found))
    assert serialise.from_jsonable(LatentsSide, json.loads(text)) == found


def test_the_aggregated_posterior_is_measured_where_it_is_no_candidate_too() -> None:
    p = splits()
    with_it, without = run(Candidates({"aggregated": exact(p)}), p), run(Candidates({"one": one()}), p)
    assert list(without.leave_one_out) == [CandidateId("aggregated")]
    a, b = with_it.leave_one_out[CandidateId("aggregated")], without.leave_one_out[CandidateId("aggregated")]
    assert a.elbo["leave-one-out"] == b.elbo["leave-one-out"]
    assert a.exact_posterior["held-out"].value == pytest.approx(b.exact_posterior["held-out"].value, abs=1e-9)
    held_out = b.elbo["held-out"]
    assert held_out.split == "heldout"
    assert 0 < (held_out.stderr or 0) < 0.3
    assert held_out.value == pytest.approx(a.elbo["held-out"].value, abs=4 * (held_out.stderr or 0))


def test_the_aggregated_posterior_is_measured_once_whatever_it_is_called() -> None:
    p = splits()
    for r in (exact(p), Active(Aggregated(p["train"].mean[:, :1], p["train"].scale[:, :1]), (0,), 2)):
        assert list(run(Candidates({"mine": r}), p).leave_one_out) == [CandidateId("mine")]


def test_every_candidate_has_draws_of_its_own() -> None:
    found = run(Candidates({"a": one(), "b": one()}), splits()).two_sample
    assert found["a"].mmd.squared.value != found["b"].mmd.squared.value


def test_the_seed_decides_everything() -> None:
    p = splits()
    candidates = Candidates({"one": one()})
    before = torch.get_rng_state()
    assert run(candidates, p) == run(candidates, p)
    assert run(candidates, p, seed=1) != run(candidates, p)
    assert torch.equal(torch.get_rng_state(), before)


def test_results_do_not_depend_on_the_size_of_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    from zprime.kernels import compiled, mixture_torch
    from zprime.measure.latents import leave_one_out

    p = splits()
    candidates = Candidates({"aggregated": exact(p)})
    whole = run(candidates, p)
    monkeypatch.setattr(compiled, "module", None)  # nor on which kernels
    monkeypatch.setattr(mixture_torch, "POINTS", 7)
    monkeypatch.setattr(mixture_torch, "COMPONENTS", 11)
    monkeypatch.setattr(leave_one_out, "PAIRS", 200)
    pieces = run(candidates, p)
    for gain in ("elbo", "exact_posterior"):
        for name, e in getattr(whole.leave_one_out[CandidateId("aggregated")], gain).items():
            assert getattr(pieces.leave_one_out[CandidateId("aggregated")], gain)[name].value == pytest.approx(
                e.value, abs=1e-9
            )
    assert whole.hole is not None
    assert pieces.hole is not None
    assert (pieces.hole.low, pieces.hole.high) == pytest.approx((whole.hole.low, whole.hole.high), abs=1e-9)
    assert pieces.low_density == whole.low_density
    assert pieces.total_correlation.total.value == pytest.approx(whole.total_correlation.total.value, abs=1e-9)


def test_few_rows_and_weights_leave_out_what_they_cannot_give() -> None:
    few = run(
        Candidates({"one": one()}),
        {"train": posteriors(2, n=1), "selection": posteriors(2, n=4), "heldout": posteriors(2, n=2)},
    )
    assert few.leave_one_out == {}
    assert few.two_sample == {}
    assert few.hole is None
    assert few.minibatch is None
    p = {**splits(), "train": weighted(2, torch.float64)}
    weighed = run(Candidates({"one": one()}), p)
    assert weighed.minibatch is None
    shares = p["train"].log_weights.exp()
    effective = round(float(1 / shares.square().sum()))
    assert effective < 24
    assert weighed.leave_one_out[CandidateId("aggregated")].elbo["self-included"].n == effective


def test_two_cores_agree_with_one() -> None:
    p = splits()
    candidates = Candidates({"aggregated": exact(p)})
    threads = torch.get_num_threads()
    single = run(candidates, p)
    torch.set_num_threads(2)
    double = run(candidates, p)
    torch.set_num_threads(threads)
    a, b = serialise.to_jsonable(single), serialise.to_jsonable(double)
    assert _numbers(a) == pytest.approx(_numbers(b), abs=1e-9)


def _numbers(value: object) -> list[float]:
    if isinstance(value, dict):
        return [x for v in value.values() for x in _numbers(v)]
    if isinstance(value, list):
        return [x for v in value for x in _numbers(v)]
    return [float(value)] if isinstance(value, int | float) else []
