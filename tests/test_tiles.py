"""The answers on the first screen of the page, on audits made by hand; the figures behind them; the glossary."""

from dataclasses import replace
from pathlib import Path

import pytest
from markupsafe import escape

import small
from zprime import plot
from zprime.reporting import claims
from zprime.reporting.glossary import GLOSSARY, glossed
from zprime.reporting.page import html
from zprime.reporting.palette import MARK, PROBLEM
from zprime.reporting.questions import questions
from zprime.reporting.sections import SECTIONS
from zprime.reporting.tiles import State, better, copies, encoder, fault, published, stores, tiles
from zprime.reporting.verdicts import changes
from zprime.results.audit import Audit
from zprime.results.likelihood import Attack
from zprime.results.names import CandidateId
from zprime.statistics.estimate import Estimate


@pytest.fixture(scope="module")
def audit(tmp_path_factory: pytest.TempPathFactory) -> Audit:
    folder = tmp_path_factory.mktemp("tiles")
    return small.run(folder / "run", small.table(folder / "table.npz", n=240))[1]


def number(value: float, stderr: float = 0.01) -> Estimate:
    return Estimate(value, stderr, value - 2 * stderr, value + 2 * stderr, 100, "", "heldout", 0)


def choosing(audit: Audit, name: str, *, generation: str = "") -> Audit:
    """Both verdicts leave the prior, for `name` and for `generation` (default: the same), which copy nothing."""
    assert audit.samples is not None
    side = audit.samples
    entries = [
        replace(e, copying=replace(e.copying, status="passes"), copying_draws=None) if e.copying else e
        for e in side.entries
    ]
    says = {"decision": "leave the prior", "copying": {}}
    verdict = replace(side.verdict, choice=generation or name, best=generation or name, **says)
    taken = replace(audit.verdict, decision="leave the prior", choice=name)
    return replace(audit, verdict=taken, samples=replace(side, entries=entries, verdict=verdict))


def test_there_is_a_tile_for_each_question_and_its_proof_is_on_the_page(audit: Audit) -> None:
    found = tiles(audit)
    page = html(audit)
    assert [t.question for t in found] == [
        "Better than the prior?", "Whose fault are bad samples?", "Does it copy?", "Does it store rows?",
        "Is the encoder sound?", "May the generator be published?",
    ]  # fmt: skip
    for t in found:
        assert t.proof in {s.name for s in SECTIONS}
        assert f'<h2 id="{t.proof}">' in page
        assert f'<a href="#{t.proof}">{t.question}</a>' in page
        assert t.answer.count(". ") <= 2
        assert f'class="tile {t.state}"' in page


def test_better_than_the_prior(audit: Audit) -> None:
    chosen = choosing(audit, "mixture+p1")
    label = audit.entry("mixture+p1").label
    assert better(chosen).state is State.GOOD
    assert better(chosen).answer.startswith(f"Yes: draw z′ from {label} (")
    assert "Both verdicts say so" in better(chosen).answer
    split = better(choosing(audit, "mixture+p1", generation="gaussian+p1"))
    assert "by likelihood and for generation" in split.answer
    assert "Both verdicts" not in split.answer
    kept = replace(audit.verdict, decision="keep the prior", choice="prior")
    assert better(replace(audit, verdict=kept, samples=None)).answer.startswith("No: keep N(0, I)")
    assert chosen.samples is not None
    back = replace(chosen.samples.verdict, decision="keep the prior", choice="prior")
    held = [
        better(replace(chosen, samples=replace(chosen.samples, verdict=back))),
        better(replace(chosen, samples=None)),
    ]
    rows = [replace(e, holds_rows=True) if e.name == "mixture+p1" else e for e in chosen.entries]
    held.append(better(replace(chosen, entries=rows)))
    for tile, why in zip(held, ("not measurably better", "copying", "stores functions"), strict=True):
        assert tile.state is State.UNSURE
        assert tile.answer.startswith(f"In part: by likelihood {label} is better, but ")
        assert why in tile.answer
        assert tile.answer.endswith("so N(0, I) is shipped.")
    undecided = replace(kept, decision="undecided")
    assert better(replace(audit, verdict=undecided, samples=None)).state is State.UNSURE


def test_whose_fault(audit: Audit) -> None:
    assert audit.samples is not None

    def made(latents: float, decoder: float) -> Audit:
        numbers = {"latents of the prior": number(latents), "decoder": number(decoder)}
        verdict = replace(audit.samples.verdict, numbers=numbers)
        return replace(audit, samples=replace(audit.samples, verdict=verdict))

    assert fault(made(5.0, 1.0)).answer.startswith("The prior's, not the decoder's")
    assert fault(made(5.0, 1.0)).state is State.PLAIN
    assert fault(made(1.0, 5.0)).answer.startswith("The decoder's")
    assert fault(made(1.0, 5.0)).state is State.PROBLEM
    assert fault(made(1.0, 1.0)).answer.startswith("Not one part's alone")
    assert fault(replace(audit, samples=None)).state is State.UNKNOWN


@pytest.mark.parametrize(("status", "state"), [("passes", "good"), ("copies", "problem"), ("untested", "unsure")])
def test_copying(audit: Audit, status: str, state: str) -> None:
    """What is shipped is the prior here; another that copies is named."""
    assert audit.samples is not None
    entries = []
    for e in audit.samples.entries:
        assert e.copying is not None
        given = {"prior": status, "mixture+p1": "copies"}.get(e.name, "passes")
        entries.append(replace(e, copying=replace(e.copying, status=given), copying_draws=None))
    verdict = replace(audit.samples.verdict, decision="keep the prior", choice="prior", copying={})
    kept = replace(audit.verdict, decision="keep the prior", choice="prior")
    found = copies(replace(audit, verdict=kept, samples=replace(audit.samples, entries=entries, verdict=verdict)))
    assert found.state == state
    assert f"Samples of {audit.entry('mixture+p1').label} do copy" in found.answer
    assert copies(replace(audit, samples=None)).state is State.UNKNOWN


def test_stored_rows(audit: Audit) -> None:
    chosen = choosing(audit, "mixture+p1")
    assert stores(chosen).state is State.GOOD
    assert "(the limit is 10)" in stores(chosen).answer
    rows = [replace(e, holds_rows=e.id.name == "mixture", least_rows=1.0) for e in audit.entries]
    allowed = replace(audit.settings, allow_rows=True)
    found = stores(replace(chosen, entries=rows, settings=allowed))
    assert found.state is State.PROBLEM
    unknown = [replace(e, least_rows=None) for e in audit.entries]
    assert stores(replace(chosen, entries=unknown)).state is State.UNSURE


def test_the_encoder(audit: Audit) -> None:
    assert audit.likelihood is not None
    c = audit.likelihood.calibration[0]

    def made(p: float, spread: float) -> Audit:
        other = replace(c, p_value=p, spread=[number(spread)] * len(c.spread))
        return replace(audit, likelihood=replace(audit.likelihood, calibration=[other]))

    assert encoder(made(0.5, 1.0)).state is State.GOOD
    assert "too narrow" in encoder(made(0.001, 1.5)).answer
    assert "too wide" in encoder(made(0.001, 0.5)).answer
    assert encoder(replace(audit, likelihood=None)).state is State.UNKNOWN
    codes = replace(audit, model=replace(audit.model, posterior="none"))
    assert "no posterior" in encoder(codes).answer


def test_publishing(audit: Audit) -> None:
    assert audit.membership is not None
    nothing = Attack(number(0.5, 0.02), number(0.01, 0.002))

    def made(model: Attack, own: Attack) -> Audit:
        chosen = choosing(audit, "mixture+p1")
        attacks = {CandidateId.parse("mixture+p1"): own}
        return replace(chosen, membership=replace(audit.membership, model=model, candidates=attacks))

    assert published(made(nothing, nothing)).state is State.GOOD
    assert "no proof of privacy" in published(made(nothing, nothing)).answer
    slightly = Attack(number(0.6), None)
    assert published(made(nothing, slightly)).state is State.UNSURE
    assert published(made(slightly, nothing)).answer.startswith("Only if who was in the training set is no secret")
    found = Attack(number(0.9), number(0.5))
    assert published(made(found, nothing)).state is State.PROBLEM
    assert published(made(nothing, found)).answer.startswith("Not as it is")
    clean = made(nothing, nothing)
    assert published(replace(clean, membership=None)).state is State.UNSURE


def test_what_could_change_it(audit: Audit) -> None:
    """Only what this audit did not look at is told."""
    assert audit.seeds is None
    assert "another training" in changes(audit)
    assert "another population" in changes(audit)
    undecided = replace(audit, verdict=replace(audit.verdict, decision="undecided"), samples=None)
    kept = replace(undecided, verdict=replace(audit.verdict, decision="keep the prior"))
    assert "more held-out rows" in changes(undecided)
    assert "more held-out rows" not in changes(kept)
    assert "the whole audit" not in changes(kept)
    assert "the whole audit" in changes(replace(kept, settings=replace(kept.settings, quick=True)))
    assert changes(audit) in html(audit)


def test_every_claim_has_a_figure(audit: Audit) -> None:
    for name in claims.__all__:
        assert getattr(plot, name)(audit) is not None, name
        nothing = replace(audit, latents=None, samples=None, membership=None, averages=None)
        assert getattr(plot, name)(nothing) is None, name


def colours(figure: object) -> set[str]:
    return {line.get_color() for axis in figure.axes for line in axis.lines}  # type: ignore[attr-defined]


def test_red_is_for_problems(audit: Audit) -> None:
    """A candidate that copies is red, and no other; what is chosen is blue."""
    assert audit.samples is not None
    chosen = choosing(audit, "mixture+p1")
    assert PROBLEM not in colours(claims.trade_off(chosen))
    assert MARK in colours(claims.trade_off(chosen))
    side = chosen.samples
    assert side is not None
    bad = [
        replace(e, copying=replace(e.copying, status="copies")) if e.name == "gaussian+p1" and e.copying else e
        for e in side.entries
    ]
    assert PROBLEM in colours(claims.trade_off(replace(chosen, samples=replace(side, entries=bad))))


def test_what_is_far_off_is_an_arrow_with_its_value(audit: Audit) -> None:
    """A bound of -5,000 nats must not squeeze all others into one pixel."""
    assert audit.latents is not None
    hole = audit.latents.hole
    assert hole is not None
    first, *others = hole.bounds
    far = replace(hole, bounds=[replace(first, target="population", estimate=number(-5000.0)), *others])
    figure = claims.hole(replace(audit, latents=replace(audit.latents, hole=far)))
    assert figure is not None
    axis = figure.axes[0]
    assert axis.get_xlim()[0] > -100 + min(0.0, hole.low)
    assert any("◂ -5,000" in t.get_text() for t in axis.texts)


def test_two_curves_of_density(audit: Audit) -> None:
    """Both are quantiles from low to high, and those of the codes lie to the right where the prior has holes."""
    assert audit.latents is not None
    curves = audit.latents.density_curves
    assert set(curves) == {"codes", "prior draws"}
    for values in curves.values():
        assert values == sorted(values)
        assert len(values) == 50
    figure = claims.low_density(audit)
    assert figure is not None
    assert [line.get_label() for line in figure.axes[0].lines] == ["held-out codes", "prior draws"]


def test_the_glossary_explains_a_word_once_and_escapes_the_rest() -> None:
    text = str(glossed("2 nats <b> of nats, p < 0.05; planned; sup p below 0.1"))
    assert text.count("<button") == 2
    assert "&lt;b&gt; of nats," in text
    assert GLOSSARY["p"].split(":")[0] in text
    assert ">p</button> &lt; 0.05; planned" in text
    assert str(glossed("a posteriori planned")) == "a posteriori planned"


def test_pages_name_latents_from_z1(audit: Audit) -> None:
    page = html(audit)
    assert "dimension 0" not in page
    assert '"z1' in page  # the axes of the map
    assert "z1" in [t.get_text() for t in plot.dimensions(audit).axes[-1].get_xticklabels()]


def test_questions_are_answered_on_the_page(audit: Audit) -> None:
    page = html(audit)
    asked = questions(audit)
    assert len(asked) > 4
    for q in asked:
        assert f"<summary>{escape(q.question)}</summary>" in page
        assert not q.anchor or f'<a href="#{q.anchor}">The figures.</a>' in page


def test_contents_lead_to_every_section(audit: Audit, tmp_path: Path) -> None:
    page = html(audit)
    start, end = page.index('<nav id="contents"'), page.index("</nav>")
    for name in ("gains", "samples", "membership", "likelihood", "surgery", "averages", "costs", "provenance"):
        assert f'<a href="#{name}">' in page[start:end]
