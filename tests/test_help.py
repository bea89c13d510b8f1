"""The help of the command line, and what it says of names that do not exist."""

import re
from pathlib import Path

import pytest

from test_cli import call
from zprime.cli import VERBS
from zprime.cli.helping import EXAMPLES, shown_default
from zprime.errors import UsageError
from zprime.latent import settings_for

GROUPS = ("Parameters", "Data", "A model of your own", "Network, where zprime trains", "Training", "Audit")


def helped(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    capsys.readouterr()
    assert call(*argv, "--help") == 0
    return capsys.readouterr().out


def test_verbs_stand_in_the_order_of_work_with_an_example_each(capsys: pytest.CaptureFixture[str]) -> None:
    text = helped(capsys)
    assert re.findall(r"^│ ([a-z]+) ", text, re.M) == list(VERBS)
    assert list(VERBS)[:8] == ["init", "run", "train", "encode", "fit", "audit", "refine", "explain"]
    at = [text.index(f" {EXAMPLES[verb]}") for verb in VERBS]
    assert at == sorted(at)


@pytest.mark.parametrize("verb", VERBS)
def test_the_example_of_a_verb_is_in_its_help(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    text = helped(capsys, verb)
    assert f"Example: {EXAMPLES[verb]}" in text
    assert EXAMPLES[verb].split()[:2] == ["zprime", verb]
    for option in re.findall(r" (--[a-z-]+)", EXAMPLES[verb]):
        assert option in text


def test_options_of_run_stand_in_groups_and_defaults_as_one_types_them(capsys: pytest.CaptureFixture[str]) -> None:
    text = helped(capsys, "run")
    assert re.findall(r"^╭─ (.*?) ─", text, re.M) == list(GROUPS)
    for wrong in ("--empty-", "(256", "('", "0.1666", "[default: None]"):
        assert wrong not in text, wrong
    plain = " ".join(re.sub(r"[│\n]", " ", text).split())
    for right in ("[default: 1/6]", "[default: 256 256]", "[default: gaussian mixture aggregated]"):
        assert right in plain, right


def test_an_option_that_is_not_shown_works_all_the_same(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("train", "--data", "nope", "--empty-hidden", "--out", tmp_path / "r") == 2
    assert "got 'nope', which does not exist" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ((256, 256), "256 256"),
        ((), "none"),
        (1 / 6, "1/6"),
        (0.1, "0.1"),
        (0.001, "0.001"),
        ("", '""'),
        (False, "False"),
    ],
)
def test_defaults_in_words(value: object, text: str) -> None:
    assert shown_default(value) == text
    assert shown_default(None) is None


def test_a_misspelt_kind_is_asked_after() -> None:
    with pytest.raises(UsageError, match=r"got 'mixure'; did you mean mixture\?$"):
        settings_for("mixure")
    with pytest.raises(UsageError, match=r"got 'zzzz'$"):
        settings_for("zzzz")


@pytest.mark.parametrize(
    "verb", ["encode", "fit", "audit", "explain", "report", "sample", "export", "card", "verify", "codes"]
)
def test_a_folder_that_is_not_there_is_named(verb: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "digits").mkdir()
    for name, meant in (("digts", f"; did you mean {tmp_path / 'digits'}?"), ("x", "")):
        assert call(verb, tmp_path / name) == 3
        said = "".join(capsys.readouterr().err.split())
        assert said == "".join(f"error: no such folder: {tmp_path / name}{meant}".split())
