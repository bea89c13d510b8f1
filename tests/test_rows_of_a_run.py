"""Groups, weights and duplicates through a whole run, and through the command line."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import small
from zprime.cli import main
from zprime.command import command
from zprime.data import DataSettings, duplicates, heldout
from zprime.data import load as read
from zprime.data.dataset import weighed_by
from zprime.errors import ArrayError, UsageError
from zprime.results.audit import AuditSettings, load
from zprime.running import Run

MODEL = ["--latents", "2", "--hidden", "16", "--epochs", "2", "--batch", "32"]
AUDIT = AuditSettings(rows=30, draws=40, grid=2, map=10, simulated=0, samples=0)
QUICK = ["--rows", "30", "--draws", "40", "--grid", "2", "--map", "10", "--simulated", "0", "--samples", "0"]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A table with a column of groups and one of weights."""
    rng = np.random.default_rng(0)
    who = np.repeat(np.arange(40), 5)
    x = rng.normal(size=(200, 4)) + rng.normal(size=(40, 4))[who]
    np.savez(tmp_path / "t.npz", x=x, who=who, w=rng.uniform(0.2, 1, 200))
    return tmp_path / "t.npz"


def call(*words: object) -> int:
    """Exit code of the command line."""
    with pytest.raises(SystemExit) as end:
        main(["--quiet", *map(str, words)])
    return int(end.value.code or 0)


def trained(data: Path, folder: Path, group: str = "") -> Run:
    job = Run.create(folder)
    job.train(DataSettings(str(data), group=group), small.NETWORK, small.TRAINING, seed=0)
    job.encode()
    return job


def test_an_audit_weighs_rows_as_the_fits_do(data: Path, tmp_path: Path) -> None:
    job = trained(data, tmp_path / "run")
    job.fit(["gaussian"], seed=0, weights="w")
    found = job.audit(AUDIT, seed=0)
    assert found.data.weights == "w"
    shares = job.folder.dataset.weights("w", "heldout")
    rowwise = found.tensors["gain.heldout.elbo.gaussian"]
    picked = len(rowwise)
    assert found.entry("gaussian").heldout.elbo.gain.n < picked
    assert not torch.isclose(rowwise.mean(), torch.tensor(found.entry("gaussian").heldout.elbo.gain.value).double())
    every = float(1 / (shares / shares.sum()).square().sum())
    assert found.averages is not None
    assert found.averages.members["moment match"].heldout.n == round(every)
    plain = job.audit(AUDIT, seed=0, weights="")
    assert plain.data.weights == ""
    assert plain.entry("gaussian").heldout.elbo.gain.n == picked
    assert "--weights" in command(job.folder, ["gaussian"], AUDIT, seed=0, weights="")
    assert "audit runs/again" in command(job.folder, ["gaussian"], AUDIT, seed=0, weights="w")
    job.fit(["aggregated"], seed=0)
    with pytest.raises(UsageError, match="weights: expected fits that were weighed by one column, got .*gaussian by w"):
        job.audit(AUDIT, seed=0)


def test_groups_of_a_run_are_whole_and_errors_are_by_group(data: Path, tmp_path: Path) -> None:
    job = trained(data, tmp_path / "run", group="who")
    job.fit(["gaussian"], seed=0)
    found = job.audit(AUDIT, seed=0)
    who = np.load(data)["who"]
    ids = {s: set(who[i.numpy()].tolist()) for s, i in job.folder.dataset.ids.items()}
    assert sum(map(len, ids.values())) == 40
    assert found.data.groups == {s: len(g) for s, g in ids.items()}
    gain = found.entry("gaussian").heldout.elbo.gain
    assert 1 < gain.groups <= len(ids["heldout"]) < gain.n
    assert "--group who" in found.command


def test_duplicates_are_refused_on_the_command_line_unless_they_are_to_be_kept(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    x = np.load(data)["x"]
    twice = tmp_path / "twice.npz"
    np.savez(twice, x=np.concatenate([x, x[:60]]))
    words = ["run", "--data", twice, "--out", tmp_path / "run", "--kinds", "gaussian", *MODEL, *QUICK]
    assert call(*words) == 5
    told = " ".join(capsys.readouterr().err.split())
    assert "rows equal a training row (row" in told
    assert "Remove the duplicates from the data" in told
    assert "--keep-duplicates" in told
    assert "Traceback" not in told
    assert not (tmp_path / "run").exists()
    assert call(*words, "--keep-duplicates") == 0
    found = load(tmp_path / "run")
    assert found.data.duplicates["heldout"].kept
    assert "gains on them flatter whatever memorises" in found.warnings[0] + found.warnings[1]
    assert "--keep-duplicates" in found.command


def test_a_run_looks_for_duplicates_once(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the data are split: fits and audits rely on it, and the audit says what was found there."""
    x = np.load(data)["x"]
    x[-1] = x[0]
    np.savez(tmp_path / "one.npz", x_train=x[:100], x_test=np.concatenate([x[100:], x[100:] + 9]))
    looked: list[int] = []
    real = duplicates._keys
    monkeypatch.setattr(duplicates, "_keys", lambda x: looked.append(len(x)) or real(x))
    job = trained(tmp_path / "one.npz", tmp_path / "run")
    told = job.folder.dataset.duplicates
    assert sum(looked) == 300
    job.fit(["gaussian", "mixture"], seed=0)
    found = job.audit(AUDIT, seed=0)
    assert sum(looked) == 300 + sum(found.data.sizes[s] for s in ("selection", "heldout"))  # what these two share
    assert found.data.duplicates == told
    assert told["heldout"].ids == [199]
    assert found.data.sizes["heldout"] == 199


def test_groups_by_name_and_weights_on_the_command_line(data: Path, tmp_path: Path) -> None:
    """A column of a .csv file that is text; one `run` with weights, and the command that makes it again."""
    x, who = np.load(data)["x"], np.load(data)["who"]
    lines = [",".join([*map(repr, map(float, row)), f"ann {g}"]) for row, g in zip(x, who, strict=True)]
    table = tmp_path / "t.csv"
    table.write_text("\n".join(["a,b,c,d,who", *lines]))
    out = tmp_path / "csv"
    few = ["--kinds", "gaussian", *MODEL, *QUICK]
    assert call("run", "--data", table, "--out", out, "--group", "who", *few) == 0
    found = load(out)
    assert found.data.shape == [4]
    assert sum(found.data.groups.values()) == 40
    assert "--group who" in found.command
    out = tmp_path / "npz"
    assert call("run", "--data", data, "--out", out, "--weights", "w", *few) == 0
    found = load(out)
    assert found.data.weights == "w"
    assert "fit runs/again --kinds gaussian --weights w" in found.command


def table(folder: Path, data: Path, *, change: dict[int, str] | None = None, name: str = "t.csv") -> Path:
    """The rows, weights and groups as a .csv file; `change` puts another cell into column w of some lines."""
    found = np.load(data)
    path, lines = folder / name, ["a,b,w,c,d,who"]
    for number, (row, w, who) in enumerate(zip(found["x"], found["w"], found["who"], strict=True), 2):
        a, b, c, d = map(repr, map(float, row))
        lines.append(f"{a},{b},{(change or {}).get(number, repr(float(w)))},{c},{d},{who}")
    path.write_text("\n".join(lines))
    return path


def test_weights_from_a_csv_file_give_the_run_of_the_npz_file(data: Path, tmp_path: Path) -> None:
    """The column is no part of the rows; `run` sets it aside, and the command that makes the run again does too."""
    few = ["--kinds", "gaussian", *MODEL, *QUICK, "--weights", "w", "--group", "who"]
    found = {}
    for source in (table(tmp_path, data), data):
        out = tmp_path / source.suffix[1:]
        assert call("run", "--data", source, "--out", out, *few) == 0
        found[source.suffix] = load(out)
    csv, npz = found[".csv"], found[".npz"]
    assert csv.data.shape == npz.data.shape == [4]
    assert csv.data.weights == npz.data.weights == "w"
    assert csv.entry("gaussian").heldout == npz.entry("gaussian").heldout
    assert csv.data.columns == ["a", "b", "c", "d"]
    assert "--aside w" in csv.command
    assert "--weights w" in csv.command
    assert "--aside" not in npz.command


def test_a_column_that_was_set_aside_can_weigh_rows_later(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, out = table(tmp_path, data), tmp_path / "run"
    assert call("train", "--data", source, "--out", out, "--aside", "w, who", *MODEL) == 0
    assert call("encode", out) == 0
    assert call("fit", out, "--kinds", "gaussian", "--weights", "w") == 0
    assert call("audit", out, *QUICK) == 0
    assert load(out).data.weights == "w"
    capsys.readouterr()
    for column, text in (
        ("b", "weights: b is one of the columns of t that the rows are made of; train with --aside b"),
        ("z", "weights: expected a column of t (w, who, a, b, c, d), got 'z'"),
    ):
        assert call("fit", out, "--kinds", "gaussian", "--weights", column) == 2
        assert text in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({7: "nan"}, "line 7, column 3: expected a value of w, got 'nan'"),
        ({7: ""}, "line 7, column 3: expected a value of w, got ''"),
        ({9: "-0.5"}, "t: expected weights >= 0 in column w, got -0.5 in line 9"),
        ({9: "inf"}, "t: expected weights >= 0 in column w, got inf in line 9"),
        ({11: "much"}, "t: expected numbers in column w, got 'much' in line 11"),
        (dict.fromkeys(range(2, 202), "0"), "t: expected a weight above 0 in column w, got 134 zeros (train)"),
    ],
)
def test_weights_of_a_csv_file_that_cannot_be_used_are_found_before_training(
    data: Path, tmp_path: Path, change: dict[int, str], text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    source = table(tmp_path, data, change=change)
    words = ["run", "--data", source, "--out", tmp_path / "run", "--kinds", "gaussian", *MODEL, *QUICK]
    assert call(*words, "--weights", "w") == 5
    told = " ".join(capsys.readouterr().err.split())
    assert text in told
    assert "Traceback" not in told
    assert not (tmp_path / "run").exists()


def test_a_column_of_weights_that_is_not_there_is_named_with_those_that_are(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--out", tmp_path / "run", "--kinds", "gaussian", *MODEL, *QUICK, "--weights", "v"]
    for source, known in ((table(tmp_path, data), "a, b, w, c, d, who"), (data, "w, who")):
        assert call("run", "--data", source, *words) == 2
        assert f"weights: expected a column of t ({known}), got 'v'" in " ".join(capsys.readouterr().err.split())
        assert not (tmp_path / "run").exists()


def test_a_column_set_aside_that_is_not_there_is_blamed_on_that_setting(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nobody had asked for weights."""
    assert call("train", "--data", table(tmp_path, data), "--out", tmp_path / "run", "--aside", "w,Nx", *MODEL) == 2
    told = " ".join(capsys.readouterr().err.split())
    assert "aside: expected a column of t (w, a, b, c, d, who), got 'Nx'" in told
    assert "weights:" not in told


def with_names(path: Path, header: str) -> str:
    """A table of 60 rows with these names; the second column is 1, 2, ..., 60."""
    rng = np.random.default_rng(0)
    path.write_text(
        "\n".join([header, *(f"{a!r},{i},{b!r}" for i, (a, b) in enumerate(rng.normal(size=(60, 2)).tolist(), 1))])
    )
    return str(path)


def test_a_name_with_a_comma_cannot_be_set_aside(tmp_path: Path) -> None:
    """Commas stand between the names that are; as column of groups, which is one name, it can be used for both."""
    data = with_names(tmp_path / "t.csv", 'RI,"Nb, kg",Mg')
    with pytest.raises(UsageError, match="weights: expected a name without a comma, got 'Nb, kg'; .*rename the column"):
        weighed_by(DataSettings(data), "Nb, kg")
    assert weighed_by(DataSettings(data, group="Nb, kg"), "Nb, kg").aside == ""
    says = r"aside: expected a column of t \(RI, Nb, kg, Mg\), got 'Nb'; commas .*, so rename columns that have one"
    with pytest.raises(UsageError, match=says):
        read(DataSettings(data, aside="Nb, kg"))
    with pytest.raises(UsageError, match="weights: Nb, kg is one of the columns .*; rename it, and train with --aside"):
        read(DataSettings(data)).weights("Nb, kg", "train")


@pytest.mark.parametrize("name", ["body mass", " body mass ", "body  mass"])
def test_names_of_columns_are_found_with_any_spaces(name: str, tmp_path: Path) -> None:
    """Those of a header have single ones, whatever the file has."""
    data = with_names(tmp_path / "t.csv", "a, body  mass ,c")
    settings = weighed_by(DataSettings(data), name)
    assert weighed_by(settings, "body mass") == settings
    found = read(settings)
    assert found.names == ("a", "c")
    assert found.weights(name, "train").tolist() == (found.ids["train"] + 1).tolist()
    assert len(read(DataSettings(data, group=name)).groups) == 60


def test_names_of_arrays_keep_their_spaces(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "t.npz", **{"x": rng.normal(size=(60, 2)), "body  mass": np.arange(60) + 1})
    settings = weighed_by(DataSettings(str(tmp_path / "t.npz")), "body  mass")
    assert read(settings).weights("body  mass", "heldout").min() >= 1


def test_looking_at_weights_reads_once_and_warns_of_nothing(
    data: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Rows are scaled, hashed and compared when they are loaded for training: once, with each warning once."""
    found = dict(np.load(data))
    parts = {"x_test": found["x"][100:].copy(), "w_test": found["w"][100:]}
    parts["x_test"] = np.concatenate([parts["x_test"], parts["x_test"] + 9])
    parts["w_test"] = np.concatenate([parts["w_test"]] * 2)
    parts["x_test"][0] = found["x"][0]  # one of 200 held-out rows: it is warned of
    np.savez(data, x_train=found["x"][:100], w_train=found["w"][:100], **parts)
    settings = DataSettings(str(data), selection=0.01)
    reads = []
    real = heldout.read_source
    monkeypatch.setattr(heldout, "read_source", lambda *args: reads.append(args) or real(*args))
    hashed = []
    monkeypatch.setattr(duplicates, "_digest", lambda row: hashed.append(row) or bytes(row))
    with caplog.at_level("WARNING", "zprime"):
        assert weighed_by(settings, "w", seed=3) == settings
        assert (len(reads), len(hashed), caplog.text) == (1, 0, "")
        read(settings, seed=3)
    assert caplog.text.count("equal a training row exactly") == 1


def test_weights_are_looked_at_in_the_splits_of_the_run(tmp_path: Path) -> None:
    """Those of the seed, or of `split_seed`: all weights above 0 lie in one split."""
    path = tmp_path / "t.npz"
    x = np.random.default_rng(0).normal(size=(60, 2))
    np.savez(path, x=x, w=np.ones(60), who=np.arange(60) // 3)
    for settings, seed in ((DataSettings(str(path)), 5), (DataSettings(str(path), split_seed=7, group="who"), 5)):
        w = np.ones(60)
        w[read(settings, seed=seed).ids["selection"].numpy()] = 0
        zeros = tmp_path / "zeros.npz"
        np.savez(zeros, x=x, w=w, who=np.arange(60) // 3)
        with pytest.raises(ArrayError, match=r"expected a weight above 0 in column w, got \d+ zeros \(selection\)"):
            weighed_by(replace(settings, data=str(zeros)), "w", seed=seed)


def test_new_rows_are_weighed_and_grouped_as_the_run_is(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, out = table(tmp_path, data), tmp_path / "run"
    few = ["--kinds", "gaussian", *MODEL, *QUICK]
    assert call("run", "--data", source, "--out", out, *few, "--weights", "w", "--group", "who", "--heldout", 0.4) == 0
    assert call("audit", out, "--new-data", source) == 0
    moved = load(out).drift
    assert moved is not None
    assert 8 <= moved.tested < 40  # one of each group, drawn by weight
    assert (moved.rows, 1 < moved.gain.groups <= 40) == (200, True)
    assert moved.gain.n < 200
    bare = tmp_path / "bare.csv"
    bare.write_text("\n".join(",".join(line.split(",")[:2] + line.split(",")[3:5]) for line in source.open()))
    capsys.readouterr()
    assert call("audit", out, "--new-data", bare) == 2
    assert "group: expected a column of bare beside the rows" in " ".join(capsys.readouterr().err.split())
