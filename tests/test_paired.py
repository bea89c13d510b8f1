"""Runs of the same data, compared row by row: against exact evidences of linear models."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from rich.console import Console

from oracles import LinearGaussian, linear_gaussian
from zprime.auditing import audit
from zprime.data import DataSettings, Rows, load
from zprime.errors import UsageError
from zprime.latent import Gaussian
from zprime.posteriors import MemoryPosteriors
from zprime.reporting.compare import compare, paired_table
from zprime.reporting.terminal import comparison
from zprime.results.audit import Audit, AuditSettings
from zprime.results.audit import load as load_audit
from zprime.results.facts import DataInfo
from zprime.results.paired import common, incomparable, paired
from zprime.statistics.design import Design

TRUE = linear_gaussian(D=5, d=2, var=0.5)
OTHER = LinearGaussian(TRUE.weight, TRUE.bias, 0.8)
N = 60
SETTINGS = AuditSettings(rows=N, draws=80, grid=4, map=10, samples=0, simulated=0, exchange=50)
X = [TRUE.sample(N, seed=i)[0] for i in range(3)]


def audited(model: LinearGaussian, *, heldout: slice = slice(None), groups: bool = False) -> Audit:
    posteriors, rows, together = {}, {}, {}
    for i, name in enumerate(("train", "selection", "heldout")):
        part = heldout if name == "heldout" else slice(None)
        x, ids = X[i][part], (1000 * i + torch.arange(N))[part]
        posteriors[name] = MemoryPosteriors(*model.posterior(x), row_ids=ids)
        rows[name] = Rows(name, x, ids)
        together[name] = ids // 3
    shifted = Gaussian(torch.full((2,), 0.3).double(), torch.ones(2).double())
    made = audit(
        {"shifted": shifted},
        posteriors,
        model=model.vae(),
        rows=rows,
        groups=together if groups else None,
        settings=SETTINGS,
    )
    return replace(made, data=DataInfo("x", content="hash", used="so"))


@pytest.fixture(scope="module")
def two() -> tuple[Audit, Audit]:
    return audited(TRUE), audited(OTHER)


def test_the_difference_is_that_of_the_exact_evidences(two: tuple[Audit, Audit]) -> None:
    exact = OTHER.log_evidence(X[2]) - TRUE.log_evidence(X[2])
    p = paired(two[1], "prior", two[0], "prior")
    assert p.difference.value == pytest.approx(float(exact.mean()), abs=0.01)
    assert p.difference.stderr == pytest.approx(float(exact.std() / N**0.5), rel=0.1)
    assert p.difference.stderr < 0.5 * p.log_prob.stderr  # paired: rows differ more than models do
    assert p.log_prob.value == pytest.approx(float(OTHER.log_evidence(X[2]).mean()), abs=0.01)
    other_way = paired(two[0], "prior", two[1], "prior").difference
    assert other_way.value == pytest.approx(-p.difference.value, abs=1e-9)


def test_what_more_draws_change_is_in_it(two: tuple[Audit, Audit]) -> None:
    """The mean log p(x) of an audit is corrected on some rows; so is the difference, with the correction's error."""
    a, b = two
    assert b.likelihood is not None
    prior = next(iter(b.likelihood.log_prob))
    whole = b.likelihood.log_prob[prior]
    moved = replace(whole, value=whole.value + 0.5, stderr=1.0, stable=False, because="moved")
    corrected = replace(b, likelihood=replace(b.likelihood, log_prob={**b.likelihood.log_prob, prior: moved}))
    before, now = (paired(x, "prior", a, "prior").difference for x in (b, corrected))
    assert now.value - before.value == pytest.approx(0.5)
    assert now.stderr > 0.5
    assert before.stable
    assert not now.stable
    assert "prior: moved" in now.because
    assert paired(a, "prior", b, "prior").difference.value == pytest.approx(-before.value)
    assert paired(a, "prior", corrected, "prior").difference.value == pytest.approx(-now.value)


def test_rows_are_matched_by_their_ids(two: tuple[Audit, Audit]) -> None:
    """Another order, and rows that only one of them measured."""
    some = audited(OTHER, heldout=slice(10, 50))
    p = paired(some, "prior", two[0], "prior").difference
    exact = (OTHER.log_evidence(X[2]) - TRUE.log_evidence(X[2]))[10:50]
    assert p.n == 40
    assert p.value == pytest.approx(float(exact.mean()), abs=0.02)
    order = torch.randperm(N, generator=torch.Generator().manual_seed(1))
    turned = replace(two[1], tensors={k: v[order] if ".heldout" in k else v for k, v in two[1].tensors.items()})
    a, b = (paired(x, "prior", two[0], "prior").difference for x in (two[1], turned))
    assert a.value == pytest.approx(b.value, abs=1e-9)
    assert a.stderr == pytest.approx(b.stderr, abs=1e-9)


def test_rows_of_a_group_are_no_independent_ones(two: tuple[Audit, Audit]) -> None:
    grouped = audited(OTHER, groups=True)
    p = paired(grouped, "prior", two[0], "prior").difference
    values = grouped.log_prob("prior") - two[0].log_prob("prior")
    groups = (2000 + torch.arange(N)) // 3 - 666
    sums = torch.zeros(int(groups.max()) + 1, dtype=torch.float64).index_add(0, groups, values - values.mean())
    assert p.groups in (20, 21)
    assert p.stderr == pytest.approx(float(sums.square().sum().sqrt() / N * (21 / 20) ** 0.5), rel=0.01)
    assert Design(groups=groups).units(N) == 21


def test_in_one_audit_it_is_the_likelihood_gain(two: tuple[Audit, Audit]) -> None:
    gain = next(e for e in two[0].entries if e.id.name == "shifted").heldout.likelihood
    assert gain is not None
    p = paired(two[0], str(next(e.id for e in two[0].entries if e.id.name == "shifted")), two[0], "prior")
    assert p.difference.value == pytest.approx(gain.gain.value)
    assert p.difference.stderr == pytest.approx(gain.gain.stderr)


def test_what_a_model_sees_of_the_data_is_part_of_it() -> None:
    """Another seed draws other splits, and other pixels of the same rows; the same split seed draws the same ones."""
    seeds = [load(DataSettings("digits", binarise=True), seed=s).info().used for s in (0, 0, 1)]
    assert seeds[0] == seeds[1] != seeds[2]
    same = [load(DataSettings("digits", binarise=True, split_seed=3), seed=s).info().used for s in (0, 1)]
    assert same[0] == same[1]
    grey, drawn = (load(DataSettings("digits", binarise=b, split_seed=3), seed=0).info().used for b in (False, True))
    assert grey != drawn


def test_what_cannot_be_compared_is_refused(two: tuple[Audit, Audit]) -> None:
    a, b = two
    assert incomparable(a, b) == "" == common([a, b])
    assert b.likelihood is not None
    units = replace(b.likelihood, units=replace(b.likelihood.units, says="another"))
    elsewhere = replace(b, tensors={**b.tensors, "row_ids.heldout": b.tensors["row_ids.heldout"] + 10_000})
    for other, why in (
        (replace(b, data=replace(b.data, content="other")), "not of the same data"),
        (replace(b, data=replace(b.data, content="")), "not of the same data"),
        (replace(b, likelihood=None), "was not measured"),
        (replace(b, likelihood=units), "of different things"),
        (replace(b, data=replace(b.data, used="otherwise")), "splits are not the same"),
        (replace(b, data=replace(b.data, used="")), "audited by an older version"),
        (replace(b, data=replace(b.data, weights="age")), "are weighed otherwise"),
        (elsewhere, "splits are not the same"),
    ):
        assert why in common([a, other])
        with pytest.raises(UsageError, match=why):
            paired(other, "prior", a, "prior")
        page = compare([a, other], ["one", "two"])
        assert "row by row</h2>" not in page
        assert why in page
    with pytest.raises(UsageError, match="expected one of"):
        paired(a, "nothing", b, "prior")


@pytest.mark.parametrize(
    ("prior", "words"), [("given", "the prior in training"), ("learned", "learned in training"), ("refined", "refined")]
)
def test_the_table_says_where_a_prior_comes_from(two: tuple[Audit, Audit], prior: str, words: str) -> None:
    a, b = two
    left = replace(b, model=replace(b.model, prior=prior), verdict=replace(b.verdict, choice=str(b.entries[-1].id)))
    rows = paired_table([a, left], ["one", "two"]).rows
    assert [row.cells[2].text for row in rows] == ["the prior in training", words, "post hoc"]


def test_the_table_has_the_cpu_seconds_of_training_and_fit(two: tuple[Audit, Audit]) -> None:
    a, b = two
    trained = replace(a, model=replace(a.model, seconds=30.0))
    fits = [replace(e, seconds=None if e.id.name == "prior" else 2.5) for e in b.entries]
    chosen = replace(b.verdict, choice=str(b.entries[-1].id))
    both = replace(b, model=replace(b.model, seconds=40.0), entries=fits, verdict=chosen)
    assert [row.cells[-1].key for row in paired_table([trained, both], ["one", "two"]).rows] == [30.0, 40.0, 42.5]
    unknown = replace(both, entries=[replace(e, seconds=None) for e in fits])
    assert [row.cells[-1].text for row in paired_table([a, unknown], ["one", "two"]).rows] == ["–", "40.0", "–"]


def test_cpu_seconds_of_training_are_kept_beside_an_audit(two: tuple[Audit, Audit], tmp_path: Path) -> None:
    kept = [replace(two[0], model=replace(two[0].model, seconds=s)) for s in (30.0, 40.0, None)]
    hashes = {audit.save(tmp_path / str(i)).hash for i, audit in enumerate(kept)}
    assert len(hashes) == 1
    assert [load_audit(tmp_path / str(i)).model.seconds for i in range(3)] == [30.0, 40.0, None]


def test_the_table_has_priors_and_choices(two: tuple[Audit, Audit]) -> None:
    a, b = two
    left = replace(b, verdict=replace(b.verdict, choice=str(b.entries[-1].id)))
    table = paired_table([a, left], ["one", "two"])
    assert [[c.text for c in row.cells[:3]] for row in table.rows] == [
        ["one", a.entry("prior").label, "the prior in training"],
        ["two", b.entry("prior").label, "the prior in training"],
        ["two", b.entries[-1].label, "post hoc"],
    ]
    assert table.rows[0].cells[4].text == "–"
    exact = float((OTHER.log_evidence(X[2]) - TRUE.log_evidence(X[2])).mean())
    assert table.rows[1].cells[4].key == pytest.approx(exact, abs=0.01)
    assert "row by row</h2>" in compare([a, left], ["one", "two"])
    console = Console(width=120)
    with console.capture() as capture:
        console.print(comparison([a, left], ["runs/one", "runs/two"], width=120))
        console.print(comparison([a, replace(b, likelihood=None)], ["runs/one", "runs/two"]))
    assert "post hoc" in capture.get()
    assert "not compared one by one: log p(x) was not measured" in capture.get()
