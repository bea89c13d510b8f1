"""The registry of sections, and the wall around reports: an audit is all that they see."""

import dataclasses
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

import small
from zprime import plot, reporting
from zprime.reporting import by_field, samples
from zprime.reporting.figures import BARS
from zprime.reporting.page import html
from zprime.reporting.section import Section
from zprime.reporting.sections import SECTIONS, shown
from zprime.reporting.terminal import details
from zprime.results.audit import Audit
from zprime.results.samples import CopiedRow
from zprime.results.thresholds import THRESHOLDS

TOLD_BY_THE_PAGE = {
    "data", "model", "log_prior", "storage", "settings", "seed", "tensors", "images", "warnings", "versions",
    "inputs", "thresholds", "command", "prior", "draws",
}  # fmt: skip
"""Fields that the head of the page, the provenance or other sections tell of."""
LETTERS = re.compile(r"\([abc]\)")
OLD_WORDS = re.compile(
    r"\brungs?\b|\broads?\b|\bladders?\b|yardstick|\bstudent|\btrusted\b|held against", re.IGNORECASE
)


@pytest.fixture(scope="module")
def audit(tmp_path_factory: pytest.TempPathFactory) -> Audit:
    folder = tmp_path_factory.mktemp("sections")
    return small.run(folder / "run", small.table(folder / "table.npz", n=240))[1]


def test_a_report_loads_no_model_no_data_and_no_measure() -> None:
    code = "import sys, zprime.reporting, zprime.reporting.explain, zprime.plot; print(*sorted(sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    rooms = {m.split(".")[1] for m in loaded if m.startswith("zprime.")}
    assert rooms <= {
        "arrays", "artifact", "atomic", "chain", "errors", "escape", "extras", "locks", "manifest", "memory", "outputs",
        "plot", "progress", "reporting", "results", "rng", "schema", "serialise", "statistics", "tables",
    }  # fmt: skip


def test_every_field_of_the_audit_is_told(audit: Audit) -> None:
    """Who adds a field to the audit adds a section, or says here where it is told."""
    told = {s.field for s in SECTIONS} - {""}
    fields = {f.name for f in dataclasses.fields(Audit)}
    assert told <= fields
    assert fields - told == TOLD_BY_THE_PAGE
    assert len({s.name for s in SECTIONS}) == len(SECTIONS)


def test_the_verdict_is_told_field_by_field(audit: Audit) -> None:
    """What it rests on is on the page: the choice with its ranking; the check, the gain and the bet where made."""
    tables = {t.title: t for t in by_field.numbers(audit, "verdict")}
    ranked = tables["Chosen: Ranking"]
    assert len(ranked.rows) == len(audit.verdict.chosen.ranking)
    assert "Chosen: Ranking" in html(audit)
    told = {row.name for t in tables.values() for row in t.rows}
    assert {"Decision", "Choice", "Repaired", "Best", "Selection"} <= told


def test_a_section_is_left_out_where_its_field_was_not_measured(audit: Audit) -> None:
    names = [s.section.name for s in shown(audit)]
    assert names == [s.name for s in SECTIONS if s.name in names]  # in the order of the registry
    assert {"gains", "surgery", "latents", "likelihood", "samples", "averages", "costs", "provenance"} <= set(names)
    assert "drift" not in names
    bare = replace(audit, latents=None, likelihood=None, samples=None, averages=None)
    left = {s.section.name for s in shown(bare)}
    assert not left & {"latents", "likelihood", "samples", "averages"}
    details(bare)


def test_ids_of_copied_rows_are_on_the_page_and_never_on_a_public_one(audit: Audit) -> None:
    assert audit.samples is not None
    first, *others = audit.samples.entries
    assert first.copying is not None
    rows = [CopiedRow(987654 + i, 31 - i) for i in range(3)]
    marked = replace(first, copied=rows, copying=replace(first.copying, status="copies"))
    found = replace(audit, samples=replace(audit.samples, entries=[marked, *others]))
    assert "987654: 31, 987655: 30, 987656: 29" in html(found)
    assert "98765" not in html(found, public=True)
    assert "Which training rows are copied" not in html(found, public=True)
    cleared = replace(marked, copying=replace(first.copying, status="passes"), copying_draws=None)
    clear = replace(found, samples=replace(audit.samples, entries=[cleared, *others]))
    assert "98765" not in html(clear)


def test_a_table_of_samples_says_what_is_not_excluded_and_which_form_is_compared(audit: Audit) -> None:
    assert audit.samples is not None
    first, *others = audit.samples.entries
    c = first.copying
    assert c is not None
    assert c.share is not None
    open_ = replace(c, status="untested", because="cannot exclude 14 % of copies", share=replace(c.share, high=0.14))
    entries = [replace(first, copying=open_, copying_draws=None), *others]
    side = replace(audit.samples, entries=entries)
    page = html(replace(audit, samples=side)).replace("\u00a0", " ")
    assert "untested: up to 14 %" in page
    assert "(cannot exclude 14 % of copies)" in page
    other = {"mean": "draw", "draw": "mean"}[side.noise]
    assert f"Samples are decoder {side.noise}s: reconstructions of the selection split are nearer" in page
    assert f"of {other}s" in page
    assert first.other is not None
    one = replace(side, forms={side.noise: side.forms[side.noise]}, noise=side.noise)
    assert "for the data are discrete" in html(replace(audit, samples=one))


def test_the_held_out_status_stands_at_the_prior_and_the_chosen_one_alone(audit: Audit) -> None:
    """On the page in words, in a terminal behind a comma; the others were not tested beside that split."""
    assert audit.samples is not None
    side = audit.samples
    chosen = next(e.name for e in side.entries if e.id.percent)
    verdict = replace(side.verdict, best=chosen, copying={"prior": "passes", chosen: "untested"})
    told = samples.table(replace(audit, samples=replace(side, verdict=verdict)))
    assert told is not None
    cells = {e.name: row.cells[1] for e, row in zip([*side.controls.values(), *side.entries], told.rows, strict=True)}
    marked = {name: cell for name, cell in cells.items() if "held-out: " in cell.text}
    assert set(marked) == {"prior", chosen}
    assert marked["prior"].text.endswith("; held-out: no")
    assert marked["prior"].short.endswith(", no")
    assert marked[chosen].text.endswith("; held-out: untested")
    assert marked[chosen].short.endswith(", untested")
    assert all("held-out" not in cell.why for name, cell in cells.items() if name not in marked)
    assert "tested again beside the held-out split" in told.note


def test_a_section_is_one_entry_of_the_registry(audit: Audit, monkeypatch: pytest.MonkeyPatch) -> None:
    new = Section("new", "Something new", field="averages", sentences=lambda a: [("Rows", "<b>"), "Alone."])
    monkeypatch.setattr("zprime.reporting.sections.SECTIONS", (new,))
    page = html(audit)
    assert '<h2 id="new">Something new</h2>' in page
    assert "<li><strong>Rows</strong>: &lt;b&gt;</li><li>Alone.</li>" in page
    assert page.count("<h2") == 1


def test_all_numbers_are_called_as_in_the_table_of_gains(audit: Audit) -> None:
    assert audit.latents is not None
    titles = {e.title for e in audit.entries}
    tables = [t for t in by_field.numbers(audit, "latents") if t.title == "Leave one out: ELBO gain"]
    wanted = [audit.entry(str(i)).title for i in audit.latents.leave_one_out]
    assert [r.name for r in tables[0].rows] == wanted
    assert all(r.name in titles for t in by_field.numbers(audit, "samples") if t.title == "Entries" for r in t.rows)


def test_many_dimensions_are_drawn_as_one_area(audit: Audit) -> None:
    """As many bars as dimensions would make a page of megabytes."""
    for d, bars in ((BARS, 2 * BARS), (BARS + 1, 0)):
        heights = [0.1 + i / d for i in range(d)]
        cut = replace(audit.surgery["train"], mean_variance=heights, posterior_variance=heights, dimension_kl=heights)
        bottom = plot.dimensions(replace(audit, surgery={**audit.surgery, "train": cut})).axes[-1]
        assert len(bottom.patches) == bars
        assert len(bottom.collections) == (0 if bars else 2)
        assert bottom.get_ylim()[1] >= 2 * heights[-1]  # the one stands on the other


def test_figures_and_sentences_use_the_thresholds_of_the_audit(audit: Audit) -> None:
    s = audit.surgery["train"]
    strict = replace(audit, thresholds=replace(THRESHOLDS, active=max(s.mean_variance) + 1, lost=-3.0, khat=0.5))
    hollow = [b.get_facecolor()[3] == 0 for b in plot.dimensions(strict).axes[0].patches]
    assert all(hollow)
    lax = replace(audit, thresholds=replace(THRESHOLDS, active=-1.0))
    assert all(b.get_facecolor()[3] == 1 for b in plot.dimensions(lax).axes[0].patches)
    page = html(strict)
    assert "rows &lt; −3" in page
    assert "k̂ &gt; 0.5" in page
    assert "lose more than 3 nats" in page
    assert "lose more than 5 nats" not in page


def test_one_word_for_one_thing(audit: Audit) -> None:
    """Neither what is printed nor what it is made from has the words of before."""
    folder = Path(reporting.__file__).parent
    for file in sorted(folder.rglob("*")):
        if file.suffix in (".py", ".j2", ".js", ".css"):
            assert not OLD_WORDS.findall(file.read_text()), file
    page = html(audit)
    body = re.sub(r"<script.*?</script>|<svg.*?</svg>|<style.*?</style>", "", page, flags=re.S)
    assert not OLD_WORDS.findall(body)
    assert not LETTERS.findall(body)
