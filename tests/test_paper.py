"""The paper: what it cites is in its list, its figures are there, and its numbers are those of the README."""

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAPER = (ROOT / "paper" / "paper.md").read_text()
BODY = PAPER.split("---\n", 2)[2]


def test_what_is_cited_is_listed_and_the_other_way_round() -> None:
    listed = re.findall(r"^@\w+\{(\w+),$", (ROOT / "paper" / "paper.bib").read_text(), re.M)
    assert sorted(listed) == sorted(set(re.findall(r"@(\w+)", BODY)))


def test_figures_are_there_and_say_their_command() -> None:
    figures = re.findall(r"!\[(.+?)\]\(([^)]+)\)", BODY, re.S)
    assert figures
    for caption, place in figures:
        assert (ROOT / "paper" / place).is_file(), place
        assert "`make " in caption, caption


def test_numbers_of_the_example_are_those_of_the_readme() -> None:
    readme = (ROOT / "README.md").read_text()
    example = BODY.split("# Example\n")[1].split("# State")[0]
    told = re.findall(r"\d[\d,.]* ± \d[\d.]*|\d+\.\d+(?= nats)", example)
    assert len(told) >= 7
    assert [x for x in told if x not in readme] == []
