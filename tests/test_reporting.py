"""The pages, tested on their data: rendered from an audit alone, offline, escaped, the same bytes again."""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pytest
import torch
from markupsafe import escape
from matplotlib.figure import Figure
from rich.console import Console

import small
import zprime
from zprime import artifact, explain, load_audit, plot, reporting
from zprime.errors import ArtifactError, UsageError
from zprime.latent.kind import Outcome
from zprime.memory import size
from zprime.posteriors import ShardedPosteriors
from zprime.reporting import gains, pictures
from zprime.reporting.by_field import tables_of
from zprime.reporting.compare import compare
from zprime.reporting.compare import short as short_names
from zprime.reporting.latent_map import map_data
from zprime.reporting.latents import lines
from zprime.reporting.page import html
from zprime.reporting.sections import shown
from zprime.reporting.sheets import sheets
from zprime.reporting.terminal import details, show
from zprime.results.audit import Audit
from zprime.results.latents import Minibatch
from zprime.results.names import CandidateId, Gain
from zprime.results.public import publish
from zprime.rng import stream
from zprime.running import Run
from zprime.statistics.estimate import Estimate, mean_estimate
from zprime.statistics.format import tight
from zprime.tables import WIDTH


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Audit:
    folder = tmp_path_factory.mktemp("report")
    return small.run(folder / "run", small.table(folder / "table.npz"))[1]


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Audit]:
    folder = tmp_path_factory.mktemp("digits") / "run"
    return folder, small.run(folder, Path("digits"))[1]


def test_page_asks_no_outside_host(digits: tuple[Path, Audit]) -> None:
    page = html(digits[1])
    hosts = set(re.findall(r"""(?:src|href|url)\s*[=(]\s*["']?([a-z]+:?//[^"'\s)]+)""", page))
    assert not hosts
    assert "default-src 'none'" in page  # nor could it
    assert "@import" not in page
    assert len(page) < 5_000_000


def broken(page: str) -> str:
    """The page with plain blanks, also where lines do not break."""
    return page.replace("\u00a0", " ")


def test_page_shows_every_grid_and_number(digits: tuple[Path, Audit]) -> None:
    folder, audit = digits
    page = reporting.report(folder).read_text()
    assert page == html(audit)
    page = broken(page)
    assert audit.verdict.sentence.replace("'", "&#39;") in page
    names = ["held-out data", "reconstructions", *(e.label for e in audit.leading)]
    for name in names:
        assert f"{name}</figcaption>" in page.replace("Held-out", "held-out").replace("Their rec", "rec"), name
    assert page.count("data:image/png;base64") >= len(names)
    for e in audit.entries:
        assert str(e.heldout.likelihood.gain) in page


def test_public_page_shows_no_row_of_the_data(digits: tuple[Path, Audit]) -> None:
    """Every image of the private page that stems from a row is missing; what the mixture makes is there."""
    audit = small.cleared(digits[1])
    private, public = html(audit), html(audit, public=True)
    shown = {s.title: s.url for s in sheets(audit)}
    assert len(shown) == 6
    kept = {f"z′ from {e.label}" for e in audit.leading if not e.holds_rows}
    for title, url in shown.items():
        assert url in private
        assert (url in public) == (title in kept), title
    assert len(sheets(publish(audit))) == len(kept) == 3
    assert map_data(audit)["codes"]
    assert map_data(publish(audit))["codes"] is None
    assert [d["label"] for d in map_data(publish(audit))["draws"]] == [
        e.label for e in audit.entries if not e.id.percent and not e.holds_rows
    ]


@pytest.mark.parametrize("status", ["copies", "untested"])
def test_samples_that_are_not_cleared_of_copying_are_not_on_a_public_page(
    digits: tuple[Path, Audit], status: str
) -> None:
    """Those of the prior too: a decoder that memorises makes training rows of any z'."""
    audit = small.cleared(digits[1])
    assert audit.samples is not None
    names = [e.name for e in audit.leading if not e.holds_rows]
    assert "prior" in names
    for name in names:
        verdict = replace(audit.samples.verdict, copying={name: status})
        found = replace(audit, samples=replace(audit.samples, verdict=verdict))
        title = f"z′ from {audit.entry(name).label}"
        assert title in [s.title for s in sheets(publish(audit))]
        assert title not in [s.title for s in sheets(publish(found))]
        assert title in [s.title for s in sheets(found)]
        assert f"map.{name}" not in publish(found).tensors
    assert html(small.cleared(audit, status), public=True)  # also where nothing is left to show
    assert publish(small.cleared(audit, status)).tensors == {}


def test_neighbours_are_on_the_page_but_never_on_a_public_one(digits: tuple[Path, Audit]) -> None:
    audit = digits[1]
    near = {f"near.{e.name}": audit.tensors[f"grid.{e.name}"].flip(0) for e in audit.leading}
    with_near = replace(audit, tensors={**audit.tensors, **near})
    assert html(with_near).count("data-near=") == len(near)
    assert "data-near" not in html(with_near, public=True)


def test_the_command_that_makes_it_again_is_printed_as_the_audit_has_it(made: Audit) -> None:
    page = html(replace(made, command="zprime run --data 'a & b' --seed 3"))
    assert "<code>zprime run --data &#39;a &amp; b&#39; --seed 3</code>" in page
    assert "makes it again" not in html(replace(made, command=""))


def test_intervals_are_drawn_where_they_are(made: Audit) -> None:
    ends = []
    for e, row in zip(made.entries, gains.table(made).pick("name", "drawn").rows, strict=True):
        assert row.name == e.title
        bar = row.cells[1].bar
        assert e.heldout.likelihood is not None
        if bar and not (bar.left or bar.right):
            assert 0 <= bar.low <= bar.value <= bar.high <= WIDTH
            ends.append((bar.value - bar.zero, e.heldout.likelihood.gain.value))
    for drawn, value in ends:
        assert drawn * value >= 0
    scale = [d / v for d, v in ends if abs(v) > 0.05]
    assert max(scale) - min(scale) < 0.1 * max(scale)


def test_every_estimate_in_a_new_section_is_on_the_page(made: Audit) -> None:
    """A dataclass that a measure adds to the audit is shown without a line in the page."""

    @dataclass(frozen=True)
    class Drift:
        """How far apart.

        Attributes:
            distance: between this and
                that.
            by_kind: the same for each.
        """

        distance: Estimate
        by_kind: dict[str, Estimate]

    e = Estimate(1.234, 0.1, 1.0, 1.4, 77, "nats", "heldout", 3, stable=False, because="too few")
    tables = tables_of(Drift(e, {"prior": e}), "")
    assert [(t.title, [r.name for r in t.rows]) for t in tables] == [("", ["Distance"]), ("By kind", ["prior"])]
    number = tables[0].rows[0].cells[1]
    assert number.text == "1.23 ± 0.10 ?"
    assert number.why == (
        "between this and that; 95 % interval 1 to 1.4 nats; 77 rows of the heldout split, seed 3; too few; not stable."
    )


def test_sections_inside_sections_become_tables_with_the_same_rows() -> None:
    e = Estimate(0.5, 0.01, 0.48, 0.52, 77, "share", "heldout", 3)

    @dataclass(frozen=True)
    class Inner:
        """One.

        Attributes:
            auc: a chance.
        """

        auc: Estimate
        status: str = "passes"

    @dataclass(frozen=True)
    class Outer:
        """Two.

        Attributes:
            label: its name.
            size: how many.
            inner: more.
            shares: by label.
        """

        label: str
        size: int
        inner: Inner | None
        shares: dict[str, Estimate]
        verdict: str = "told at the top"
        seed: int = 5430294671576327937

    outer = [Outer("prior", 3, Inner(e), {"cat": e}), Outer("mixture", 4, None, {"dog": e})]
    found = {t.title: t for t in tables_of(outer, "")}
    assert {k: [r.name for r in t.rows] for k, t in found.items()} == {
        "": ["prior", "mixture"],
        "Inner": ["prior"],
        "Shares": ["prior", "mixture"],
    }
    assert [c.heading for c in found[""].columns] == ["", "Size"]
    assert [c.heading for c in found["Inner"].columns] == ["", "Auc", "Status"]
    assert [[c.text for c in row.cells[1:]] for row in found["Shares"].rows] == [
        ["0.500 ± 0.010", "–"],
        ["–", "0.500 ± 0.010"],
    ]
    assert "a chance" in found["Inner"].rows[0].cells[1].why


def test_several_runs_on_one_page(digits: tuple[Path, Audit], made: Audit, tmp_path: Path) -> None:
    page = broken(compare([digits[1], made], ["runs/a/one", "runs/a/two"]))
    assert "2 runs compared" in page
    for audit in (digits[1], made):
        assert audit.verdict.sentence.replace("'", "&#39;") in page
        for e in audit.entries:
            assert str(e.heldout.likelihood.gain) in page
    assert "not of the same data" in page
    assert "not of the same data" not in compare([made, made], ["a", "b"])
    with pytest.raises(ArtifactError, match="expected a path for the page of several runs"):
        reporting.report([digits[0], digits[0]])


def test_short_names() -> None:
    assert short_names(["runs/a", "runs/b/"]) == ["a", "b"]
    assert short_names(["x/1/run", "y/1/run"]) == ["x/1/run", "y/1/run"]
    assert short_names(["a", "a"]) == ["a", "a"]


def test_every_figure_is_a_matplotlib_figure(digits: tuple[Path, Audit]) -> None:
    before = dict(mpl.rcParams)
    for name in plot.__all__:
        figure = getattr(plot, name)(digits[1])
        if name in ("columns", "counts", "drift"):  # of tables, of counts, and where new rows were looked at
            assert figure is None
        else:
            assert isinstance(figure, Figure), name
    assert dict(mpl.rcParams) == before


def test_waterfall_adds_up(made: Audit) -> None:
    bars = plot.surgery(made).axes[0].patches
    total, information, gaussian, shape = (b.get_height() for b in bars)
    assert abs(information + gaussian + shape - total) < 1e-9
    assert bars[3].get_y() + shape == pytest.approx(total)


def test_figures_say_what_they_lack(made: Audit) -> None:
    with pytest.raises(UsageError, match="expected an audit of images"):
        plot.samples(made)
    with pytest.raises(UsageError, match=r"gain: expected one of elbo, exact_posterior, likelihood, got 'codes'"):
        plot.gains(made, gain="codes")
    with pytest.raises(UsageError, match="split: expected one of train"):
        plot.surgery(made, split="test")


def test_notebook_shows_results(digits: tuple[Path, Audit]) -> None:
    folder, audit = digits
    run = Run.open(folder)
    shown = audit._repr_html_()
    assert audit.verdict.sentence.replace("'", "&#x27;") in shown
    for e in audit.entries:
        assert str(e.heldout.likelihood.gain) in shown
    posteriors = ShardedPosteriors(folder / "posteriors" / "train")
    assert f"{posteriors.n:,} posteriors in 2 dimensions" in posteriors._repr_html_()
    model = run.folder.generative("mixture")
    assert "every stored component stands for at least" in model._repr_html_()
    fit = zprime.fit("gaussian", posteriors, selection=ShardedPosteriors(folder / "posteriors" / "selection"))
    assert fit.outcome.message in fit._repr_html_()
    nasty = replace(fit, outcome=Outcome(ok=False, message="<b>&"))._repr_html_()
    assert "not well: &lt;b&gt;&amp;" in nasty


def test_tables_have_their_columns_in_place_of_picture_grids(made: Audit) -> None:
    page = html(made)
    assert 'class="sheets"' not in page
    assert "column 0" in page
    assert "The latent space" in page
    assert "column 0" not in html(made, public=True)


def test_columns_show_the_data_and_the_farthest_column_first(made: Audit) -> None:
    prior, held = (made.tensors[n].clone() for n in ("grid.prior", "data.rows"))
    prior[:], held[:] = torch.arange(len(prior))[:, None], torch.arange(len(held))[:, None]
    held[:, 2] += 1000
    figure = plot.columns(replace(made, tensors={**made.tensors, "grid.prior": prior, "data.rows": held}))
    assert figure is not None
    assert figure.axes[0].get_title() == "column 2"
    line = figure.axes[0].lines[0]
    assert line.get_label() == "held-out data"
    assert float(line.get_xdata().max()) == pytest.approx(1000 + len(held) - 1)
    assert plot.columns(replace(made, images=True)) is None


def counted(made: Audit, prior: torch.Tensor, held: torch.Tensor) -> Audit:
    drawn = {f"grid.{e.name}": prior for e in made.entries}
    return replace(made, tensors={**made.tensors, **drawn, "data.rows": held})


def test_counts_have_their_means_zeros_and_totals(made: Audit) -> None:
    held = torch.poisson(3 * torch.rand(40, 30, generator=stream(0, "counts")) + 0.5)
    prior = 2 * held
    prior[:, 7] = 0.0
    audit = counted(made, prior, held)
    figure = plot.counts(audit)
    assert figure is not None
    means, zeros, totals = figure.axes
    dots = np.asarray(means.collections[0].get_offsets())
    np.testing.assert_allclose(dots[:, 0], 1 + held.mean(0), rtol=1e-6)
    np.testing.assert_allclose(dots[:, 1], 1 + prior.mean(0), rtol=1e-6)
    assert zeros.collections[0].get_offsets()[7, 1] == 1
    assert float(totals.lines[-1].get_xdata()[-1]) == 1 + float(held.sum(1).max())
    assert "proportion of zeros" in html(audit)
    assert "proportion of zeros" not in html(audit, public=True)
    assert plot.counts(made) is None
    assert plot.counts(counted(made, prior, held + 0.5)) is None


def test_many_counts_are_thinned(made: Audit) -> None:
    held = torch.ones(5, 4500) + torch.arange(5)[:, None]
    figure = plot.counts(counted(made, held, held))
    assert figure is not None
    assert len(figure.axes[0].collections[0].get_offsets()) == 1500


def test_copying_is_told_in_a_line_and_one_by_one_behind_a_fold(digits: tuple[Path, Audit]) -> None:
    page = html(digits[1])
    part = page[page.index("Samples beside data</h2>") :]
    assert part.index("<strong>Copying</strong>") < part.index("<summary>Copying, one by one</summary>")
    assert "passes: " in part


def test_page_is_the_same_bytes_again(made: Audit) -> None:
    assert html(made) == html(made)


def test_hostile_names_are_escaped(made: Audit) -> None:
    nasty = "<script>alert(1)</script>&'\""
    spoiled = replace(
        made,
        data=replace(made.data, name=nasty),
        warnings=[nasty],
        verdict=replace(made.verdict, sentence=nasty, why=[nasty]),
        entries=[replace(e, label=nasty) for e in made.entries],
    )
    page = html(spoiled)
    assert "<script>alert" not in page
    assert page.count("&lt;script&gt;alert(1)&lt;/script&gt;") >= 6


@pytest.mark.parametrize("width", [80, 120])
def test_latent_side_is_told_on_page_and_terminal(made: Audit, width: int) -> None:
    told = lines(made)
    assert len(told) >= 7
    page = html(made)
    console = Console(width=width, record=True, quiet=False, file=open("/dev/null", "w"))  # noqa: SIM115, PTH123
    console.print(details(made))
    terminal = console.export_text()
    for name, text in told:
        assert str(escape(name)) in page
        assert str(escape(text)) in page
        for word in (*name.split(), *text.split()):
            assert word in terminal
    assert made.latents is not None
    assert made.latents.hole is not None
    for b in made.latents.hole.bounds:
        assert b.name in page
        assert str(b.estimate) in page
    assert lines(replace(made, latents=None)) == []


def test_one_minibatch_has_no_error_and_says_why(made: Audit) -> None:
    assert made.latents is not None
    few = mean_estimate(torch.tensor([3.21]), unit="nats", split="train", seed=0)
    side = replace(made.latents, minibatch=Minibatch(100, 120, {"plug-in": few}))
    told = dict(lines(replace(made, latents=side)))["I by minibatches of 100, nats"]
    assert told.startswith("plug-in +3.21 ± ?; exact ")
    assert told.endswith("There are rows for one minibatch only, so its errors are not known.")


@pytest.mark.parametrize("width", [80, 140])
def test_terminal_table_holds_what_the_audit_says(made: Audit, width: int) -> None:
    console = Console(width=width, record=True, quiet=False, file=open("/dev/null", "w"))  # noqa: SIM115, PTH123
    console.print(show(made, width=width))
    text = console.export_text()
    assert made.verdict.decision in text
    for e in made.entries:
        assert e.label in text
        assert tight(e.heldout.likelihood.gain) in text
    assert max(map(len, text.splitlines())) <= width
    assert "…" not in text


def test_long_names_give_way_to_the_numbers(made: Audit) -> None:
    long = replace(made, entries=[replace(e, label=f"{e.label} on 6 of 8 + 10 % p and yet more") for e in made.entries])
    console = Console(width=80, record=True, quiet=False, file=open("/dev/null", "w"))  # noqa: SIM115, PTH123
    console.print(show(long, width=80))
    text = console.export_text()
    assert "…" not in text
    for e in long.entries:
        for gain in Gain:
            assert tight(e.heldout.of(gain).gain) in text


def test_what_is_shipped_is_on_the_page(made: Audit, digits: tuple[Path, Audit]) -> None:
    audit = digits[1]
    assert f"To be shipped: {audit.entry(audit.shipped).label}." in html(audit)
    assert "To be shipped" not in html(made)  # no samples, and one verdict


def test_untrusted_numbers_are_marked(made: Audit) -> None:
    e = made.entries[1].heldout.likelihood.gain
    assert tight(replace(e, stable=False)) == tight(replace(e, stable=True)) + "?"


def test_sizes_in_words() -> None:
    assert [size(n) for n in (0, 999, 1000, 43_120_000, 5_000_000_000)] == [
        "0 B",
        "999 B",
        "1.0 kB",
        "43.1 MB",
        "5.0 GB",
    ]


def test_grid_places_images_in_order() -> None:
    import numpy as np
    import torch

    x = torch.stack([torch.full((1, 2, 3), i / 10) for i in range(5)])
    sheet = np.asarray(pictures.grid(x, columns=3))
    assert sheet.shape == (2 * 3 + 1, 3 * 4 + 1)
    for i in range(5):
        assert sheet[1 + i // 3 * 3, 1 + i % 3 * 4] == round(255 * i / 10)


def test_no_audit_there(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"expected an artefact of kind audit, found no manifest.json"):
        reporting.report(tmp_path)
    with pytest.raises(UsageError, match=r"report: expected the folder of a run, or several, got none"):
        reporting.report([])


Change = Callable[[dict[str, Any]], object]


@pytest.mark.parametrize(
    ("change", "missing"),
    [
        (lambda a: a["averages"]["members"].pop("moment match"), "no moment match among the averages"),
        (lambda a: a["surgery"].pop("train"), "no train among the surgery"),
        (lambda a: a["entries"][1]["scores"].pop("heldout"), "no heldout among the scores of"),
        (lambda a: a["samples"]["controls"].pop("real rows"), "no real rows among the controls"),
        (lambda a: a.update(data="digits"), "expected names and values for"),
        (lambda a: a["verdict"]["chosen"].update(gain="code"), "'code' is not a valid Gain"),
    ],
)
def test_an_audit_that_another_version_wrote_is_refused(
    digits: tuple[Path, Audit], tmp_path: Path, change: Change, missing: str
) -> None:
    content = digits[1].to_json()
    change(content)
    extra = {"audit.json": json.dumps(content).encode()}
    artifact.write(tmp_path / "audit", artifact.Manifest("audit"), tensors=digits[1].tensors, extra=extra)
    for read in (explain, reporting.report, load_audit):
        with pytest.raises(ArtifactError, match=rf"made by another version of zprime .*{missing}.*; audit the run"):
            read(tmp_path)


def test_averages_are_not_called_like_fits_of_the_same_name(digits: tuple[Path, Audit]) -> None:
    audit = digits[1]
    assert audit.averages is not None
    mixed = replace(audit.entries[1], id=CandidateId("log-pool"), label="log-pool of mine")
    found = shown(replace(audit, entries=[*audit.entries, mixed]))
    averages = next(s for s in found if s.section.name == "averages")
    names = [row.name for t in averages.numbers for row in t.rows]
    assert "log-pool" in names
    assert set(audit.averages.members) <= set(names)
