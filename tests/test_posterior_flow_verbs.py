"""What each verb does with a run whose posteriors are flows: the audit with its verdict, and what is refused."""

import json
import shutil
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import small
from test_cli import call
from zprime import artifact, audit, batches, bring, running, verifying
from zprime.bring.own import Own
from zprime.cli import explore
from zprime.code_table import codes_table
from zprime.data import SPLITS, DataSettings
from zprime.encoding import encode
from zprime.errors import ArrayError, UsageError
from zprime.fitting import fit
from zprime.measure.candidates import Candidates
from zprime.measure.latents import drift
from zprime.measure.likelihood import membership
from zprime.measure.likelihood.gains import RowGains, measure_gains
from zprime.measure.study import Split, Study, gather
from zprime.refining import refine
from zprime.reporting.explain import explain
from zprime.reporting.page import html
from zprime.results.audit import load
from zprime.rng import stream
from zprime.run_posteriors import draws_by_split
from zprime.running import Run
from zprime.train_settings import TrainSettings

FEW = {"train": 2, "selection": 16, "heldout": 16}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with a model and no more."""
    return small.flow(tmp_path_factory.mktemp("flow"))


@pytest.fixture
def job(trained: Path, tmp_path: Path) -> Run:
    shutil.copytree(trained, tmp_path / "run")
    return Run.open(tmp_path / "run")


@pytest.fixture(scope="module")
def measured(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with an audit."""
    run = tmp_path_factory.mktemp("measured") / "run"
    shutil.copytree(trained, run)
    job = Run.open(run)
    job.encode()
    job.fit(["gaussian", "mixture"], seed=0)
    job.audit(replace(small.AUDIT, exchange=100), seed=0)
    return run


def test_an_audit_ends_with_a_verdict_a_gap_and_a_check(measured: Path) -> None:
    job = Run.open(measured)
    found = load(measured)
    assert found.verdict.decision in ("keep the prior", "leave the prior", "undecided")
    assert found.verdict.chosen is not None
    assert found.verdict.chosen.unchecked == ""
    assert found.verdict.exchange is not None
    assert found.verdict.exchange.draws == 64
    assert found.likelihood is not None
    gap = found.likelihood.gaps["heldout"]
    assert gap.gap.value == pytest.approx(gap.log_prob.value - gap.elbo.value, abs=1e-6)
    q = job.folder.posteriors("heldout").gather()
    kl = (q.log_q - job.folder.prior.log_prob(q.mean)).reshape(-1, 64).mean(1)
    scored = torch.isin(q.row_ids.reshape(-1, 64)[:, 0], found.tensors["row_ids.heldout"])
    assert gap.kl.value == pytest.approx(float(kl[scored].mean()), abs=1e-6)
    assert (found.model.posterior, found.model.codes) == ("draws", len(job.folder.rows["train"]))
    assert found.model.settings["posterior"] == "flow"
    text = html(found)
    assert "so are those of simulated rows in its exchange check" in text
    assert "without that check" not in text
    assert "mean KL" in explain(found)
    assert "--posterior flow --flow-steps 2" in found.command
    assert found.command.startswith("zprime run")


def test_the_exchange_check_finds_gains_of_exact_posteriors_exact(measured: Path) -> None:
    found = load(measured).verdict.exchange
    assert found is not None
    assert found.informative
    assert abs(found.delta.value) < 4 * (found.delta.stderr or 0) + 0.05


def test_other_draws_are_in_the_command(job: Run) -> None:
    job.encode(draws=40)
    job.fit(["gaussian"], seed=0)
    found = job.audit(replace(small.AUDIT, exchange=0, samples=0), seed=0)
    assert "encode runs/again --draws 40" in found.command
    assert found.likelihood is not None
    assert found.likelihood.gaps["heldout"].gap.value > 0
    text = html(found)
    assert "These draws are the proposal of the likelihood gain. The calibration" in text
    assert "so are those of simulated rows" not in text  # there was no check


def test_rows_are_given_once_in_python(measured: Path) -> None:
    """The audit puts a row beside each of its draws; the numbers are those of the run."""
    job, recorded = Run.open(measured), load(measured)
    vae, rows = job.folder.vae, dict(job.folder.rows)
    q = {s: encode(vae, r) for s, r in rows.items()}
    train, _, held = gather(q, rows)
    assert train.rows is not None
    assert held.rows is not None
    assert len(held.rows) == held.n
    assert torch.equal(held.rows.ids, held.posteriors.row_ids)
    r = fit("gaussian", q["train"], selection=q["selection"], keep_duplicates=True)
    again = audit({"gaussian": r}, q, model=vae, rows=rows, settings=small.AUDIT)
    assert again.likelihood is not None
    assert recorded.likelihood is not None
    one, two = (a.likelihood.gaps["heldout"].gap.value for a in (again, recorded))
    assert one == pytest.approx(two, abs=1e-4)
    with pytest.raises(ArrayError, match="expected the selection rows in the order of their posteriors"):
        gather(q, {**rows, "selection": rows["selection"].take(torch.arange(3))})


def test_kinds_that_smooth_posteriors_are_refused_before_the_training(trained: Path, tmp_path: Path) -> None:
    data = trained.parent / "t.npz"
    with pytest.raises(
        UsageError,
        match="kinds: aggregated, vamp cannot be fitted to what the encoder answers, --posterior flow; give "
        "--kinds gaussian",
    ):
        running.run(data, tmp_path / "run", network=small.FLOW, kinds=("gaussian", "aggregated", "vamp"))
    assert not (tmp_path / "run" / "model").exists()


def test_a_kind_that_asks_for_gaussians_is_refused_where_it_is_fitted(job: Run) -> None:
    job.encode(draws=16)
    with pytest.raises(UsageError, match="kind aggregated: takes .* and these posteriors are draws or codes"):
        job.fit(["aggregated"], seed=0)
    job.fit(["gaussian"], seed=0)
    with pytest.raises(UsageError, match="store: only aggregated can be drawn from the data"):
        job.folder.distribution("gaussian", store="data")


def test_weights_and_groups_are_those_of_the_rows(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(160, 4)).astype(np.float32)
    w, g = rng.uniform(0.2, 2, 160), np.arange(160) // 2
    head = "a,b,c,d,w,g"
    lines = [",".join(map(str, [*row, a, b])) for row, a, b in zip(x, w, g, strict=True)]
    (tmp_path / "t.csv").write_text("\n".join([head, *lines]))
    job = Run.create(tmp_path / "run")
    data = DataSettings(str(tmp_path / "t.csv"), group="g", aside="w")
    job.train(data, small.FLOW, TrainSettings(epochs=2, batch=32), seed=0)
    job.encode(draws=40)
    job.fit(["gaussian"], seed=0, weights="w")
    found = job.audit(replace(small.AUDIT, rows=30, exchange=0, samples=0), seed=0)
    held = job.folder.rows["heldout"]
    shares = job.folder.dataset.weights("w", "heldout")
    known = {int(i): float(s) for i, s in zip(held.ids, shares, strict=True)}
    ids, kept = found.tensors["row_ids.heldout"], found.tensors["weights.heldout"]
    wanted = torch.tensor([known[int(i)] for i in ids], dtype=torch.float64)
    torch.testing.assert_close(kept / kept.sum(), wanted / wanted.sum(), rtol=1e-5, atol=1e-8)
    assert found.data.groups["heldout"] == len(torch.unique(held.groups))
    assert len(torch.unique(found.tensors["groups.heldout"])) < len(ids)


def test_rows_of_the_same_distribution_have_not_drifted(
    measured: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drift, "SHUFFLES", 99)
    run = tmp_path / "run"
    shutil.copytree(measured, run)
    small.table(tmp_path / "new.npz", 60)
    found = Run.open(run).drift(tmp_path / "new.npz")
    assert (found.rows, found.tested) == (60, 60)
    assert found.p_value > 0.05
    assert not found.drifted
    assert "No drift seen: codes of 60 new rows fit" in found.sentence
    small.table(tmp_path / "few.npz", 7)
    with pytest.raises(ArrayError, match="expected at least 8 rows, held-out ones too, got 7 and 33"):
        Run.open(run).drift(tmp_path / "few.npz")


def test_encode_says_how_many_rows_it_encoded(measured: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert call("--json", "encode", measured) == 0
    said = json.loads(capsys.readouterr().out)
    assert {s: said[s]["n"] for s in SPLITS} == {s: len(r) for s, r in Run.open(measured).folder.rows.items()}


def test_log_q_of_draws_counts_as_stored(measured: Path) -> None:
    train = Run.open(measured).folder.posteriors("train")
    assert load(measured).storage.posteriors == train.bytes + 8 * train.n


def test_codes_are_one_a_row(measured: Path) -> None:
    folder = Run.open(measured).folder
    posteriors = {s: folder.posteriors(s) for s in SPLITS}
    found = codes_table(posteriors, folder.distribution("gaussian"), prior=folder.prior, rows=folder.rows)
    assert len(found) == sum(len(r) for r in folder.rows.values())
    assert torch.equal(torch.from_numpy(found.columns["row_id"]), torch.cat([folder.rows[s].ids for s in SPLITS]))
    q = posteriors["train"].gather()
    mean = q.mean.double().reshape(len(folder.rows["train"]), -1, 2).mean(1)
    ratio = folder.distribution("gaussian").log_prob(mean.float()) - folder.prior.log_prob(mean.float())
    np.testing.assert_allclose(found.columns["log_ratio"][: len(mean)], ratio.numpy(), atol=1e-4)


def test_the_page_to_explore_has_a_code_a_row(measured: Path) -> None:
    folder = Run.open(measured).folder
    shown = explore._explorer(folder, "gaussian", 0)
    assert shown.trials is None
    assert shown.posteriors.datum is None
    assert torch.equal(shown.posteriors.row_ids, folder.rows["train"].ids[: shown.posteriors.n])
    assert torch.equal(shown.x, folder.rows["train"].x)
    assert shown.row(0)["posterior"] is None
    assert shown.shared([0, 1])["ok"] is False


def test_an_exported_folder_says_that_its_numbers_are_measured_in_the_run(measured: Path, tmp_path: Path) -> None:
    Run.open(measured).export("gaussian", tmp_path / "shipped", allow_copies=True)
    assert artifact.is_artifact(tmp_path / "shipped")
    assert call("export", measured, "--from", "gaussian+p1", "--out", tmp_path / "card", "--allow-copies") == 0
    assert "measures the numbers of this card again" not in (tmp_path / "card" / "README.md").read_text()
    with pytest.raises(UsageError, match="verify: the posteriors of this model are flows.*zprime verify RUN"):
        verifying.verify(tmp_path / "card", data=measured.parent / "t.npz")
    assert verifying.verify(tmp_path / "card", files_only=True).passed


def test_a_run_is_verified(measured: Path, trained: Path) -> None:
    assert verifying.verify(measured, data=trained.parent / "t.npz").passed


def test_batches_for_engines_are_refused(job: Run) -> None:
    with pytest.raises(UsageError, match="model: expected one whose q.z.x. is a Gaussian.*zprime.encode"):
        batches.Encode.of_run(job.path)
    with pytest.raises(UsageError, match="model: expected one whose q.z.x. is a Gaussian"):
        batches.Encode(job.folder.vae)


def test_refined_with_what_was_fitted_it_is_encoded_as_before(measured: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(measured, run)
    Run.open(run, replace=True).encode(draws=24)
    Run.open(run).fit(["gaussian"], seed=0)
    job = refine(run, "gaussian", epochs=2)
    assert job.folder.vae.form == "flow"
    assert draws_by_split(job.path) == dict.fromkeys(SPLITS, 24)
    Run.open(run).fit(["mixture"], seed=0)
    with pytest.raises(UsageError, match="posterior: a prior is learned with diagonal posteriors, got flow"):
        refine(run, "mixture", learn=True, epochs=1)


def test_training_rows_are_attacked_by_as_many_draws_as_held_out_rows(
    measured: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fewer would make their log p(x) smaller, and hide or feign that they were trained on."""
    folder = Run.open(measured).folder
    q, rows = {s: folder.posteriors(s) for s in SPLITS}, folder.rows
    study = Study(*gather(q, rows), prior=folder.prior, model=folder.vae, settings=small.AUDIT)
    among = Candidates({"r": folder.distribution("gaussian")}, prior=folder.prior)
    heldout = measure_gains(among, study.heldout, rng=stream(0, "h"), model=folder.vae)
    scored: list[Split] = []

    def noted(candidates: Candidates, split: Split, **more: object) -> RowGains:
        scored.append(split)
        return measure_gains(candidates, split, **more)

    monkeypatch.setattr(membership, "measure_gains", noted)
    found = membership.membership(study, among, heldout)
    assert found is not None
    (some,) = scored
    data = some.posteriors.data
    assert (some.n, heldout.draws) == (64 * data, 64)
    assert some.rows is not None
    assert torch.equal(some.rows.ids, some.posteriors.row_ids)
    at = torch.isin(rows["train"].ids, some.rows.ids).nonzero().flatten()
    torch.testing.assert_close(some.rows.x, rows["train"].x[at].repeat_interleave(64, 0))
    assert found.model is not None
    assert found.model.auc.n


def test_brought_as_draws_it_gives_the_same_gains(measured: Path) -> None:
    """A flow of zprime is a flow of any make, too; its `encode` is no Gaussian that `bring.modules` would take."""
    folder = Run.open(measured).folder
    vae, rows = folder.vae, folder.rows
    data = {s: r.x for s, r in rows.items()}

    def drawn(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        q = vae.draw(x)
        return q.z, q.log_q

    mine = bring.draws(drawn, data, vae.decode, draws=30)
    assert mine.posteriors["heldout"].log_q is not None
    one = mine.posteriors["heldout"].gather().mean.double().mean(0)
    torch.testing.assert_close(one, folder.posteriors("heldout").gather().mean.double().mean(0), rtol=0, atol=0.1)
    refused = "got that of a VAE with --posterior flow.*bring.draws.*vae.draw"
    for encoder in (vae.encode, vae.encoder, vae.draw, vae):
        with pytest.raises(UsageError, match=refused):  # zeros could be log-variances
            bring.modules(encoder, vae.decode, data, gives="log-variance")
    with pytest.raises(UsageError, match=refused):
        bring.model(vae, data, gives="log-variance")
    mine = Own.of({"vae": vae, "gives": "log-variance"}, lambda *_: nullcontext(), seed=0)
    with pytest.raises(UsageError, match=refused):
        mine.tried(data["train"], n=100)
