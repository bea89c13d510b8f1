"""Held-out rows in a file of their own, and rows of a model that was trained elsewhere."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import small
from zprime.data import SPLITS, Dataset, DataSettings, Source, load
from zprime.errors import ArrayError, ArtifactError, UsageError
from zprime.run_folder import RunFolder
from zprime.running import Run

RNG = np.random.default_rng(0)


def npz(path: Path, n: int, **more: np.ndarray) -> str:
    np.savez(path, x=RNG.normal(3, 2, (n, 4)).astype(np.float32), **more)
    return str(path)


def test_held_out_rows_are_those_of_their_file(tmp_path: Path) -> None:
    a = npz(tmp_path / "a.npz", 40, y=np.arange(40) % 3)
    b = npz(tmp_path / "b.npz", 9, y=np.arange(9) % 3 + 3)
    found = load(DataSettings(a, heldout_data=b))
    assert found.ids["heldout"].tolist() == list(range(40, 49))
    assert set(found.ids["train"].tolist()) | set(found.ids["selection"].tolist()) == set(range(40))
    stored = found.rows("heldout").x * found.scale + found.shift
    np.testing.assert_allclose(stored.numpy(), np.load(b)["x"], rtol=1e-5)
    assert found.rows("heldout").labels.tolist() == (np.arange(9) % 3 + 3).tolist()
    assert found.describe()["settings"]["heldout_data"] == "b.npz"
    assert "heldout_data" not in load(DataSettings(a)).describe()["settings"]


def test_columns_and_groups_are_joined(tmp_path: Path) -> None:
    a = npz(tmp_path / "a.npz", 40, who=np.arange(40) // 4, w=np.ones(40))
    b = npz(tmp_path / "b.npz", 8, who=50 + np.arange(8) // 4, w=np.full(8, 2.0))
    found = load(DataSettings(a, heldout_data=b, group="who"))
    assert found.weights("w", "heldout").tolist() == [2.0] * 8
    assert len(torch.unique(found.rows("heldout").groups)) == 2
    same = npz(tmp_path / "c.npz", 8, who=np.arange(8) // 4, w=np.ones(8))
    with pytest.raises(ArrayError, match="expected all rows of a group in one split"):
        load(DataSettings(a, heldout_data=same, group="who"))


def test_what_does_not_fit_together_is_refused(tmp_path: Path) -> None:
    a = npz(tmp_path / "a.npz", 40)
    np.savez(tmp_path / "wide.npz", x=np.ones((5, 3), np.float32))
    with pytest.raises(ArrayError, match=r"wide.npz: expected rows of shape \[4\], as .*a.npz has, got \[3\]"):
        load(DataSettings(a, heldout_data=str(tmp_path / "wide.npz")))
    np.savez(tmp_path / "both.npz", x_train=np.ones((5, 4), np.float32), x_test=np.ones((5, 4), np.float32))
    with pytest.raises(UsageError, match="heldout-data: expected held-out rows alone, got .*both.npz"):
        load(DataSettings(a, heldout_data=str(tmp_path / "both.npz")))
    with pytest.raises(UsageError, match=r"both.npz has a test part of its own \(5 rows\)"):
        load(DataSettings(str(tmp_path / "both.npz"), heldout_data=a))
    with pytest.raises(UsageError, match="heldout-data: expected other rows than --data, got the same"):
        load(DataSettings(a, heldout_data=a))
    for name, header in (("p.csv", "u,v"), ("q.csv", "u,w")):
        (tmp_path / name).write_text(header + "\n1,2\n3,4\n5,6\n7,9\n")
    with pytest.raises(ArrayError, match=r"q.csv: expected columns \['u', 'v'\], as .*p.csv has, got \['u', 'w'\]"):
        load(DataSettings(str(tmp_path / "p.csv"), heldout_data=str(tmp_path / "q.csv")))
    np.save(tmp_path / "bytes.npy", RNG.integers(0, 255, (9, 4, 4), dtype=np.uint8))
    np.save(tmp_path / "floats.npy", RNG.random((9, 4, 4), dtype=np.float32))
    with pytest.raises(ArrayError, match="expected full intensity 255.0, as .* has, got none"):
        load(DataSettings(str(tmp_path / "bytes.npy"), heldout_data=str(tmp_path / "floats.npy")))


def test_a_label_means_the_same_in_both_folders(tmp_path: Path) -> None:
    for part, names in (("train", "abc"), ("other", "ac"), ("same", "abc")):
        for name in names:
            (tmp_path / part / name).mkdir(parents=True)
            for i in range(4):
                pixels = RNG.integers(0, 256, (3, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(tmp_path / part / name / f"{i}.png")
    with pytest.raises(ArrayError, match=r"other: expected labels \['a', 'b', 'c'\], as .*train has, got \['a', 'c'\]"):
        load(DataSettings(str(tmp_path / "train"), heldout_data=str(tmp_path / "other")))
    found = load(DataSettings(str(tmp_path / "train"), heldout_data=str(tmp_path / "same")))
    assert found.rows("heldout").labels.tolist() == [0] * 4 + [1] * 4 + [2] * 4


def test_a_column_that_only_the_training_rows_have_is_missed_by_name(tmp_path: Path) -> None:
    a, b = npz(tmp_path / "a.npz", 40, who=np.arange(40)), npz(tmp_path / "b.npz", 9)
    with pytest.raises(ArrayError, match=r"b.npz: expected a column who, as .*a.npz has, got none"):
        load(DataSettings(a, heldout_data=b, group="who"))


def test_a_run_reads_both_files_wherever_they_lie(tmp_path: Path) -> None:
    a, b = npz(tmp_path / "a.npz", 90), npz(tmp_path / "b.npz", 30)
    settings = DataSettings(a, heldout_data=b)
    job = Run.create(tmp_path / "run")
    job.train(settings, small.NETWORK, small.TRAINING, seed=0)
    model = RunFolder.open(tmp_path / "run").model.hash
    assert RunFolder.open(tmp_path / "run").rows["heldout"].ids.tolist() == list(range(90, 120))
    moved = tmp_path / "elsewhere.npz"
    shutil.move(b, moved)
    with pytest.raises(ArtifactError, match=r"b.npz: the data of the run .* --heldout-data PATH"):
        _ = RunFolder.open(tmp_path / "run").rows
    job = Run.create(tmp_path / "run")
    job.train(DataSettings(a, heldout_data=str(moved)), small.NETWORK, small.TRAINING, seed=0)
    assert RunFolder.open(tmp_path / "run").model.hash == model
    assert len(RunFolder.open(tmp_path / "run").rows["heldout"]) == 30
    with pytest.raises(UsageError, match="made with other settings"):
        job.train(DataSettings(a), small.NETWORK, small.TRAINING, seed=0)


def source(n: int = 60, test: int = 20, **changes) -> Source:
    x = np.random.default_rng(1).normal(3, 2, (n, 4)).astype(np.float32)
    return Source(**{"name": "table", "x": x, "test": test, **changes})


def brought(found: Source, seed: int = 0, **settings) -> Dataset:
    return Dataset(found, DataSettings("table", **settings), seed=seed, brought=True)


def test_a_model_that_was_trained_elsewhere_gets_rows_as_they_are() -> None:
    found, plain = brought(source()), Dataset(source(), DataSettings("table"))
    assert torch.equal(found.rows("train").x, found.raw[:40])
    assert not torch.equal(plain.rows("train").x, plain.raw[plain.ids["train"]])
    pixels = RNG.integers(0, 256, (60, 1, 4, 4), dtype=np.uint8)
    images = brought(source(x=pixels, top=255.0))
    np.testing.assert_allclose(images.rows("train").x.numpy(), pixels[:40] / 255, rtol=1e-6)
    assert found.describe()["brought"] is True
    assert "brought" not in plain.describe()


def test_all_rows_but_the_test_part_are_training_rows_and_half_of_that_is_chosen_on() -> None:
    found = brought(source())
    assert found.ids["train"].tolist() == list(range(40))
    assert [len(found.ids[s]) for s in SPLITS] == [40, 10, 10]
    unseen = [*found.ids["selection"].tolist(), *found.ids["heldout"].tolist()]
    assert sorted(unseen) == list(range(40, 60))
    assert found.ids["selection"].tolist() != brought(source(), seed=1).ids["selection"].tolist()
    assert len(brought(source(), limit=7).ids["train"]) == 7
    with pytest.raises(UsageError, match="limit: expected at most 40 training rows, got 41"):
        brought(source(), limit=41)


def test_rows_beyond_the_limit_count_as_seen() -> None:
    """The model was trained on them, though the audit takes fewer."""
    found = source(n=640, test=400)
    copied = found.x.copy()
    copied[240:243] = copied[:3]
    left = brought(source(x=copied, test=400), limit=20)
    assert set(left.ids["train"].tolist()).isdisjoint({0, 1, 2})
    assert {*left.ids["selection"].tolist(), *left.ids["heldout"].tolist()} == set(range(243, 640))
    assert sum(d.count for d in left.duplicates.values()) == 3


def test_without_rows_that_the_model_has_not_seen_there_is_no_audit() -> None:
    with pytest.raises(UsageError, match=r"heldout-data: expected rows that your model was not trained on, got none"):
        brought(source(test=0))
    with pytest.raises(ArrayError, match="expected at least 4 rows that your model was not trained on.* got 3"):
        brought(source(test=3))


def test_groups_of_rows_that_the_model_has_not_seen_stay_together() -> None:
    who = np.arange(60) // 4
    found = brought(source(columns={"who": who}), group="who")
    groups = [set(who[found.ids[s]].tolist()) for s in SPLITS]
    assert not groups[1] & groups[2]
    assert groups[1] | groups[2] == set(range(10, 15))
    with pytest.raises(ArrayError, match="expected all rows of a group in one split"):
        brought(source(columns={"who": np.arange(60) % 7}), group="who")
    with pytest.raises(ArrayError, match="at least 2 groups of held-out rows"):
        brought(source(columns={"who": np.minimum(who, 10)}), group="who")
