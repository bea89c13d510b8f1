"""Write what zprime says of the example on docs/question.md into the docs: python tools/answers.py.

In a page `<!-- answer: HEADING -->` ... `<!-- /answer -->` holds that part of what `zprime explain` says of the `audit`
on docs/question.md (or that question's answer), with its formulas typeset (formulas.py), and `<!-- printed -->` ...
`<!-- /printed -->` what the block above it printed. The pictures of its blocks are written to docs/images.
"""

import contextlib
import io
import os
import re
from collections.abc import Mapping
from pathlib import Path

from formulas import typeset
from pictures import blocks

DOCS = Path(__file__).parent.parent / "docs"
EXAMPLE = DOCS / "question.md"
PAGES = (EXAMPLE, DOCS / "questions.md")
ANSWER = re.compile(r"(<!-- answer: (.+?) -->\n).*?(<!-- /answer -->)", re.S)
PRINTED = re.compile(r"(<!-- printed -->\n).*?(<!-- /printed -->)", re.S)


def run(page: Path) -> tuple[dict[str, object], list[str]]:
    """Run the Python blocks up to the first slow one.

    Returns:
        Their names at the end, and what was printed by each that printed something.
    """
    names: dict[str, object] = {}
    printed: list[str] = []
    for slow, language, text in blocks(page):
        if slow and language == "python":
            break
        if language == "python":
            out = io.StringIO()
            with contextlib.redirect_stdout(out):
                exec(compile(text, page.name, "exec"), names)
            printed += [out.getvalue().rstrip()] if out.getvalue() else []
    return names, printed


def answers(audit: object) -> dict[str, str]:
    """Heading of a part of the answer, or question -> its text."""
    from zprime.reporting.explain import explain
    from zprime.reporting.questions import questions

    parts = explain(audit).split("\n## ")[1:]
    told = {heading: text.strip() for heading, text in (part.split("\n", 1) for part in parts)}
    return told | {q.question: q.answer for q in questions(audit)}


def filled(page: Path, told: Mapping[str, str], printed: list[str]) -> str:
    """The page with the answers and what its blocks printed; a heading that is none of them raises `KeyError`."""
    left = iter(printed)
    text = ANSWER.sub(lambda m: f"{m[1]}\n{typeset(told[m[2]])}\n\n{m[3]}", page.read_text())
    return PRINTED.sub(lambda m: f"{m[1]}\n```text\n{next(left)}\n```\n\n{m[2]}", text)


if __name__ == "__main__":
    os.chdir(DOCS / "images")
    names, printed = run(EXAMPLE)
    told = answers(names["audit"])
    for page in PAGES:
        page.write_text(filled(page, told, printed if page == EXAMPLE else run(page)[1]))
