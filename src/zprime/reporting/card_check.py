"""Whether a model card says what the audit says that it was made of."""

import json
import re
from collections.abc import Iterator, Sequence, Set
from typing import Any

from zprime.reporting.card import Metric, metrics
from zprime.reporting.card import card as card_of
from zprime.results.audit import Audit
from zprime.results.differences import MISSING, Difference
from zprime.results.public import publish

HEAD = re.compile(r"\A---\n(.*?)\n---\n", re.DOTALL)


def is_card(text: str) -> bool:
    """Whether a text is a card that zprime wrote."""
    found = HEAD.search(text)
    return found is not None and 'library_name: "zprime"' in found[1]


def differences(text: str, audit: Audit, *, name: str) -> Iterator[Difference]:
    """Metrics of a card that are not those of the audit, and lines with numbers that it has not as it should.

    What else somebody wrote into the card is not looked at.

    Args:
        text: the card.
        audit: that it was made of.
        name: of the file, as it is called in what is found.
    """
    title, of_card, _ = _head(text)
    public = publish(audit)
    wanted = metrics(public, public.entry(audit.shipped))
    yield from against(text, wanted, lines_of(card_of(audit, name=title, license=of_card)), name=name)


def against(text: str, wanted: Sequence[Metric], wanted_lines: Sequence[str], *, name: str) -> Iterator[Difference]:
    """Metrics of a card that are not those wanted, and lines that are wanted and not there.

    Args:
        text: the card.
        wanted: the metrics that it should have.
        wanted_lines: lines with numbers that it should have.
        name: of the file, as it is called in what is found.
    """
    told, by_kind = _head(text)[2], {m.kind: m for m in wanted}
    for kind in dict.fromkeys([*told, *by_kind]):
        m = by_kind.get(kind)
        there, here = told.get(kind), None if m is None else (m.shown if m.value is None else m.value, m.stderr)
        if there != here:
            yield Difference(f"{name}, metric {kind}", *(_pair(p) for p in (there, here)))
    lines = set(text.splitlines())
    for line in wanted_lines:
        if line not in lines:
            yield Difference(f"{name}, a line", _nearest(line, lines), repr(line))


def lines_of(card: str) -> list[str]:
    """The lines of a card that have numbers in them, without its head."""
    return [line for line in HEAD.sub("", card, count=1).splitlines() if re.search(r"\d", line)]


def _pair(metric: tuple[Any, Any] | None) -> str:
    if metric is None:
        return MISSING
    return f"{metric[0]!r}" + (f" ± {metric[1]!r}" if metric[1] is not None else "")


def _head(text: str) -> tuple[str, str, dict[str, tuple[Any, Any]]]:
    """Name and licence, and the metrics by their type; of a head that is not ours nothing."""
    found = HEAD.search(text)
    parts = re.split(r"^([a-z_-]+): ", found[1] if found else "", flags=re.MULTILINE)[1:]
    try:
        head = {key: json.loads(value) for key, value in zip(parts[::2], parts[1::2], strict=True)}
        model = head["model-index"][0]
        told = {
            m["type"]: (m["value"], m.get("args", {}).get("stderr")) for r in model["results"] for m in r["metrics"]
        }
        return str(model["name"]), str(head["license"]), told
    except (ValueError, KeyError, TypeError, IndexError, AttributeError):
        return "", "other", {}


def _nearest(line: str, lines: Set[str]) -> str:
    """The line that stands in its place: the one that begins like it."""
    start = line.split("|")[1] if line.startswith("|") else line[:12]
    like = [x for x in lines if (x.split("|")[1:2] == [start] if line.startswith("|") else x.startswith(start))]
    return repr(min(like)) if like else MISSING
