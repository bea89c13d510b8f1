"""Randomness: no stream is used for two things, and none without the seed that was given."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

import small
from streams import Made, watched
from test_auditing import MODEL, SMALL, shifted, splits
from zoo import context, posteriors
from zprime.auditing import audit
from zprime.fitting import fit
from zprime.latent import Aggregated, ConditionalSettings, Defensive, Mixture, MixtureSettings, settings_for

PAIRED = {"latent side rows", "c2st", "mmd", "halves", "sliced"}
"""The same for every candidate on purpose, so that candidates differ by themselves alone; rows are picked alike."""
UNSEEN = {"rate"}
"""Draws that are counted by the second, and not looked at."""
KNOWN = {"modes"}
"""Modes of some rows are asked for by the numbers of all of them: what was found for these is found again."""
FIXED = {"halves", "sliced", "keys of rows"}
"""The same under every seed: which rows are left out, directions to look from, and multipliers of a hash."""


def audited(seed: int) -> Made:
    p, rows = splits(shift=0.7)
    two = Mixture(torch.zeros(2).double().log_softmax(0), torch.eye(2).double(), torch.ones(2, 2).double())
    found = {
        "shifted": shifted(0.7),
        "mixture": Defensive(two, 0.05),
        "aggregated": Defensive(Aggregated(p["train"].mean, p["train"].scale), 0.1),
    }
    settings = replace(SMALL, simulated=100, ais=0)
    with watched() as made:
        audit(found, p, model=MODEL.vae(), rows=rows, settings=settings, seed=seed)
    return made


def test_an_audit_uses_no_stream_for_two_things_and_none_without_its_seed() -> None:
    one, other = audited(0), audited(1)
    assert len(one.calls) > 200
    assert one.repeated() == PAIRED | UNSEEN | KNOWN | {"keys of rows"}
    assert one.shared(other) == FIXED
    for part in (
        "audit",
        "surgery",
        "generation",
        "low density",
        "minibatch",
        "total correlation",
        "averages",
        "hole",
        "map",
        "grid",
    ):
        assert one.names()[part], part


REMADE = {
    "mixture": {"start", "polish"},  # of the K that was chosen, with more starts than while it was being chosen
    "two-stage": {"two-stage"},  # see below
    "resampled": {"score", *(str(16384 * i) for i in range(100))},  # the score: at the same points after every epoch
}
OWN = {"two-stage": {"two-stage"}}
"""Its density is an estimate by draws that it keeps the seed of, so that it is a function."""
KINDS = ("gaussian", "mixture", "aggregated", "exemplars", "vamp", "flow", "flow-matching", "resampled", "two-stage")


@pytest.mark.parametrize("kind", KINDS)
def test_a_fit_uses_no_stream_for_two_things_and_none_without_its_seed(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("zprime.latent.gradient.STEPS", 2)
    settings = settings_for(kind)
    if hasattr(settings, "epochs"):
        settings = replace(settings, epochs=2)
    p, other = posteriors(2, torch.float32, n=60), posteriors(2, torch.float32, n=50, seed=1)
    found = []
    for seed in (0, 1):
        with watched() as made:
            fit(settings, p, selection=other, context=context(p), keep_duplicates=True, seed=seed)
        found.append(made)
    assert found[0].repeated() - REMADE.get(kind, set()) == set(), kind
    assert found[0].shared(found[1]) <= OWN.get(kind, set()), kind


def test_labels_are_fitted_with_streams_of_their_own() -> None:
    p = posteriors(2, n=90)
    with watched() as made:
        fit(ConditionalSettings(MixtureSettings(components=2)), p, selection=p, keep_duplicates=True)
    assert made.repeated() == set()
    assert made.names()["label"] == 3


def test_nothing_of_a_run_is_drawn_without_its_seed(tmp_path: Path) -> None:
    data = small.table(tmp_path / "t.npz")
    found = []
    for seed in (0, 1):
        with watched() as made:
            small.run(tmp_path / f"run{seed}", data, seed=seed)
        found.append(made)
    assert found[0].shared(found[1]) <= FIXED | {"weights"}  # of a network that is then loaded over
    assert found[0].names()["epoch"] == small.TRAINING.epochs
