"""Draws of flows as measures use them: independent noise, as many on both sides of a comparison, and few of them."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

import small
from studies import study
from zprime import audit, bring
from zprime.data import Rows
from zprime.encoding import encode
from zprime.latent import Gaussian
from zprime.measure.candidates import Candidates
from zprime.measure.likelihood import membership as module
from zprime.measure.likelihood.exchange import FINEST, Chain, exchange_check
from zprime.measure.likelihood.gains import RowGains, measure_gains
from zprime.measure.likelihood.membership import membership
from zprime.measure.study import Split, Study
from zprime.posterior_flow import Step, degrees
from zprime.posteriors import MemoryPosteriors
from zprime.results.likelihood import Exchange
from zprime.results.names import CandidateId, Gain
from zprime.results.settings import AuditSettings
from zprime.rng import stream
from zprime.vae import VAE, VAESettings

FLOW = VAESettings(latents=2, hidden=(8,), posterior="flow", flow_steps=2, likelihood="bernoulli")
R = Gaussian(torch.tensor([0.4, -0.2]), torch.tensor([[0.8, 0.0], [0.3, 0.6]]))
AMONG = Candidates({"r": R})
NAME = CandidateId("r")


def bits(n: int, seed: int = 0) -> Tensor:
    """Rows of four bits: many are equal."""
    return (torch.rand(n, 4, generator=stream(seed, "bits")) < 0.5).float()


def of_flow() -> Study:
    """A study of a flow that was not trained."""
    vae = VAE.build((4,), FLOW, seed=1).eval()
    rows = {
        s: Rows(s, bits(20, i), 100 * i + torch.arange(20)) for i, s in enumerate(("train", "selection", "heldout"))
    }
    q = {s: encode(vae, r, draws=16) for s, r in rows.items()}
    return study(q, rows, model=vae, settings=AuditSettings(exchange=30, draws=40))


def test_simulated_rows_that_are_equal_have_noise_of_their_own() -> None:
    """Within a place of the exchange check, and between places."""
    chain = Chain(s := of_flow(), s.model, AMONG, NAME)
    found = [chain._simulate(place)[0] for place in (0, FINEST)]
    both = torch.cat([split.rows.x for split in found])
    assert len(torch.unique(both, dim=0)) <= 16 < len(both)
    q = [split.posteriors for split in found]
    assert q[0].data == q[1].data == 30
    assert not torch.isin(q[0].row_ids, q[1].row_ids).any()
    assert len(torch.unique(torch.cat([p.mean[:, 0] for p in q]))) == 2 * 30 * 16


def exact(n: int, draws: int, seed: int) -> MemoryPosteriors:
    """Draws of exact posteriors N(m, I) of data of one population, with log q there; nothing was seen."""
    rng = stream(seed, "exact")
    m = torch.randn(n, 1, 2, generator=rng, dtype=torch.float64)
    e = torch.randn(n, draws, 2, generator=rng, dtype=torch.float64)
    log_q = (-0.5 * e.square().sum(2) - math.log(2 * math.pi)).flatten()
    ids = (10_000 * seed + torch.arange(n)).repeat_interleave(draws)
    return MemoryPosteriors((m + e).flatten(0, 1), None, row_ids=ids, log_q=log_q)


@pytest.mark.parametrize(("train", "heldout"), [(8, 64), (64, 8)])
def test_rows_that_were_not_seen_are_told_by_no_number_of_draws(train: int, heldout: int) -> None:
    """Without their rows no draws can be made: a log of a mean over 8 is smaller than over 64."""
    q = {"train": exact(1500, train, 1), "heldout": exact(1500, heldout, 2)}
    settings = AuditSettings(members=1500, rows=1500)
    s = study(q, settings=settings)
    narrow = Candidates({"r": Gaussian(torch.tensor([0.7, -0.4]).double(), 0.4 * torch.eye(2).double())})
    gains = measure_gains(narrow, s.heldout, rng=stream(0, "h"))
    found = membership(s, narrow, gains)
    assert found is not None
    assert (found.members, found.others, found.score) == (1500, 1500, Gain.EXACT_POSTERIOR)
    area = found.candidates[NAME].auc
    assert area.value == pytest.approx(0.5, abs=3 * (area.stderr or 0))


def test_data_with_different_numbers_of_draws_have_the_fewest(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first ones of each datum; where all have as many, held-out gains are taken as they are."""
    s = study({"train": exact(40, 6, 1), "heldout": exact(40, 6, 2)})
    ragged = replace(s, heldout=s.heldout.take((torch.arange(240) != 7).nonzero().flatten()))
    scored: list[Split] = []

    def noted(candidates: Candidates, split: Split, **more: Any) -> RowGains:
        scored.append(split)
        return measure_gains(candidates, split, **more)

    gains = measure_gains(AMONG, ragged.heldout, rng=stream(0, "h"))
    monkeypatch.setattr(module, "measure_gains", noted)
    assert membership(ragged, AMONG, gains) is not None
    assert [split.n for split in scored] == [40 * 5, 40 * 5]
    same = torch.isin(scored[0].posteriors.mean[:, 0], s.heldout.posteriors.mean.reshape(40, 6, 2)[:, :5, 0])
    assert int(same.sum()) == 40 * 5 - 1  # of the datum that lacks its draw 1, draw 5 counts
    scored.clear()
    membership(s, AMONG, measure_gains(AMONG, s.heldout, rng=stream(0, "h")))
    assert [split.n for split in scored] == [40 * 6]


def drawn(draws: int, *, missing: int = 0) -> tuple[VAE, dict[str, Rows], dict[str, MemoryPosteriors]]:
    """A flow, rows, and so many draws of each; the first held-out row lacks some."""
    vae = VAE.build((4,), replace(FLOW, likelihood="gaussian"), seed=1).eval()
    x = torch.randn(300, 4, generator=stream(0, "x"))
    sizes = {"train": slice(0, 150), "selection": slice(150, 200), "heldout": slice(200, 300)}
    rows = {s: Rows(s, x[at], torch.arange(300)[at]) for s, at in sizes.items()}
    q = {s: encode(vae, r, draws=max(4, draws)).gather() for s, r in rows.items()}
    for s, p in q.items():
        kept = torch.arange(p.n) % (p.n // p.data) < draws
        if s == "heldout":
            kept[:missing] = False
        q[s] = p.take(kept.nonzero().flatten())
    return vae, rows, q


def exchanged(draws: int, *, missing: int = 0) -> Exchange | None:
    vae, rows, q = drawn(draws, missing=missing)
    return exchange_check(study(q, rows, model=vae, settings=AuditSettings(exchange=50, draws=40)), AMONG, NAME, 0.5)


@pytest.mark.parametrize("draws", [4, 3, 2])
def test_the_fewest_draws_that_encode_takes_and_fewer_that_were_brought_are_audited(draws: int) -> None:
    """A quarter of 2 or 3 draws is one draw."""
    vae, rows, q = drawn(draws)
    found = audit({"r": R}, q, model=vae, rows=rows, settings=replace(small.AUDIT, samples=0, members=50))
    assert found.likelihood is not None
    assert math.isfinite(found.likelihood.gaps["heldout"].gap.value)
    assert found.membership is not None
    checked = exchanged(draws)
    assert checked is not None
    assert checked.draws == draws
    assert math.isfinite(checked.delta.value)


def test_simulated_rows_have_as_many_draws_as_the_datum_with_the_fewest() -> None:
    checked = exchanged(8, missing=3)
    assert checked is not None
    assert checked.draws == 5


def test_two_draws_with_log_q_may_be_brought() -> None:
    vae, x = VAE.build((4,), replace(FLOW, likelihood="gaussian"), seed=1).eval(), torch.randn(200, 4)
    data = {"train": x[:100], "heldout": x[100:]}

    def answer(x: Tensor) -> tuple[Tensor, Tensor]:
        q = vae.draw(x)
        return q.z, q.log_q

    mine = bring.draws(answer, data, vae.decode, draws=2)
    settings = replace(small.AUDIT, samples=0)
    found = audit({"r": R}, mine.posteriors, model=mine.model, rows=mine.rows, settings=settings)
    assert found.likelihood is not None


@pytest.mark.parametrize("d", [2, 5, 64, 65, 80, 200])
@pytest.mark.parametrize("backwards", [False, True])
def test_a_place_depends_on_those_before_it_alone_and_on_all_that_are_far_enough(d: int, *, backwards: bool) -> None:
    step = Step(d, backwards=backwards).double()
    rng = stream(0, "step")
    with torch.no_grad():
        for p in step.parameters():
            p.copy_(torch.randn(p.shape, generator=rng, dtype=torch.float64) / 4)
    z, h = torch.randn(d, generator=rng, dtype=torch.float64), torch.zeros(1, 64, dtype=torch.float64)
    found = torch.func.jacrev(lambda z: step(z[None], h)[0][0])(z).ne(0)
    found = found.flip(0, 1) if backwards else found
    behind = torch.arange(d)[:, None] - torch.arange(d)
    assert not found[behind < 0].any()
    assert found[behind >= -(-(d - 1) // 63 if d > 64 else -1)].all()
    assert found.diagonal().all()
    assert bool(found[:, :-1].sum(0).ge(2).all())  # some place is told of each


def test_degrees_of_few_latents_are_those_of_models_that_are_stored() -> None:
    for d in (1, 2, 7, 63, 64):
        assert torch.equal(degrees(d), torch.arange(64) % d - 1)
    assert degrees(80).tolist()[:3] == [-1, 0, 1]
    assert int(degrees(80).max()) == 78
