"""The model card: numbers of the audit, a head that YAML reads, nothing of single rows."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

import small
import zprime
from zprime import cli
from zprime.reporting.card import PROTOCOL, card, digest, metrics
from zprime.results.audit import Audit
from zprime.statistics.betting import Bet


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Audit]:
    folder = tmp_path_factory.mktemp("card") / "run"
    return folder, small.run(folder, Path("digits"))[1]


def head(text: str) -> dict[str, object]:
    """The head: every value is JSON, which is YAML too."""
    inside = text.split("---\n")[1]
    found = re.split(r"^([a-z_-]+): ", inside, flags=re.MULTILINE)[1:]
    return {key: json.loads(value) for key, value in zip(found[::2], found[1::2], strict=True)}


def test_the_head_has_the_metrics_of_the_audit(made: tuple[Path, Audit]) -> None:
    audit = made[1]
    (model,) = head(card(audit, name="mine", license="mit"))["model-index"]
    assert model["name"] == "mine"
    (result,) = model["results"]
    shown = {m["type"]: m for m in result["metrics"]}
    shipped = audit.entry(audit.shipped)
    gain = shipped.heldout.likelihood.gain
    assert shown["likelihood_gain"]["value"] == gain.value
    assert shown["likelihood_gain"]["args"] == {"stderr": gain.stderr, "rows": gain.n, "seed": audit.seed}
    assert shown["copying"]["value"] == audit.copying(audit.shipped)
    numbers = audit.samples.verdict.numbers
    assert shown["frechet_real_rows"]["value"] == numbers["real rows"].value
    assert shown["frechet_reconstructions"]["value"] == numbers["reconstructions"].value
    assert head(card(audit, license="mit"))["license"] == "mit"


def test_the_guaranteed_limit_is_that_of_the_candidate_that_was_tested(made: tuple[Path, Audit]) -> None:
    """Also where the verdict keeps the prior: the limit is not of the prior then."""
    audit = made[1]
    betted = Bet(wealth=1.0, low=-0.3, bound=4.6, level=0.05, n=12)
    for choice in (audit.verdict.best, "prior"):
        kept = replace(audit, verdict=replace(audit.verdict, choice=choice, bet=betted))
        limits = {
            e.name: [m.value for m in metrics(kept, e) if m.kind == "likelihood_gain_lower"] for e in kept.entries
        }
        assert limits.pop(audit.verdict.best) == [betted.low]
        assert set(map(tuple, limits.values())) == {()}


def test_the_distance_of_the_samples_is_that_of_the_candidate_that_was_tested(made: tuple[Path, Audit]) -> None:
    """Where the verdict keeps the prior or is undecided, its number is still of what looked best."""
    audit = made[1]
    assert audit.samples is not None
    for choice in ("gaussian+p1", "prior"):
        verdict = replace(audit.samples.verdict, best="gaussian+p1", choice=choice)
        kept = replace(audit, samples=replace(audit.samples, verdict=verdict))
        told = {e.name: [m.value for m in metrics(kept, e) if m.kind == "frechet_choice"] for e in kept.entries}
        assert told.pop("gaussian+p1") == [verdict.numbers["choice"].value]
        assert set(map(tuple, told.values())) == {()}
    none = replace(audit, samples=replace(audit.samples, verdict=replace(audit.samples.verdict, best="prior")))
    assert all(m.kind != "frechet_choice" for e in none.entries for m in metrics(none, e))


def test_a_quick_audit_is_called_one(made: tuple[Path, Audit]) -> None:
    quick = replace(made[1], settings=replace(made[1].settings, quick=True))
    assert re.search(r"^> .* rows of a quick audit, seed", card(quick), re.MULTILINE)
    warned = card(replace(quick, warnings=[quick.settings.says, *quick.warnings]))
    assert warned.lower().count("this is a quick audit") == 1
    assert "No attack was made" in card(replace(quick, membership=None))
    assert "This is a quick audit" in card(quick)
    assert "quick audit" not in card(made[1])


def test_the_sentence_has_a_hash_that_changes_with_the_numbers(made: tuple[Path, Audit]) -> None:
    audit = made[1]
    found = metrics(audit, audit.entry(audit.shipped))
    assert f"numbers {digest(found)}" in card(audit)
    assert digest(found) != digest([replace(found[0], value=found[0].value + 1e-9), *found[1:]])
    assert digest(found) == digest(list(found))


def test_the_sentence_to_quote_has_the_number_the_protocol_and_the_version(made: tuple[Path, Audit]) -> None:
    audit = made[1]
    gain = audit.entry(audit.shipped).heldout.likelihood.gain
    (quoted,) = [line for line in card(audit).splitlines() if line.startswith("> ")]
    assert f"{gain.n:,} rows, seed {audit.seed}; copying test: {audit.copying(audit.shipped)} " in quoted
    assert f"({PROTOCOL}, zprime {audit.versions['zprime']}, numbers " in quoted
    assert PROTOCOL == "zprime-audit-1"  # another one where the meaning of a number changes
    assert audit.versions["zprime"] == zprime.__version__


def test_without_a_licence_the_head_says_other(made: tuple[Path, Audit]) -> None:
    assert head(card(made[1]))["license"] == "other"


def test_a_card_says_nothing_of_single_rows_or_of_where_they_lie(made: tuple[Path, Audit]) -> None:
    audit = made[1]
    private = replace(audit, data=replace(audit.data, name="patients of ward 7", columns=["hiv"], content="f" * 64))
    text = card(private)
    assert not re.search("ward 7|hiv|f{12}", text)
    hashes = {h for h in audit.inputs.values() if h} | {audit.data.content}
    assert hashes
    assert not any(h[:12] in text for h in hashes)


def test_the_command_writes_it_beside_the_run(made: tuple[Path, Audit], tmp_path: Path) -> None:
    folder, audit = made
    file = tmp_path / "README.md"
    cli.app(["card", str(folder), "--out", str(file), "--license", "mit"])
    assert file.read_text("utf-8") == card(audit, license="mit")
