"""The audit on the linear-Gaussian model, and what it refuses."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from oracles import linear_gaussian
from zprime import encoding, serialise
from zprime.artifact import Artifact
from zprime.auditing import audit
from zprime.data import Rows
from zprime.errors import ArrayError, UsageError
from zprime.latent import Aggregated, Defensive, Gaussian, LogPool, Prior
from zprime.latent.kind import Fit
from zprime.measure.candidates import Candidates
from zprime.measure.study import Split, shared_rows
from zprime.posteriors import MemoryPosteriors
from zprime.reporting import page
from zprime.reporting.provenance import facts
from zprime.results.audit import Audit, AuditSettings
from zprime.results.facts import Chosen, Duplicates
from zprime.results.names import CandidateId, Gain
from zprime.results.public import publish
from zprime.rng import stream

MODEL = linear_gaussian(D=5, d=2, var=0.5)
QUICK = AuditSettings(rows=60, draws=40, grid=4, map=10, samples=0, simulated=0)
SMALL = AuditSettings(rows=60, draws=120, grid=4, map=10, samples=60)


def splits(shift: float = 0.0, n: int = 80) -> tuple[dict[str, MemoryPosteriors], dict[str, Rows]]:
    posteriors, rows = {}, {}
    for i, name in enumerate(("train", "selection", "heldout")):
        x, z = MODEL.sample(n, seed=i)
        x = x + shift * MODEL.weight.sum(1)  # as if z had been drawn about `shift`
        posteriors[name] = MemoryPosteriors(*MODEL.posterior(x))
        rows[name] = Rows(name, x, torch.arange(n))
    return posteriors, rows


def shifted(by: float) -> Gaussian:
    return Gaussian(torch.full((2,), by).double(), torch.ones(2).double())


def test_a_true_prior_is_kept_and_a_planted_hole_is_found() -> None:
    posteriors, rows = splits()
    kept = audit({"shifted": shifted(1.0)}, posteriors, model=MODEL.vae(), rows=rows, settings=SMALL)
    assert kept.verdict.decision == "keep the prior"
    posteriors, rows = splits(shift=1.0)
    left = audit({"shifted": shifted(1.0)}, posteriors, model=MODEL.vae(), rows=rows, settings=SMALL)
    assert (left.verdict.decision, left.verdict.choice) == ("leave the prior", "shifted+p1")
    scores = left.entry("shifted").heldout
    for gain in (Gain.EXACT_POSTERIOR, Gain.LIKELIHOOD):
        # KL(N(1, I) || N(0, I)) is 1 in two dimensions; x sees a part of it, as a Gaussian of its own
        marginal = MODEL.weight @ MODEL.weight.T + MODEL.var * torch.eye(5)
        gap = MODEL.weight.sum(1)
        truth = float(0.5 * gap @ torch.linalg.solve(marginal.double(), gap))
        score = scores.of(gain)
        assert score is not None
        assert score.gain.low < truth < score.gain.high
        assert score.gain.n == 60


def test_gains_agree_on_the_linear_model_and_are_kept_row_by_row() -> None:
    posteriors, rows = splits(shift=0.7)
    found = audit({"shifted": shifted(0.7)}, posteriors, model=MODEL.vae(), rows=rows, settings=SMALL)
    kept = found.tensors
    torch.testing.assert_close(
        kept["gain.heldout.likelihood.shifted"], kept["gain.heldout.exact_posterior.shifted"], rtol=0, atol=0.35
    )
    score = found.entry("shifted").heldout.likelihood
    assert score.gain.value == pytest.approx(float(kept["gain.heldout.likelihood.shifted"].mean()))
    assert score.above == pytest.approx(float((kept["gain.heldout.likelihood.shifted"] > 0).double().mean()))


def test_without_a_model_only_what_needs_no_decoder() -> None:
    posteriors, _ = splits(shift=3.0)
    found = audit({"shifted": shifted(3.0)}, posteriors, settings=SMALL)
    assert found.entry("shifted").heldout.measured == [Gain.ELBO, Gain.EXACT_POSTERIOR]
    assert (found.verdict.decision, found.verdict.choice, found.verdict.best) == ("undecided", "prior", "shifted+p1")
    assert found.verdict.bet is not None
    assert found.verdict.bet.passed  # the ELBO gain, which decides nothing
    assert found.log_prior is None
    assert not any(k.startswith("grid.") for k in found.tensors)


def test_a_defended_candidate_is_shown_with_the_distribution_itself_which_is_never_chosen() -> None:
    posteriors, _ = splits()
    exact = Aggregated(posteriors["train"].mean, posteriors["train"].scale)
    found = audit({"aggregated": Defensive(exact, 0.1)}, posteriors, settings=SMALL)
    assert [e.name for e in found.entries] == ["prior", "aggregated+p10", "aggregated"]
    assert [e.label for e in found.entries[1:]] == ["aggregated(80) + 10 % p", "aggregated(80)"]
    assert [e.eligible for e in found.entries] == [True, True, False]
    assert [e.holds_rows for e in found.entries] == [False, True, True]
    with pytest.raises(UsageError, match="name: expected one of prior, aggregated\\+p10, aggregated, got 'flowery'"):
        found.entry("flowery")


def test_fits_bare_distributions_and_candidates_of_your_own_are_all_taken() -> None:
    posteriors, _ = splits()
    given = {
        "fit": Fit(shifted(1.0), chosen=Chosen(epsilon=0.05)),
        "bare": shifted(1.0),
        "mine": Defensive(shifted(1.0), 0.01),
        "too-little": Defensive(shifted(1.0), 0.005),
        "pool": LogPool(torch.zeros(2).double(), torch.ones(2).double()),
        "mixed-pool": Defensive(LogPool(torch.zeros(2).double(), torch.ones(2).double()), 0.1),
        "again": Prior(2),
    }
    found = audit(given, posteriors, settings=SMALL)
    candidates = ["fit+p5", "bare+p1", "mine+p1", "too-little+p1"]
    assert [e.name for e in found.entries if e.eligible] == ["prior", *candidates]
    assert [e.name for e in found.entries if not e.eligible] == [*list(given)]
    assert [r.name for r in found.verdict.chosen.ranking] == ["prior", *candidates]
    assert [e.name for e in found.leading] == ["prior", *candidates, "pool", "mixed-pool", "again"]
    assert found.entry("mixed-pool").label == "log-pool"
    for name in candidates:
        e = found.entry(name)
        lowest = float(found.tensors[f"gain.heldout.elbo.{name}"].min())
        assert lowest >= math.log(e.epsilon) - 1e-9
    assert found.entry("fit+p5").chosen == Chosen(epsilon=0.05)
    assert found.entry("fit").chosen == Chosen()


def test_names_that_would_be_taken_for_candidates_are_refused() -> None:
    for name in ("r+p10", "r+p0.5", "+p1", "r+p1e-05", "r+p200"):
        with pytest.raises(UsageError, match=r"name: expected one that does not end in \+p and a number, got"):
            audit({name: shifted(1.0)}, splits()[0], settings=SMALL)
    for name in ("r+p", "r+pq10", "r+10", "rp10", "r+p10x"):
        assert str(CandidateId.parse(name)) == CandidateId.parse(name).name == name


def test_wide_posteriors_are_counted_and_said() -> None:
    posteriors, _ = splits()
    wide = {k: MemoryPosteriors(p.mean, p.scale * torch.tensor([1.0, 3.0])) for k, p in posteriors.items()}
    found = audit({"shifted": Gaussian(torch.zeros(2).double(), torch.full((2,), 1.4).double())}, wide, settings=SMALL)
    score = found.entry("shifted").heldout.exact_posterior
    assert score.diverged > 0
    assert score.gain.n == 60  # such rows count by their ELBO gain
    assert "count by their ELBO gain, a lower bound" in score.gain.because
    assert f"{score.diverged} rows diverge" in score.gain.because
    assert "80 of 80 held-out posteriors are wider than the prior" in found.warnings[0]


def test_results_do_not_depend_on_how_many_rows_are_decoded_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    from zprime.measure.likelihood import decoding

    posteriors, rows = splits(shift=0.5)
    call = {"model": MODEL.vae(), "rows": rows, "settings": SMALL}
    whole = audit({"shifted": shifted(0.5)}, posteriors, **call)
    monkeypatch.setattr(decoding, "DECODE", 37)
    again = audit({"shifted": shifted(0.5)}, posteriors, **call)
    torch.testing.assert_close(
        again.tensors["gain.heldout.likelihood.shifted"], whole.tensors["gain.heldout.likelihood.shifted"]
    )


def test_samples_on_show_have_their_nearest_training_row_where_they_are_not_measured() -> None:
    posteriors, rows = splits()
    off = replace(SMALL, samples=0, draws=0, rows=20, simulated=0)
    found = audit({"shifted": shifted(1.0)}, posteriors, model=MODEL.vae(), rows=rows, settings=off)
    assert found.samples is None
    for name in ("prior", "shifted"):
        shown = found.tensors[f"grid.{name}"]
        nearest = rows["train"].x[torch.cdist(shown.double(), rows["train"].x.double()).argmin(1)]
        assert torch.equal(found.tensors[f"near.{name}"], nearest.float())
    without = audit({"shifted": shifted(1.0)}, posteriors, settings=off)
    assert not [k for k in without.tensors if k.startswith("near.")]


def test_samples_on_show_are_means_of_the_decoder() -> None:
    """With noise in every pixel nothing would be seen: a shown sample lies in the plane of the means."""
    posteriors, rows = splits()
    off = replace(SMALL, samples=0, draws=0, rows=20, simulated=0)
    shown = audit({"shifted": shifted(1.0)}, posteriors, model=MODEL.vae(), rows=rows, settings=off).tensors
    plane, _ = torch.linalg.qr(MODEL.weight.double())
    for name in ("prior", "shifted"):
        x = shown[f"grid.{name}"].double() - MODEL.bias.double()
        torch.testing.assert_close(x, x @ plane @ plane.T, rtol=0, atol=1e-5)


class Counting(nn.Module):
    """The model, and how many latents it was asked to decode."""

    def __init__(self) -> None:
        super().__init__()
        self.model, self.decoded = MODEL.vae(), 0

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.model.encode(x)

    def decode(self, z: Tensor) -> Distribution:
        self.decoded += len(z)
        return self.model.decode(z)


@pytest.mark.parametrize(("samples", "pictures"), [(60, 1), (0, 4)])
def test_each_picture_is_decoded_once(samples: int, pictures: int) -> None:
    """Of samples that are compared with data the first are shown; only reconstructions are decoded for pictures."""
    posteriors, rows = splits()
    counts = []
    for grid in (4, 24):
        model, settings = Counting(), replace(SMALL, samples=samples, grid=grid, simulated=0)
        measured = audit({"shifted": shifted(1.0)}, posteriors, model=model, rows=rows, settings=settings)
        for name in ("grid.prior", "grid.shifted", "data.reconstructions", "data.rows"):
            assert len(measured.tensors[name]) == grid
        counts.append(model.decoded)
    assert counts[1] - counts[0] == pictures * 20


def test_each_shard_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoding, "SHARD", 17)
    _, rows = splits()
    posteriors = {s: encoding.encode(MODEL.vae(), r, tmp_path / s) for s, r in rows.items()}
    read: list[str] = []
    tensors = Artifact.tensors

    def counted(self: Artifact, name: str = "tensors.safetensors") -> dict[str, Tensor]:
        read.append(f"{self.path.name}/{name}")
        return tensors(self, name)

    monkeypatch.setattr(Artifact, "tensors", counted)
    settings = replace(SMALL, simulated=0)
    audit({"shifted": shifted(1.0)}, posteriors, model=MODEL.vae(), rows=rows, settings=settings)
    assert sorted(read) == [f"{s}/shard-{i:05d}.safetensors" for s in sorted(rows) for i in range(5)]


def test_the_prior_is_an_argument_and_n_0_i_is_its_default() -> None:
    posteriors, _ = splits()
    default, given = (audit({"s": shifted(1.0)}, posteriors, settings=SMALL, prior=p) for p in (None, Prior(2)))
    assert default.tensors.keys() == given.tensors.keys()
    for name, values in default.tensors.items():
        assert torch.equal(values, given.tensors[name]), name
    assert default.latents == given.latents


def test_what_mixes_in_another_prior_is_not_measured_as_if_it_were_this_one() -> None:
    r = Defensive(shifted(1.0), 0.25, shifted(3.0))
    candidates = Candidates({"mixed": r})
    z = torch.zeros(1, 2, dtype=torch.float64)
    torch.testing.assert_close(candidates.log_probs(z)[CandidateId("mixed")], r.log_prob(z))
    found = audit({"mixed": r}, splits()[0], settings=SMALL).entry("mixed").heldout
    assert found.exact_posterior is not None  # by draws: it has no closed form
    assert found.exact_posterior.gain.value > found.elbo.gain.value


def test_refusals() -> None:
    posteriors, rows = splits()
    with pytest.raises(UsageError, match="posteriors: expected train, selection and heldout, got train"):
        audit({"s": shifted(0)}, {"train": posteriors["train"]})
    with pytest.raises(UsageError, match="rows: expected the selection and heldout rows beside the model, got none"):
        audit({"s": shifted(0)}, posteriors, model=MODEL.vae())
    with pytest.raises(UsageError, match="rows: expected the selection and heldout rows, got train"):
        audit({"s": shifted(0)}, posteriors, model=MODEL.vae(), rows={"train": rows["train"]})
    moved = {**rows, "train": Rows("train", rows["train"].x, rows["train"].ids + 1)}
    with pytest.raises(ArrayError, match="rows: expected the train rows in the order of their posteriors"):
        audit({"s": shifted(0)}, posteriors, model=MODEL.vae(), rows=moved)
    other = {k: Rows(k, r.x, r.ids + 1) for k, r in rows.items()}
    with pytest.raises(ArrayError, match="rows: expected the selection rows in the order of their posteriors"):
        audit({"s": shifted(0)}, posteriors, model=MODEL.vae(), rows=other)
    for bad, sentence in (
        (AuditSettings(rows=1), "rows: expected at least 2, got 1"),
        (AuditSettings(draws=10), "draws: expected 0, or a multiple of 4 that is at least 8, got 10"),
        (AuditSettings(grid=0), "grid and map: expected at least 1, got 0 and 2000"),
        (AuditSettings(simulated=99), "simulated: expected 0, or at least 100, got 99"),
        (AuditSettings(ais=1), "ais: expected 0, or at least 2 rows, got 1"),
        (AuditSettings(temperatures=0), "temperatures: expected at least 1, got 0"),
    ):
        with pytest.raises(UsageError, match=sentence):
            audit({"s": shifted(0)}, posteriors, settings=bad)


def test_a_candidate_with_a_share_of_the_prior_is_sampled_with_it_and_without() -> None:
    posteriors, rows = splits()
    for r, shown in ((shifted(1.0), ["prior", "r+p1", "r"]), (Defensive(shifted(1.0), 0.1), ["prior", "r+p10", "r"])):
        samples = audit({"r": r}, posteriors, model=MODEL.vae(), rows=rows, settings=SMALL).samples
        assert samples is not None
        assert [str(e.id) for e in samples.entries] == shown


@pytest.mark.parametrize("decoded", [True, False])
def test_a_note_on_likelihoods_stands_where_they_are_measured(decoded: bool) -> None:  # noqa: FBT001
    posteriors, rows = splits()
    model = {"model": MODEL.vae(), "rows": rows} if decoded else {}
    shown = page.html(audit({"shifted": shifted(1.0)}, posteriors, settings=SMALL, **model))
    assert ("a gain is a difference on the same draws" in shown) is decoded


def told(found: Audit) -> dict[str, Any]:
    """All but what differs from call to call."""
    kept = found.to_json()
    for e in kept["entries"]:
        e.pop("draws_per_second")
    kept["storage"] = None
    return kept


def test_equal_weights_change_no_bit_of_an_audit() -> None:
    posteriors, rows = splits(shift=0.5)
    call = {"model": MODEL.vae(), "rows": rows, "settings": QUICK}
    plain = audit({"shifted": shifted(0.5)}, posteriors, **call)
    equal = {s: p.weighted(torch.full((p.n,), 3.0)) for s, p in posteriors.items()}
    found = audit({"shifted": shifted(0.5)}, equal, **call)
    assert told(found) == told(plain)
    assert all(torch.equal(found.tensors[k], v) for k, v in plain.tensors.items())


def test_weights_of_zero_and_one_give_the_audit_of_the_subset() -> None:
    posteriors, rows = splits(shift=0.5)
    keep = torch.arange(80) % 3 > 0
    zero = {s: p if s == "train" else p.weighted(keep.double()) for s, p in posteriors.items()}
    call = {"model": MODEL.vae(), "settings": QUICK}
    found = audit({"shifted": shifted(0.5)}, zero, rows=rows, **call)
    at = keep.nonzero().flatten()
    few = {s: p if s == "train" else p.take(at) for s, p in posteriors.items()}
    subset = audit(
        {"shifted": shifted(0.5)}, few, rows={s: r if s == "train" else r.take(at) for s, r in rows.items()}, **call
    )
    assert told(found) == told(subset)
    assert found.entry("shifted").heldout.elbo.gain.n == 53


def test_weights_and_groups_are_in_every_average_of_rows() -> None:
    posteriors, rows = splits(shift=0.5)
    weights = {s: torch.rand(80, generator=stream(1, s)) + 0.1 for s in posteriors}
    groups = {s: [f"{s} {i // 4}" for i in range(80)] for s in posteriors}
    weighted = {s: p.weighted(weights[s]) for s, p in posteriors.items()}
    found = audit(
        {"shifted": shifted(0.5)},
        weighted,
        model=MODEL.vae(),
        rows=rows,
        groups=groups,
        settings=replace(QUICK, rows=80),
    )
    score = found.entry("shifted").heldout
    shares = weights["heldout"].double() / weights["heldout"].double().sum()
    effective = round(float(1 / shares.square().sum()))
    assert score.likelihood is not None
    assert found.likelihood is not None
    assert found.latents is not None
    assert found.log_prior is not None
    assert found.averages is not None
    wanted = CandidateId("shifted")
    each = {
        "elbo": score.elbo.gain,
        "likelihood": score.likelihood.gain,
        "log prior": found.log_prior,
        "log r": found.likelihood.log_prob[wanted],
        "gap": found.likelihood.gaps["heldout"].gap,
        "elbo of the encoder": found.likelihood.gaps["heldout"].elbo,
        "hole": found.latents.hole.bounds[0].estimate,
        "match": found.averages.members["moment match"].heldout,
        "mixture": found.averages.members["aggregated posterior"].heldout,
    }
    for name, e in each.items():
        assert (e.n, e.groups > 15) == (effective, True), name
    for gain in (Gain.ELBO, Gain.LIKELIHOOD):
        rowwise = found.tensors[f"gain.heldout.{gain}.shifted"]
        assert score.of(gain).gain.value == pytest.approx(float(shares @ rowwise))
    assert found.log_prior.value == pytest.approx(float(shares @ found.tensors["log_prior.heldout"]))
    assert found.data.groups == dict.fromkeys(("train", "selection", "heldout"), 20)
    lines = dict(facts(found))
    assert lines["groups"] == "20 train, 20 selection, 20 heldout; errors are by group"
    assert "Kish" in lines["weights of the rows"]


def test_groups_that_do_not_fit_are_refused() -> None:
    posteriors, _ = splits()
    call = {"settings": QUICK}
    shared = {s: [i // 4 for i in range(80)] for s in posteriors}
    with pytest.raises(ArrayError, match="got 20 groups in train and selection, the first of them 0; split by group"):
        audit({"shifted": shifted(1.0)}, posteriors, groups=shared, **call)
    short = {"selection": torch.arange(80), "heldout": torch.arange(100, 179)}
    with pytest.raises(ArrayError, match=r"groups: expected 80 for heldout, one a row, got shape \[79\]"):
        audit({"shifted": shifted(1.0)}, posteriors, groups=short, **call)
    with pytest.raises(UsageError, match="groups: expected those of the selection and heldout rows, got heldout"):
        audit({"shifted": shifted(1.0)}, posteriors, groups={"heldout": torch.arange(80)}, **call)


def with_copies(count: int, n: int = 200) -> tuple[dict[str, MemoryPosteriors], dict[str, Rows]]:
    """The first held-out rows are training rows."""
    posteriors, rows = splits(n=n)
    x = rows["heldout"].x.clone()
    x[:count] = rows["train"].x[:count]
    rows["heldout"] = replace(rows["heldout"], x=x)
    posteriors["heldout"] = MemoryPosteriors(*MODEL.posterior(x))
    return posteriors, rows


@pytest.mark.parametrize("keep", [False, True])
def test_duplicates_of_training_rows_are_left_out_of_the_gains(keep: bool) -> None:
    posteriors, rows = with_copies(1)
    call = {"model": MODEL.vae(), "settings": replace(QUICK, rows=200), "keep_duplicates": keep}
    found = audit({"shifted": shifted(0.5)}, posteriors, rows=rows, **call)
    assert found.data.duplicates == {"heldout": Duplicates(1, 200, [0], keep)}
    assert found.entry("shifted").heldout.elbo.gain.n == (200 if keep else 199)
    assert found.surgery["heldout"].mean_kl.n == (200 if keep else 199)
    what = "gains on them flatter whatever memorises" if keep else "they were left out"
    assert f"1 of 200 held-out rows equal a training row exactly; {what}" in found.warnings
    lines, public = dict(facts(found)), dict(facts(publish(found)))
    assert lines["duplicates, heldout"].endswith("row 0")
    assert "row 0" not in public["duplicates, heldout"]
    assert found.data.near is not None
    assert f"(95 % interval {100 * found.data.near.share.low:.1f} to" in lines["near-duplicates"]
    assert serialise.from_jsonable(Audit, {**found.to_json(), "tensors": {}}).data == found.data


@pytest.mark.parametrize("parts", [1, 3])
def test_selection_rows_that_equal_held_out_rows_are_told(parts: int) -> None:
    """They are counted as data, however many parts their posteriors have."""
    posteriors, rows = splits(n=200)
    x = rows["selection"].x.clone()
    x[[5, 8]] = rows["heldout"].x[[3, 3]]
    rows["selection"] = replace(rows["selection"], x=x)
    posteriors["selection"] = MemoryPosteriors(*MODEL.posterior(x))
    data = {s: Split(s, posteriors[s], rows[s]) for s in posteriors}
    if parts > 1:
        at = torch.arange(200).repeat_interleave(parts)
        data = {s: split.take(at) for s, split in data.items()}
    assert shared_rows(data["selection"], data["heldout"]) == Duplicates(2, 200, [5, 8], kept=True)
    assert shared_rows(data["selection"], replace(data["heldout"], rows=None)) is None
    if parts > 1:
        return
    found = audit({"shifted": shifted(0.5)}, posteriors, rows=rows, settings=QUICK)
    assert found.data.shared == Duplicates(2, 200, [5, 8], kept=True)
    assert any(
        w.startswith("2 of 200 selection rows equal a held-out row exactly; what is chosen") for w in found.warnings
    )
    lines, public = dict(facts(found)), dict(facts(publish(found)))
    assert lines["duplicates, two splits"] == "2 of 200 selection rows equal a held-out row: rows 5, 8"
    assert public["duplicates, two splits"] == "2 of 200 selection rows equal a held-out row"
    assert serialise.from_jsonable(Audit, {**found.to_json(), "tensors": {}}).data == found.data
    assert audit({"shifted": shifted(0.5)}, posteriors, rows=with_copies(0)[1], settings=QUICK).data.shared is None


def test_more_duplicates_are_refused_also_without_a_model() -> None:
    posteriors, rows = with_copies(600, n=600)
    for model in (MODEL.vae(), None):
        with pytest.raises(ArrayError, match="600 of 600 held-out rows equal a training row .*keep_duplicates=True"):
            audit({"shifted": shifted(0.5)}, posteriors, model=model, rows=rows, settings=QUICK)
    kept = audit({"shifted": shifted(0.5)}, posteriors, rows=rows, settings=QUICK, keep_duplicates=True)
    assert any("near-duplicates, which flatter" in w for w in kept.warnings)


def test_an_audit_that_was_told_nothing_of_the_data_says_their_shape_and_number() -> None:
    posteriors, rows = splits(60)
    settings = replace(SMALL, exchange=0, samples=0)
    found = audit({"shifted": shifted(1.0)}, posteriors, model=MODEL.vae(), rows=rows, settings=settings)
    assert found.data.shape == list(rows["train"].x.shape[1:])
    assert found.data.sizes == {name: p.n for name, p in posteriors.items()}
    codes = audit({"shifted": shifted(1.0)}, posteriors, settings=settings)
    assert (codes.data.shape, codes.data.sizes) == ([], found.data.sizes)
