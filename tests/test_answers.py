"""The question and the questions in the docs are the text of `zprime explain`, with an example's numbers."""

import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tools"))
import answers  # noqa: E402
import formulas  # noqa: E402
from printed import alike  # noqa: E402

from zprime.reporting import seeds  # noqa: E402
from zprime.reporting.explain import PARTS, QUESTION  # noqa: E402
from zprime.reporting.questions import QUESTIONS  # noqa: E402
from zprime.reporting.words import quick  # noqa: E402

RUN = "run `python tools/answers.py`"


@pytest.fixture(scope="module")
def example(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, str], list[str]]:
    with pytest.MonkeyPatch.context() as at:
        at.chdir(tmp_path_factory.mktemp("pictures"))
        names, printed = answers.run(answers.EXAMPLE)
    return answers.answers(names["audit"]), printed


def test_the_question_shows_what_explain_says_and_what_its_blocks_printed(
    example: tuple[dict[str, str], list[str]],
) -> None:
    told, printed = example
    assert alike(answers.EXAMPLE.read_text(), answers.filled(answers.EXAMPLE, told, printed)), RUN


def test_the_questions_show_the_answers_and_what_their_block_printed(
    example: tuple[dict[str, str], list[str]],
) -> None:
    page = answers.PAGES[1]
    assert alike(page.read_text(), answers.filled(page, example[0], answers.run(page)[1])), RUN


def test_the_table_of_three_models_has_the_numbers_of_the_example(example: tuple[dict[str, str], list[str]]) -> None:
    said = " ".join(example[0].values()).replace(",", "")
    known = [abs(float(n)) for n in re.findall(r"\d+(?:\.\d+)?", said)]
    table = answers.EXAMPLE.read_text().split("| | the ring above |")[1].split("\n\n")[0]
    cells = [line.split(" | ")[1] for line in table.splitlines()[3:]]
    numbers = [float(n) for cell in cells for n in re.findall(r"\d+(?:\.\d+)?", cell)]
    assert len(numbers) > 8
    assert all(any(abs(n - k) <= 0.02 + 0.01 * n for k in known) for n in numbers), numbers


def test_both_texts_have_the_same_parts_in_the_same_order() -> None:
    page = answers.EXAMPLE.read_text()
    asked = re.sub(r"\s+", " ", page)
    for sentence in QUESTION.replace("p(Z|X=D)", "the posterior p(Z|X=D)", 1).split("? "):
        assert formulas.typeset(sentence) in asked
    wanted = [h for h, say in PARTS.items() if say not in (seeds.paragraphs, quick)]
    assert [h for h in re.findall(r"^## (.+)$", page, re.M) if h in PARTS] == wanted
    told = re.findall(r"<!-- answer: (.+) -->", page)
    assert [*told[:-1], "Questions", told[-1]] == wanted, "each part but the questions, which have a page of their own"


def test_every_question_is_a_heading_of_its_page() -> None:
    page = answers.PAGES[1].read_text()
    assert re.findall(r"^## (.+)$", page, re.M) == list(QUESTIONS)
    assert re.findall(r"<!-- answer: (.+) -->", page) == list(QUESTIONS)
