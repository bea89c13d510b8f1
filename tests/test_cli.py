"""The command line: the same words, JSON alone on standard output, errors without tracebacks, kill and resume."""

import gc
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import small
from zprime import artifact
from zprime.cli import main
from zprime.results.audit import load as load_audit

QUICK = [
    "--latents",
    "2",
    "--hidden",
    "16",
    "--epochs",
    "4",
    "--batch",
    "32",
    "--rows",
    "12",
    "--draws",
    "120",
    "--map",
    "20",
]


def call(*argv: str | Path) -> int:
    with pytest.raises(SystemExit) as end:
        main([str(a) for a in argv])
    code = end.value.code
    return code if isinstance(code, int) else 1


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cli") / "run"
    assert call("run", "--data", "digits", "--out", folder, *QUICK, "--quiet") == 0
    return folder


def test_json_is_alone_on_standard_output(digits: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("run", "--data", "digits", "--out", digits, *QUICK, "--json") == 0
    out = capsys.readouterr()
    found = json.loads(out.out)
    assert found["verdict"]["decision"] in {"leave the prior", "keep the prior", "undecided"}
    assert Path(found["report"]).is_file()
    assert "already done" in out.err


def test_verbs_one_by_one_give_what_run_gives(digits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "steps"
    assert call("train", "--data", "digits", "--out", folder, *QUICK[:8]) == 0
    assert call("encode", folder) == 0
    assert call("fit", folder) == 0
    assert call("audit", folder, *QUICK[8:]) == 0
    assert call("report", folder, "--out", tmp_path / "page.html") == 0
    assert "nats per row" in capsys.readouterr().out
    for name in ("model", "posteriors/train", "latent/mixture", "latent/aggregated", "generator"):
        assert artifact.read(folder / name).files == artifact.read(digits / name).files, name
    mine, theirs = (artifact.read(f / "audit").files["tensors.safetensors"] for f in (folder, digits))
    assert mine == theirs  # every row's gain, every sample; audit.json also holds rates, which are times
    assert "nats per row" in (tmp_path / "page.html").read_text()


def test_quiet_prints_what_was_asked_for_and_nothing_else(digits: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A verb that makes files says nothing; one that only answers gives its answer; errors and JSON stay."""
    for argv in (["sample", digits, "-n", "4"], ["report", digits], ["encode", digits]):
        assert call("--quiet", *argv) == 0
        assert capsys.readouterr() == ("", "")
    assert call("--quiet", "kinds") == 0
    assert "mixture" in capsys.readouterr().out
    assert call("--quiet", "explain", digits) == 0
    assert "p(Z)" in capsys.readouterr().out
    assert call("--quiet", "--json", "report", digits) == 0
    assert json.loads(capsys.readouterr().out)["report"]
    assert call("--quiet", "sample", digits, "--from", "none") == 2
    assert "none" in capsys.readouterr().err


def test_sample_writes_a_grid_and_an_npz(digits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("sample", digits, "-n", "9", "--from", "aggregated", "--out", tmp_path / "s", "--allow-rows") == 0
    assert "functions of single training rows are stored" in capsys.readouterr().out
    with np.load(tmp_path / "s.npz") as found:
        assert found["z"].shape == (9, 2)
        assert found["x"].shape == (9, 1, 8, 8)
        assert 2 < found["x"].mean() < 8  # digits go from 0 to 16
    assert Image.open(tmp_path / "s.png").size[0] > 64
    assert call("sample", digits / "generator", "-n", "4") == 0
    assert (digits / "samples" / "generator.npz").is_file()
    assert call("sample", digits / "generator", "--from", "prior") == 2
    capsys.readouterr()
    assert call("sample", digits, "-n", "4", "--out", tmp_path / "[/bold]") == 0  # no markup of the terminal
    assert "[/bold].npz" in capsys.readouterr().out.replace("\n", "")


def test_pictures_are_written_as_a_grid_or_each_in_a_file(
    digits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ("sample", digits, "-n", "11", "--from", "prior", "--out")
    for out in ("s.png", "s.npz", "all/"):
        assert call(*argv, f"{tmp_path}/{out}") == 0
    assert {p.name for p in tmp_path.iterdir()} == {"s.png", "s.npz", "all"}
    files = sorted((tmp_path / "all").iterdir())
    assert [p.name for p in files] == [f"{i:02d}.png" for i in range(11)]
    with np.load(tmp_path / "s.npz") as found:
        for file, x in zip(files, found["x"], strict=True):
            shades = np.asarray(Image.open(file)).astype(float)
            np.testing.assert_allclose(shades, (255 * x[0] / 16).clip(0, 255), atol=0.6)  # rounded
    capsys.readouterr()
    assert call(*argv, f"{tmp_path}/all/") == 2
    assert "expected a new or an empty folder" in " ".join(capsys.readouterr().err.split())
    assert call(*argv, tmp_path / "s.csv") == 2
    assert "each x' is an array; take NAME.npz or NAME.png" in " ".join(capsys.readouterr().err.split())
    assert call(*argv, f"{digits}/model/") == 2  # no place for pictures


@pytest.mark.parametrize("argv", [[], ["--store", "data"], ["--allow-copies"]])
def test_stored_rows_are_drawn_from_only_by_leave(
    argv: list[str], digits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("aggregated", "aggregated+p10"):
        assert call("sample", digits, "-n", "4", "--from", name, *argv, "--out", tmp_path / "s") == 2
        assert "it stores functions of single training rows" in " ".join(capsys.readouterr().err.split())
    assert not list(tmp_path.iterdir())


def test_a_run_ships_no_stored_rows_and_nothing_uncleared(digits: Path) -> None:
    """The digits in two latents shipped all training posteriors."""
    audit = load_audit(digits)
    assert audit.shipped == "prior" or (
        audit.copying(audit.shipped) == "passes" and not audit.entry(audit.shipped).holds_rows
    )
    shipped = artifact.read(digits / "generator").config
    assert not shipped["holds_training_rows"]
    assert shipped["latent"]["label"] == audit.entry(audit.shipped).label


def test_report_of_one_run_public_and_of_several(
    digits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert call("--json", "report", digits) == 0
    assert json.loads(capsys.readouterr().out)["report"] == str(digits / "report.html")
    assert call("--json", "report", digits, "--public") == 0
    assert json.loads(capsys.readouterr().out)["report"] == str(digits / "public.html")
    assert "no row of the data" in (digits / "public.html").read_text()
    assert "no row of the data" not in (digits / "report.html").read_text()
    assert call("--json", "report", digits, digits) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["report"] == "compare.html"
    assert len(shown["verdicts"]) == 2
    assert "2 runs compared" in (tmp_path / "compare.html").read_text()


def test_settings_come_from_flag_then_environment_then_toml(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    data = small.table(tmp_path / "t.npz")
    toml = tmp_path / "z.toml"
    toml.write_text(
        f'[train]\ndata = "{data}"\nout = "{tmp_path / "run"}"\nlatents = 3\nepochs = 2\nhidden = [7]\nbatch = 50\n'
    )
    monkeypatch.setenv("ZPRIME_LATENTS", "4")
    assert call("train", "--config", toml, "--batch", "20", "--json") == 0
    config = artifact.read(tmp_path / "run" / "model").config
    assert config["vae"]["settings"]["latents"] == 4
    assert config["vae"]["settings"]["hidden"] == [7]
    assert config["training"]["batch"] == 20
    assert config["training"]["epochs"] == 2
    capsys.readouterr()
    toml.write_text("[train]\nlatnets = 3\n")
    assert call("train", "--config", toml) == 2
    assert "latnets" in capsys.readouterr().err


def test_errors_are_sentences_with_their_exit_code(
    digits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "thesis.tex").write_text("x")
    nan = tmp_path / "nan.npy"
    np.save(nan, np.where(np.arange(60).reshape(20, 3) == 30, np.nan, 1.5))
    one = tmp_path / "one.npy"
    np.save(one, np.ones((1, 3)))
    same = tmp_path / "same.npy"
    np.save(same, np.ones((30, 3)))
    empty = tmp_path / "empty"
    empty.mkdir()
    trained = tmp_path / "trained"
    assert call("train", "--data", "digits", "--out", trained, *QUICK[:8], "--quiet") == 0
    pipe, piped = tmp_path / "pipe.csv", tmp_path / "piped"
    os.mkfifo(pipe)
    piped.mkdir()
    os.mkfifo(piped / "train-images-idx3-ubyte")
    cases: list[tuple[list[str | Path], int, str]] = [
        (
            ["run", "--data", "nope", "--out", tmp_path / "r"],
            2,
            "or a folder of images, got 'nope', which does not exist",
        ),
        (["run", "--data", "digits", "--out", other], 2, "this folder holds files that zprime did not write"),
        (["run", "--data", "digits", "--out", nan / "x"], 2, "cannot write here (Not a directory)"),
        (["run", "--data", nan, "--out", tmp_path / "r"], 5, "got nan in 1 of 20 rows (row 10)"),
        (["run", "--data", one, "--out", tmp_path / "r"], 5, "expected at least 3 rows, one for each split, got 1"),
        (["run", "--data", same, "--out", tmp_path / "r"], 5, "training rows are the same; nothing can be learned"),
        (
            ["run", "--data", empty, "--out", tmp_path / "r"],
            2,
            "or .parquet, .npy or .tar files, found none",
        ),
        (
            ["run", "--data", "digits", "--out", tmp_path / "r", "--kinds", "flowery"],
            2,
            "kind: expected one of prior, gaussian",
        ),
        (
            ["run", "--data", "digits", "--out", tmp_path / "r", "--latents", "0"],
            2,
            "latents: expected at least 1, got 0",
        ),
        (
            ["run", "--data", "digits", "--out", tmp_path / "r", "--network", "vit"],
            2,
            "network: expected mlp, gated-mlp, conv or residual, got 'vit'",
        ),
        (
            ["run", "--data", "digits", "--out", tmp_path / "r", "--likelihood", "student"],
            2,
            "likelihood: expected one of gaussian, bernoulli, laplace",
        ),
        (["run", "--data", "digits", "--out", tmp_path / "r", "--flatents", "3"], 2, 'Unknown option: "--flatents"'),
        (
            ["fit", digits, "--kinds", "mixture", "--name", "m", "--set", "mixture.components=5000"],
            2,
            "components: expected 1 to 1197 (the number of posteriors), or 0 to choose, got 5000",
        ),
        (
            ["fit", digits, "--set", "mixture.components=5"],
            2,
            "Going on would replace latent/mixture, audit, generator, report.html",
        ),
        (
            ["train", "--data", "digits", "--latents", "3", "--out", digits],
            2,
            "this run was made with other settings (latents",
        ),
        (["fit", digits, "--set", "mixture.componets=5"], 2, "set: mixture has "),
        (["fit", digits, "--set", "mixture.components=five"], 2, "set: mixture.components expected int, got 'five'"),
        (
            ["fit", digits, "--set", "mixture=5"],
            2,
            "set: expected KIND.FIELD=VALUE, e.g. mixture.components=64, got 'mixture=5'",
        ),
        (
            ["sample", digits, "--from", "flowery"],
            2,
            "from: expected one of prior, gaussian, mixture, aggregated, or one of the fitted ones with a share of the "
            "prior, such as aggregated+p10 (10 %), got 'flowery'",
        ),
        (["sample", digits, "--from", "prior+p10"], 2, "from: expected one of prior, gaussian"),
        (["sample", digits, "--from", "flowery+p10"], 2, "from: expected one of prior, gaussian"),
        (["sample", digits, "--from", "mixture+p10", "--store", "data"], 2, "store: only aggregated can be drawn from"),
        (
            ["sample", digits, "--from", "mixture+p100"],
            2,
            "mixture+p100: expected a share of the prior above 0 and below 100 percent, got 100",
        ),
        (["sample", digits, "--from", "mixture+p0"], 2, "mixture+p0: expected a share of the prior above 0"),
        (["fit", digits, "--kinds", "gaussian", "--name", "mine+p5"], 2, "name: expected one that does not end in +p"),
        (["sample", digits, "-n", "0"], 2, "n: expected at least 1 sample, got 0"),
        (["audit", other], 3, "expected an artefact of kind run, found no manifest.json"),
        (["report", empty], 3, "expected an artefact of kind audit, found no manifest.json"),
        (["report", trained], 3, "this run has not been audited yet; run `zprime audit "),
        (["explain", trained], 3, "this run has not been audited yet"),
        (["run", "--data", "", "--out", tmp_path / "r"], 2, "got an empty text; for this folder write --data ."),
        (["train", "--data", "", "--out", tmp_path / "r"], 2, "got an empty text; for this folder write --data ."),
        (["run", "--data", "digits", "--out", ""], 2, "out: expected the path of a folder, got an empty text"),
        (["train", "--data", "digits", "--out", ""], 2, "out: expected the path of a folder, got an empty text"),
        *(
            ([verb, ""], 2, "run: expected the path of a folder, got an empty text")
            for verb in ("encode", "fit", "audit")
        ),
        (["train", "--data", pipe, "--out", tmp_path / "r"], 2, "a regular file but a pipe or a device; write what it"),
        (["train", "--data", "/dev/null", "--out", tmp_path / "r"], 2, "not a regular file but a pipe or a device"),
        (["train", "--data", piped, "--out", tmp_path / "r"], 5, "expected a regular file, got none (a folder, a pipe"),
        (["run", "--config", tmp_path / "no.toml"], 2, "config: expected a TOML file, found none at"),
        (["audit", digits, "--threads", "-1"], 2, "threads: expected a number from 0 to 4096, got -1"),
        (["flowery"], 2, 'Unknown command "flowery"'),
    ]
    for argv, code, sentence in cases:
        assert call(*argv) == code, argv
        err = " ".join(capsys.readouterr().err.split())
        assert " ".join(sentence.split()).strip('"') in err or sentence.replace('"', "") in err.replace('"', ""), (
            argv,
            err,
        )
        assert "Traceback" not in err
    assert not (tmp_path / "r").exists()


def start(folder: Path, *extra: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "zprime.cli", "train", "--data", "digits", "--out", str(folder)]
    command += ["--latents", "2", "--hidden", "16", "--epochs", "60", "--checkpoint", "0", *extra]
    # a test run in the background ignores Ctrl-C, and its children would too
    heard = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=heard)


def test_terminated_training_says_so_and_keeps_its_checkpoint(tmp_path: Path) -> None:
    process = start(tmp_path / "run")
    checkpoint = tmp_path / "run" / "checkpoint" / "manifest.json"
    deadline = time.monotonic() + 60
    while not checkpoint.is_file() and time.monotonic() < deadline:
        time.sleep(0.01)
    process.terminate()
    _, err = process.communicate(timeout=60)
    assert process.returncode == 143
    assert "terminated; what is finished is kept, and the same command goes on from there" in " ".join(err.split())
    assert checkpoint.is_file()
    assert not (tmp_path / "run" / "model").exists()


@pytest.mark.parametrize("argv", [["kinds"], ["--json", "kinds"], ["--json", "doctor"]])
def test_output_that_nobody_reads_ends_with_141_and_no_traceback(argv: list[str]) -> None:
    command = [sys.executable, "-m", "zprime.cli", *argv]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == ""
        assert process.wait(timeout=60) == 141


@pytest.mark.parametrize("argv", [["--quiet", "kinds"], ["kinds"], ["--quiet", "flowery"]])
def test_the_process_is_left_as_it_was(argv: list[str]) -> None:
    """What calls `main` from Python goes on with its own log level, handlers and signals."""
    log = logging.getLogger("zprime")
    before = log.level, list(log.handlers), signal.getsignal(signal.SIGTERM)
    log.setLevel(logging.WARNING)
    try:
        call(*argv)
        assert (log.level, log.handlers, signal.getsignal(signal.SIGTERM)) == (logging.WARNING, *before[1:])
    finally:
        log.setLevel(before[0])


def test_garbage_is_looked_for_once_the_modules_are_loaded() -> None:
    """Not while they are: that would be a seventh of a command's start."""
    code = (
        "import gc, zprime.cli as c, zprime.__main__ as m\n"
        "def main(*, loaded): print(gc.isenabled()); loaded(); print(gc.isenabled(), gc.get_freeze_count() > 10_000)\n"
        "c.main = main; m.main()"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.split() == ["False", "True", "True"]
    code = (
        "import sys, zprime.cli as c\n"
        "c.main(['--quiet', 'kinds'], loaded=lambda: print('zprime.latent' in sys.modules, file=sys.stderr))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stderr == "True\n"
    gc.disable()  # of another program, which calls `main`: it is left so
    try:
        call("--quiet", "kinds")
        assert not gc.isenabled()
    finally:
        gc.enable()


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_killed_training_goes_on_and_ends_with_the_same_parameters(how: signal.Signals, tmp_path: Path) -> None:
    undisturbed = start(tmp_path / "whole")
    first = start(tmp_path / "cut")
    checkpoint = tmp_path / "cut" / "checkpoint" / "manifest.json"
    deadline = time.monotonic() + 60
    while not checkpoint.is_file() and time.monotonic() < deadline:
        time.sleep(0.01)
    os.kill(first.pid, how)
    _, err = first.communicate(timeout=60)
    if how is signal.SIGINT:
        assert first.returncode == 130
        assert "the same command goes on from there" in " ".join(err.split())
    assert not (tmp_path / "cut" / "model").exists()
    second = start(tmp_path / "cut")
    _, err = second.communicate(timeout=120)
    assert second.returncode == 0
    assert "training goes on after epoch" in " ".join(err.split())
    undisturbed.communicate(timeout=120)
    assert artifact.read(tmp_path / "cut" / "model").files == artifact.read(tmp_path / "whole" / "model").files


LATE = [
    "--rows=1",
    "--draws=8",
    "--draws=20",
    "--draws=10",
    "--grid=0",
    "--map=0",
    "--simulated=5",
    "--exchange=3",
    "--repair=1",
    "--ais=1",
    "--temperatures=0",
    "--samples=3",
    "--members=1",
    "--features=x",
    "--copies-limit=1.0",
    "--copies-limit=nan",
    "--seeds=0",
    "--by=colour",
    "--kinds=flowery",
    "--weights=nope",
    "--checkpoint=nan",
    "--scale=inf",
    "--set=mixture.components=-1",
    "--set=mixture.method=x",
    "--set=mixture.least_rows=nan",
    "--set=mixture.tolerance=nan",
    "--set=gaussian.covariance=x",
    "--set=gaussian.rank=-1",
]
OF_KINDS = [
    "flow.epochs=0",
    "exemplars.rows=-1",
    "exemplars.bandwidth=2",
    "vamp.components=0",
    "prior.tau=0",
    "conditional.least_rows=-1",
    "conditional.base=conditional",
    "conditional.base.iterations=0",
    "shared-nuts.chains=0",
    "resampled.method=x",
    "flow-matching.width=0",
    "two-stage.draws=0",
]


@pytest.mark.parametrize(
    "words", [*([word] for word in LATE), *(["--kinds", s.partition(".")[0], "--set", s] for s in OF_KINDS)]
)
def test_settings_that_no_data_could_suit_are_refused_before_the_training(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("zprime.train_stage.train", lambda *a, **k: pytest.fail("it trained"))
    assert call("run", "--data", "digits", "--out", tmp_path / "run", *words) == 2
    assert "expected" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_arguments_that_no_system_takes_are_refused_in_words(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def said(*argv: str | Path) -> str:
        assert call(*argv) == 2
        return "".join(capsys.readouterr().err.split())  # which a terminal breaks anywhere

    assert "from0to4096,got99999999999999999999" in said("--threads", "99999999999999999999", "kinds")
    for name, content, text in (
        ("null.toml", '[train]\nout = "a\\u0000b"\n', "out: expected text without the character of code 0"),
        ("cut.toml", "[train\n", "cut.toml is not a readable TOML file in UTF-8"),
        ("deep.toml", "a = " + 5000 * "[" + 5000 * "]", "deep.toml is not a readable TOML file in UTF-8"),
    ):
        (tmp_path / name).write_text(content)
        assert text.replace(" ", "") in said("--config", tmp_path / name, "train", "--data", "digits")


def test_no_reader_and_no_letters(tmp_path: Path) -> None:
    """Standard error without a reader ends a command as a pipe does; an encoding that lacks letters does not end it."""
    program = [sys.executable, "-m", "zprime"]
    reader, writer = os.pipe()
    os.close(reader)
    wrong = subprocess.run([*program, "train", "--data", str(tmp_path / "none")], stderr=writer, check=False)
    os.close(writer)
    assert wrong.returncode == 2
    plain = {**os.environ, "PYTHONIOENCODING": "ascii"}
    told = subprocess.run([*program, "kinds"], env=plain, capture_output=True, check=False)
    assert (told.returncode, told.stderr) == (0, b"")
    assert told.stdout.isascii()


def test_a_run_without_an_audit_is_exported_from_a_fit(digits: Path, tmp_path: Path) -> None:
    shutil.copytree(digits, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "audit")
    assert call("export", tmp_path / "run", "--from", "gaussian", "--out", tmp_path / "out") == 0


def test_export_writes_a_folder_that_draws_with_numpy_alone(
    digits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert call("export", digits, "--from", "gaussian", "--out", tmp_path / "out", "--json") == 0
    said = json.loads(capsys.readouterr().out)
    assert said["label"] == "gaussian"
    assert said["files"] == ["README.md", "check.json", "latent.json", "latent.safetensors", "sample.py"]
    subprocess.run([sys.executable, "sample.py", "5"], cwd=tmp_path / "out", check=True)
    assert np.load(tmp_path / "out" / "z.npy").shape == (5, 2)
    monkeypatch.chdir(tmp_path)
    assert call("export", digits, "--from", "prior", "--quiet") == 0
    assert (tmp_path / "run-export" / "latent.json").is_file()
    for name, text in (("aggregated", "stores functions of single training rows"), ("flowery", "expected one of")):
        assert call("export", digits, "--from", name, "--out", tmp_path / "no") == 2
        assert text in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "no").exists()
    assert call("export", digits, "--from", "aggregated", "--allow-rows", "--out", tmp_path / "rows") == 0
    assert call("export", digits, "--name", "aggregated+p1", "--out", tmp_path / "no") == 2  # it would be the choice
    assert "for z' from aggregated+p1 say --from aggregated+p1" in " ".join(capsys.readouterr().err.split())
    assert call("export", digits, "--name", "for-two", "--from", "gaussian", "--out", tmp_path / "named") == 0
    for run in (digits, digits / "latent" / "gaussian"):
        assert call("export", digits, "--from", "gaussian", "--out", run) == 2
        assert "would be lost" in " ".join(capsys.readouterr().err.split())
    assert load_audit(digits).shipped
