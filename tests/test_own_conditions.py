"""A CVAE of the user's own on the command line: c from labels or columns, every verb, each mistake by its text."""

import contextlib
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from torch import nn
from torch.distributions import Normal, kl_divergence

import zprime
from test_cli import call
from test_own_model import AUDIT, SMALL, said
from zprime import bring
from zprime import data as datasets
from zprime.command import command
from zprime.data import SPLITS, DataSettings
from zprime.errors import ArrayError, UsageError
from zprime.results.audit import AuditSettings
from zprime.results.audit import load as load_audit
from zprime.run_folder import RunFolder

CODE = """
import pathlib
import torch
from torch import nn
from torch.distributions import Independent, Normal

pathlib.Path(__file__).with_name("ran").touch()


def one_hot(c):
    return nn.functional.one_hot(c, 10).float()


class CVAE(nn.Module):
    def __init__(self):
        super().__init__()
        self.enc = nn.Sequential(nn.Linear(74, 48), nn.Tanh(), nn.Linear(48, 8))
        self.dec = nn.Sequential(nn.Linear(14, 48), nn.Tanh(), nn.Linear(48, 64))
        self.pri = nn.Linear(10, 8)

    def encode(self, x, c):
        return self.enc(torch.cat([x.flatten(1), one_hot(c)], 1)).chunk(2, 1)

    def decode(self, z, c):
        mean = self.dec(torch.cat([z, one_hot(c)], 1)).reshape(-1, 1, 8, 8)
        return Independent(Normal(mean, 0.25), 3)

    def prior(self, c):
        loc, log_scale = self.pri(one_hot(c)).chunk(2, 1)
        return Normal(loc, (0.3 * log_scale).exp())


def build(weights):
    vae = CVAE()
    vae.load_state_dict(weights)
    return {"vae": vae, "prior": vae.prior, "gives": "log-variance"}


def plain(weights):
    return {"vae": build(weights)["vae"], "gives": "log-variance"}


def deaf(weights):
    vae = build(weights)["vae"]
    c = torch.zeros(1).long()
    return {"encoder": lambda x: vae.encode(x, c.expand(len(x))), "decoder": lambda z: vae.decode(z, c), "gives": "std"}
"""


def made_model() -> nn.Module:
    space: dict[str, type[nn.Module]] = {"__file__": "/nowhere/cvae.py"}  # type: ignore[dict-item]
    with contextlib.suppress(FileNotFoundError):
        exec(CODE.replace("pathlib.Path(__file__)", "#"), space)
    return space["CVAE"]()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with code, weights, images with labels, and a run in it, which nobody changes."""
    place = tmp_path_factory.mktemp("cvae")
    x, y = load_digits(return_X_y=True)
    x = x.reshape(-1, 1, 8, 8).astype(np.float32) / 16
    order = np.random.default_rng(0).permutation(len(x))
    train, new = order[:1200], order[1200:]
    np.savez(place / "rows.npz", x_train=x[train], y_train=y[train], x_test=x[new], y_test=y[new])
    (place / "cvae.py").write_text(CODE)
    rows, c = torch.from_numpy(x[train]), torch.from_numpy(y[train])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        vae = made_model()
        optimiser = torch.optim.Adam(vae.parameters(), lr=5e-3)
        for _ in range(400):
            at = torch.randint(len(rows), (128,))
            mean, log_var = vae.encode(rows[at], c[at])
            q = Normal(mean, (0.5 * log_var).exp())
            kl = kl_divergence(q, vae.prior(c[at])).sum(1)
            loss = (kl - vae.decode(q.rsample(), c[at]).log_prob(rows[at])).mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    torch.save(vae.state_dict(), place / "w.pt")
    argv = ["--data", place / "rows.npz", "--conditions", "label", "--out", place / "run"]
    assert call("run", *model(place), *argv, "--kinds", "gaussian", "conditional", *AUDIT, "--quiet") == 0
    return place


def model(place: Path, function: str = "build") -> list[str]:
    return ["--model", f"{place / 'cvae.py'}:{function}", "--model-weights", f"{place / 'w.pt'}"]


def test_results_are_those_of_the_model_that_is_brought_in_python(made: Path) -> None:
    folder = RunFolder.open(made / "run")
    vae = made_model()
    vae.load_state_dict(torch.load(made / "w.pt", weights_only=True))
    x = {s: folder.rows[s].x[:, :-1].reshape(-1, 1, 8, 8) for s in SPLITS}
    y = {s: folder.rows[s].labels for s in SPLITS}
    for s in SPLITS:
        torch.testing.assert_close(folder.rows[s].x[:, -1], y[s].float(), rtol=0, atol=0)
    mine = bring.modules(vae.encode, vae.decode, x, conditions=y, prior=vae.prior, gives="log-variance", labels=y)
    for s in SPLITS:
        torch.testing.assert_close(folder.posteriors(s).gather().mean, mine.posteriors[s].gather().mean)
    fits = {kind: zprime.fit(kind, **mine.splits) for kind in ("gaussian", "conditional")}
    audit = zprime.audit(fits, mine.posteriors, model=mine.model, rows=mine.rows, settings=AuditSettings(**SMALL))
    found = load_audit(made / "run")
    for a, b in zip(found.entries, audit.entries, strict=True):
        assert a.name == b.name
        for gain in ("elbo", "exact_posterior", "likelihood"):
            ours, theirs = getattr(a.heldout, gain), getattr(b.heldout, gain)
            assert ours.gain.value == pytest.approx(theirs.gain.value, abs=1e-5), (a.name, gain)
    assert any("the prior is p(z|c)" in sentence for sentence in found.warnings)


def drawn(place: Path, *argv: str, n: int = 200, ending: str = ".npz") -> dict[str, np.ndarray]:
    out = place / f"drawn{ending}"
    assert call("--quiet", "sample", place / "run", *model(place), "-n", str(n), *argv, "--out", out) == 0
    with np.load(out) as file:
        return dict(file)


def test_a_class_that_is_given_is_the_class_that_is_drawn(made: Path) -> None:
    rows = np.load(made / "rows.npz")
    judge = LogisticRegression(max_iter=300).fit(rows["x_train"].reshape(-1, 64), rows["y_train"])
    for source in ("gaussian", "conditional"):
        found = drawn(made, "--given", "label=3", "--from", source)
        assert found["x"].shape == (200, 1, 8, 8)
        assert found["c"].dtype == np.int64
        assert (found["c"] == 3).all()
        assert (judge.predict(found["x"].reshape(-1, 64)) == 3).mean() > 0.85, source
    every = drawn(made, n=2000)["c"]
    shares = [np.bincount(c, minlength=10) / len(c) for c in (every, rows["y_train"])]
    np.testing.assert_allclose(*shares, atol=0.05)


def test_r_of_z_given_the_label_is_drawn_from_where_it_is_the_source(made: Path) -> None:
    part = zprime.latent.given(RunFolder.open(made / "run").distribution("conditional"), 3)
    z = torch.from_numpy(drawn(made, "--given", "label=3", "--from", "conditional", n=2000)["z"])
    rng = torch.Generator().manual_seed(0)
    torch.testing.assert_close(z.mean(0), part.sample(20_000, rng=rng).mean(0), atol=0.12, rtol=0)


def test_pictures_are_of_x_alone(made: Path, tmp_path: Path) -> None:
    out = tmp_path / "shown"
    assert call("--quiet", "sample", made / "run", *model(made), "-n", "4", "--out", out) == 0
    assert out.with_suffix(".png").is_file()
    assert not out.with_suffix(".csv").exists()


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ("label=11", "given: expected one of 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, as training rows have, got 11"),
        ("label=1,2", "given: expected all conditions of the run, 1 numbers (label=NUMBER), got 2"),
        ("batch=1", "given: expected label=NUMBER, got 'batch'"),
    ],
)
def test_conditions_that_cannot_be_are_refused(
    given: str, text: str, made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call("sample", made / "run", *model(made), "--given", given, "--out", tmp_path / "s.npz") == 2
    assert text in said(capsys)


def test_the_same_command_again_runs_no_code_and_other_conditions_are_refused(
    made: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (made / "ran").unlink(missing_ok=True)
    argv = ["--data", made / "rows.npz", "--out", made / "run"]
    again = ["run", *model(made), *argv, "--kinds", "gaussian", "conditional", *AUDIT, "--quiet"]
    assert call(*again, "--conditions", "label") == 0
    assert not (made / "ran").exists()
    said(capsys)
    assert call(*again, "--conditions", "y") == 2
    assert "conditions label, now y" in said(capsys)


def test_a_model_that_is_told_nothing_and_one_that_needs_it_say_so(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["--data", made / "rows.npz", "--out", tmp_path / "run", "--quiet"]
    assert call("train", *model(made), *argv) == 2
    assert "a p(z|c), a function of conditions, goes with --conditions" in said(capsys)
    assert call("train", *model(made, "plain"), *argv) == 2
    assert "on the command line --conditions label, or a column" in said(capsys)
    assert call("train", *model(made, "deaf"), *argv, "--conditions", "label") == 2
    assert "encoder(x, c) and decoder(z, c)" in said(capsys)
    assert call("train", "--data", "digits", "--conditions", "label", "--out", tmp_path / "own", "--quiet") == 2
    assert "conditions: a VAE that zprime trains is told none" in said(capsys)


def test_drift_needs_the_conditions_of_new_rows(made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = np.load(made / "rows.npz")
    x, y = rows["x_test"], rows["y_test"]
    np.savez(tmp_path / "new.npz", x=x, y=y)
    np.savez(tmp_path / "bare.npz", x=x)
    assert call("--quiet", "audit", made / "run", *model(made), "--new-data", tmp_path / "new.npz") == 0
    assert "no drift seen" in capsys.readouterr().out.lower()
    assert call("--quiet", "audit", made / "run", *model(made), "--new-data", tmp_path / "bare.npz") == 2
    assert "conditions: expected labels in bare, found none" in said(capsys)


def test_what_needs_no_model_runs_no_code(made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (made / "ran").unlink(missing_ok=True)
    run = made / "run"
    for argv in (["explain", run], ["report", run], ["export", run, "--out", tmp_path / "export"], ["card", run]):
        assert call("--quiet", *argv) == 0, argv
    assert not (made / "ran").exists()
    assert "z' is in units of the model's prior" in (tmp_path / "export" / "README.md").read_text()
    assert call("export", run, "--given", "label=3", "--out", tmp_path / "given") == 2
    assert "does not depend on label=3" in said(capsys)
    assert call("--quiet", "export", run, "--from", "conditional", "--given", "label=3", "--out", tmp_path / "3") == 0
    for folder in (run, tmp_path / "export"):  # it would hold the conditions of all training rows
        assert not (folder / "generator").exists()
    assert call("explore", run) == 2
    assert "told conditions beside z" in said(capsys)


def test_the_command_on_the_page_names_the_conditions(made: Path) -> None:
    folder = RunFolder.open(made / "run")
    text = command(folder, ["gaussian", "conditional"], AuditSettings(**SMALL), seed=0)
    assert "--conditions label --model cvae.py:build" in text


def test_the_run_is_measured_again(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("--quiet", "verify", made / "run", *model(made)) == 0
    assert "none differs" in capsys.readouterr().out


def test_an_onnx_file_is_of_one_condition(made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("onnxscript")
    onnxruntime = pytest.importorskip("onnxruntime")
    argv = ["--quiet", "export", made / "run", *model(made), "--from", "gaussian", "--onnx", "--out", tmp_path / "o"]
    assert call(*argv) == 2
    assert "an ONNX file is of one of them; say which by --given" in said(capsys)
    assert call(*argv, "--given", "label=7") == 0
    session = onnxruntime.InferenceSession(tmp_path / "o" / "generator.onnx", providers=["CPUExecutionProvider"])
    rng = np.random.default_rng(0)
    columns = session.get_inputs()[1].shape[1]
    normal = rng.standard_normal((5, columns), dtype=np.float32)
    x, u = session.run(["x", "z"], {"uniform": rng.random(5), "normal": normal})
    vae, c = made_model(), torch.full((5,), 7)
    vae.load_state_dict(torch.load(made / "w.pt", weights_only=True))
    with torch.no_grad():
        p = vae.prior(c)
        theirs = vae.decode(p.loc + p.scale * torch.from_numpy(u), c).mean
    np.testing.assert_allclose(x[:, :-1].reshape(-1, 1, 8, 8), theirs.numpy(), atol=1e-5)
    assert (x[:, -1] == 7).all()


# -- how c is read -----------------------------------------------------------------------------------------------------


def loaded(path: Path, conditions: str, **more: str) -> datasets.Dataset:
    return datasets.load(DataSettings(str(path), conditions=conditions, **more), brought=True)  # type: ignore[arg-type]


def table(path: Path, n: int, start: int) -> Path:
    """A table with two columns of numbers, a batch, a size and a label."""
    lines = [f"{i / 7},{i**2 / 5},{i % 3},{i / 4 + 0.25},{i % 2}" for i in range(start, start + n)]
    path.write_text("\n".join(["a,b,batch,size,label", *lines]) + "\n")
    return path


def test_columns_of_a_table_are_conditions_and_no_part_of_x(tmp_path: Path) -> None:
    train, new = table(tmp_path / "train.csv", 30, 0), table(tmp_path / "new.csv", 12, 40)
    found = loaded(train, "batch, size,label", heldout_data=str(new))
    rows, ids = found.rows("train"), found.ids["train"].double()
    assert rows.x.shape == (30, 5)
    expected = [ids / 7, ids.square() / 5, ids % 3, ids / 4 + 0.25, ids % 2]
    torch.testing.assert_close(rows.x, torch.stack(expected, 1).float())
    held = found.rows("heldout")
    at = held.ids.double() + 10
    torch.testing.assert_close(held.x[:, 2:], torch.stack([at % 3, at / 4 + 0.25, at % 2], 1).float())
    x, c = found.layout.parts(rows.x)
    assert found.layout.told(c).shape == (30, 3)
    assert not found.layout.whole
    assert found.info().columns == ["a", "b", "batch", "size", "label"]
    one = loaded(train, "batch", heldout_data=str(new))
    assert one.layout.told(one.rows("train").x[:, -1:]).dtype == torch.int64
    assert one.layout.shape == (3,)  # a, b, and size, which nobody named
    assert one.hash != found.hash


def test_a_matrix_of_numbers_is_a_condition(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    x, e = rng.normal(size=(40, 2)), rng.normal(size=(40, 3))
    np.savez(tmp_path / "d.npz", x_train=x[:30], x_test=x[30:], e_train=e[:30], e_test=e[30:])
    found = loaded(tmp_path / "d.npz", "e")
    for s in SPLITS:
        np.testing.assert_allclose(found.rows(s).x[:, 2:].numpy(), e[found.ids[s]].astype(np.float32))
    assert found.describe()["conditions"]["names"] == ["e0", "e1", "e2"]
    with pytest.raises(ArrayError, match="weights: expected one value a row in column e of d"):
        found.weights("e", "train")


def test_pixels_of_8_bits_are_scaled_and_conditions_are_not(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 256, (40, 4, 4), dtype=np.uint8), rng.integers(0, 200, 40)
    np.savez(tmp_path / "d.npz", x_train=x[:30], x_test=x[30:], y_train=y[:30], y_test=y[30:])
    found = loaded(tmp_path / "d.npz", "label")
    row = found.rows("train").x
    np.testing.assert_allclose(row[:, :16].numpy(), x[:30].reshape(30, 16) / np.float32(255), rtol=1e-6)
    np.testing.assert_array_equal(row[:, 16].numpy(), y[:30])
    back = row * found.scale + found.shift
    np.testing.assert_allclose(back[:, :16].numpy(), x[:30].reshape(30, 16), rtol=1e-6)
    np.testing.assert_array_equal(back[:, 16].numpy(), y[:30])
    drawn = loaded(tmp_path / "d.npz", "label", binarise=True)  # type: ignore[arg-type]
    assert set(drawn.rows("train").x[:, :16].unique().tolist()) == {0.0, 1.0}
    np.testing.assert_array_equal(drawn.rows("train").x[:, 16].numpy(), y[:30])


def test_equal_x_under_another_condition_is_another_row(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(500, 2))
    x[200:300] = x[:100]
    y = np.r_[np.zeros(200), np.ones(300)].astype(int)
    y[200] = 0  # the only one that equals a training row
    np.savez(tmp_path / "d.npz", x_train=x[:200], x_test=x[200:], y_train=y[:200], y_test=y[200:])
    found = loaded(tmp_path / "d.npz", "label")
    assert sum(d.count for d in found.duplicates.values()) == 1


@pytest.mark.parametrize(
    ("conditions", "text"),
    [
        ("label", "conditions: expected whole numbers as labels of d, got .*number the names"),
        ("colour", "conditions: expected a column of d"),
        ("w,w", "conditions: expected label, or different names of columns"),
        (",", "conditions: expected label, or different names of columns"),
        ("bad", "d, column bad"),
        ("word", "d: expected numbers in column word, got 'red' in row 0"),
    ],
)
def test_conditions_that_cannot_be_read_are_refused(conditions: str, text: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    y, w = np.array(["a", "b"] * 20), rng.normal(size=40)
    bad, word = w.copy(), np.array(["red"] * 40)
    bad[3] = np.nan
    for name in ("d", "new"):
        np.savez(tmp_path / f"{name}.npz", x=rng.normal(size=(40, 2)), y=y, w=w, bad=bad, word=word)
    with pytest.raises((UsageError, ArrayError), match=text):
        loaded(tmp_path / "d.npz", conditions, heldout_data=str(tmp_path / "new.npz"))


def test_labels_of_one_file_alone_are_left_out_with_a_word(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "a.npz", x=rng.normal(size=(40, 2)), y=np.arange(40) % 2)
    np.savez(tmp_path / "b.npz", x=rng.normal(size=(40, 2)))
    for data, aside in (("a", "b"), ("b", "a")):
        caplog.clear()
        settings = DataSettings(str(tmp_path / f"{data}.npz"), heldout_data=str(tmp_path / f"{aside}.npz"))
        assert datasets.load(settings).labels is None
        assert f"labels: {tmp_path / 'a.npz'} has them and {tmp_path / 'b.npz'} has none" in caplog.text
    np.savez(tmp_path / "b.npz", x=rng.normal(size=(40, 2)), y=np.arange(40) % 2)
    caplog.clear()
    assert datasets.load(settings).labels is not None
    assert "labels" not in caplog.text
