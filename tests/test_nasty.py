"""Nasty names through every renderer: terminal, page, Markdown, figures, notebook, JSON; and as names of fits."""

import io
import json
import logging
import re
import unicodedata
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import markdown_it
import pytest
import torch
from rich.console import Console

import small
from nasty import NASTY
from zprime import audit as measure
from zprime import explain, latent, plot, serialise
from zprime.cli import console as terminal
from zprime.errors import ArtifactError, UsageError
from zprime.escape import label, markdown, visible
from zprime.posteriors import MemoryPosteriors
from zprime.reporting.page import html
from zprime.reporting.pictures import svg
from zprime.reporting.terminal import details, show
from zprime.results.audit import Audit, AuditSettings, load
from zprime.results.names import LONGEST, CandidateId, check_name
from zprime.rng import stream
from zprime.tables import Cell, Column, Row, Table, to_html, to_markdown, to_rich, to_text

each = pytest.mark.parametrize("nasty", NASTY.values(), ids=NASTY)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Audit:
    folder = tmp_path_factory.mktemp("nasty")
    return small.run(folder / "run", small.table(folder / "table.npz", 400))[1]


def named(audit: Audit, names: list[str]) -> Audit:
    """The same audit with as many candidates as names, each with a name as label, gloss, outcome and in a sentence."""
    assert audit.samples is not None
    one, sampled = audit.entries[0], audit.samples.entries[0]
    said = [f"Leave the prior: {n} is better." for n in names]
    ids = [CandidateId("prior"), *(CandidateId(f"c{i}") for i in range(1, len(names)))]
    samples = replace(
        audit.samples,
        entries=[replace(sampled, id=i, label=n) for i, n in zip(ids, names, strict=True)],
        verdict=replace(audit.samples.verdict, sentence=said[0], why=said, choice="prior", best="prior"),
    )
    return replace(
        audit,
        data=replace(audit.data, name=names[0], columns=names[:5], weights=names[1]),
        entries=[replace(one, id=i, label=n, gloss=n, outcome=n) for i, n in zip(ids, names, strict=True)],
        verdict=replace(audit.verdict, sentence=said[0], why=said, choice="prior"),
        warnings=said,
        samples=samples,
        latents=None,
        likelihood=None,
        membership=None,
        command=f"zprime run --data '{names[0]}'",
    )


ALL = list(NASTY.values())
PLAIN = [f"plain{i}" for i in range(len(ALL))]


def hidden(text: str) -> set[str]:
    """Characters that control a terminal or the direction of a text, and half characters, but for line breaks."""
    joiners = "\u200c\u200d"
    return {c for c in text if unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp") and c not in "\n" + joiners}


class Tags(HTMLParser):
    """Tags with the names of their attributes, and the text between them."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, tuple[str, ...]]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, tuple(name for name, _ in attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def test_on_a_page(made: Audit) -> None:
    page = html(named(made, ALL))
    found = Tags(page)
    assert found.tags == Tags(html(named(made, PLAIN))).tags  # none more, none less
    assert not hidden(page)
    page.encode()
    for nasty in ALL:
        assert "\n".join(map(visible, nasty.split("\n"))) in found.text


def test_in_a_terminal(made: Audit, capsys: pytest.CaptureFixture[str]) -> None:
    audit = named(made, ALL)
    file = io.StringIO()
    console = Console(file=file, width=20_000, force_terminal=False, color_system=None)
    console.print(show(audit, width=20_000))
    console.print(details(audit, width=20_000))
    text = file.getvalue()
    assert not hidden(text + str(audit) + repr(audit))
    for nasty in ALL:
        assert visible(nasty) in text  # whole: nothing of it was taken for markup
    terminal.say(show(audit, width=80))
    log = logging.getLogger("zprime.nasty")
    messages = terminal.handler()
    log.addHandler(messages)
    log.propagate = False  # what pytest keeps of it would not go from a worker of xdist to its parent
    for nasty in ALL:
        terminal.say(nasty)
        log.error("%s", nasty)
    log.removeHandler(messages)
    out, err = capsys.readouterr()
    assert not hidden(out + err)
    assert out.endswith("\n".join(map(visible, ALL)) + "\n")


@each
def test_a_console_writes_no_control_character_that_it_was_asked_to_show(nasty: str) -> None:
    """Also where a caller forgot to escape."""
    safe = terminal.SafeConsole()
    safe.file = file = io.StringIO()
    safe.print(nasty, markup=False, highlight=False)
    safe.print(f"[red]{nasty.replace('[', '')}[/red]")
    assert not hidden(file.getvalue())


def test_in_markdown(made: Audit) -> None:
    reader = markdown_it.MarkdownIt("commonmark").enable(["table", "strikethrough"])

    def kinds(source: str) -> list[str]:
        return [t.type for block in reader.parse(source) for t in (block, *(block.children or ())) if t.type != "text"]

    wanted = kinds(explain(named(made, PLAIN)))
    for first in range(len(ALL)):
        text = explain(named(made, ALL[first:] + ALL[:first]))
        assert not hidden(text)
        assert kinds(text) == wanted  # no emphasis, link, HTML or heading more
        shown = Tags(reader.render(f"before {markdown(ALL[first])} after")).text.strip()
        assert shown == f"before {visible(ALL[first])} after"


@pytest.mark.parametrize("name", ["gains", "columns"])
def test_in_figures(made: Audit, name: str) -> None:
    figure = getattr(plot, name)(named(made, ALL))
    element = svg(figure, name)
    found = Tags(element)
    assert not [a for _, names in found.tags for a in names if a == "style" or a.startswith("on")]
    assert {tag for tag, _ in found.tags} <= {"svg", "g", "path", "text", "tspan", "defs", "metadata", "use", *RDF}
    assert not hidden(element)
    for nasty in ALL if name == "gains" else ALL[1:2]:
        assert label(nasty).strip()[:20] in found.text


RDF = ("clippath", "rect", "image", "rdf:rdf", "cc:work", "dc:type", "dc:format", "dc:creator", "cc:agent", "dc:title")


@each
def test_in_tables(nasty: str) -> None:
    table = Table(nasty, [Column("a", nasty), Column("b", nasty)], [Row([Cell(nasty), Cell(nasty)])])
    for text in (to_text(table), to_markdown(table), to_html(table)):
        assert not hidden(text)
    plain = Table("x", [Column("a", "x"), Column("b", "x")], [Row([Cell("x"), Cell("x")])])
    assert to_markdown(table).count("\n") == to_markdown(plain).count("\n")
    assert [tag for tag, _ in Tags(to_html(table)).tags] == [tag for tag, _ in Tags(to_html(plain)).tags]
    console = Console(file=io.StringIO(), width=9000)
    console.print(to_rich(table, 9000))
    assert console.file.getvalue().count(visible(nasty)) == 5  # type: ignore[attr-defined]


@each
def test_in_json(nasty: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(terminal.OPTIONS, "json", True)
    terminal.give({"name": nasty, "path": Path(nasty.replace("\0", ""))})
    out = capsys.readouterr().out
    assert not hidden(out)
    assert json.loads(out)["name"] == nasty


def test_in_the_json_of_an_audit(made: Audit) -> None:
    text = json.dumps(named(made, ALL).to_json())
    again = serialise.from_jsonable(Audit, {**json.loads(text), "tensors": {}})
    assert [e.label for e in again.entries] == ALL


@each
def test_as_the_name_of_a_fit(nasty: str) -> None:
    if re.fullmatch("[A-Za-z]+", nasty) and len(nasty) <= LONGEST:
        check_name(nasty)
    else:
        with pytest.raises(UsageError, match="name: expected"):
            check_name(nasty)


@pytest.mark.parametrize("name", ["a", "7", "K-20", "v1.2_b", "NaN", "null", "codes", "labels", "a" * LONGEST])
def test_names_that_can_be_used(name: str) -> None:
    check_name(name)


@pytest.mark.parametrize("name", ["", ".", "..", ".a", "a.", "-a", "_a", "a b", "é", "٣", "a\n", "a:b", 65 * "a"])
def test_names_that_cannot(name: str) -> None:
    with pytest.raises(UsageError, match="name: expected 1 to 64 letters"):
        check_name(name)


@pytest.mark.parametrize("name", ["train", "selection", "heldout", "reconstructions"])
def test_what_an_audit_calls_its_own_is_no_name_of_a_fit(name: str) -> None:
    with pytest.raises(UsageError, match=f"name: {name} is what an audit calls"):
        check_name(name)


def test_a_candidate_may_be_called_as_a_tensor_of_the_audit() -> None:
    """Codes of the data stay codes of the data."""
    codes = MemoryPosteriors(torch.randn(60, 2, generator=stream(0, "z")) + 9, torch.full((60, 2), 0.1))
    far = latent.Gaussian(torch.full((2,), -50.0), torch.eye(2))
    names = ("codes", "labels", "rows", "data", "data.codes")
    settings = AuditSettings(rows=20, draws=0, map=30, samples=0, members=0)
    found = measure(dict.fromkeys(names, far), dict.fromkeys(("train", "selection", "heldout"), codes),
                    settings=settings, keep_duplicates=True)  # fmt: skip
    assert float(found.tensors["data.codes"].min()) > 0
    for name in names:
        assert float(found.tensors[f"map.{name}"].max()) < 0
    assert html(found)


def test_an_audit_with_a_name_that_no_fit_can_have_is_refused(made: Audit, tmp_path: Path) -> None:
    first, *others = made.entries
    spoiled = replace(made, entries=[replace(first, id=CandidateId("../model")), *others])
    spoiled.save(tmp_path / "audit")
    with pytest.raises(ArtifactError, match=r"'\.\./model' is no name of a fit"):
        load(tmp_path)
