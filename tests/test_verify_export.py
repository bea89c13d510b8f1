"""zprime verify of an exported folder: without its run, from its data or from held-out rows alone."""

import hashlib
import json
import math
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import own_code
import small
import zprime
from test_card import head
from test_cli import call
from zprime import OwnModel, artifact, bring, load_generator, verify
from zprime.errors import ArrayError, ArtifactError, UsageError
from zprime.exporting import FILE, read_record, simulation_error
from zprime.likelihoods import Gaussian
from zprime.remeasuring import checked
from zprime.reporting.card import Metric, metrics
from zprime.results.audit import load as load_audit
from zprime.run_folder import RunFolder
from zprime.sampling import sample

BY_DRAWS = {"likelihood_gain", "likelihood_gain_lower", "membership_auc"}
NO_ROWS = {"likelihood_gain", "elbo_gain", "least_rows"}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data, their held-out rows, and what was exported; the run is gone."""
    place = tmp_path_factory.mktemp("verify-export")
    job, audit = small.run(place / "run", small.table(place / "t.npz", n=240))
    name = small.candidate(audit, "mixture")
    assert call("export", job.path, "--from", name, "--out", place / "out", "--name", "mine", "--quiet") == 0
    data = job.folder.dataset
    np.savez(place / "heldout.npz", x=data.raw[data.ids["heldout"]].numpy())
    shutil.move(job.path, place / "gone")
    return place


@pytest.fixture
def out(made: Path, tmp_path: Path) -> Path:
    return shutil.copytree(made / "out", tmp_path / "moved")


def test_the_page_is_the_card_and_says_how_to_draw(made: Path) -> None:
    page, audit = (made / "out" / "README.md").read_text(), load_audit(made / "gone")
    (model,) = head(page)["model-index"]
    assert model["name"] == "mine"
    name = small.candidate(audit, "mixture")
    told = {m["type"]: m["value"] for m in model["results"][0]["metrics"]}
    wanted = {m.kind: m.shown if m.value is None else m.value for m in metrics(audit, audit.entry(name))}
    assert told == wanted
    assert "\n    python sample.py 100 0 z.npy\n" in page
    assert "zprime verify . --data FILE" in page
    assert page.index("## How to draw") < page.index("## What was measured")
    assert f"copying test: {audit.copying(name)} (zprime-audit-1, zprime " in page


def test_nothing_in_the_folder_says_where_the_data_lie_or_who_they_are(made: Path) -> None:
    told = b"".join(p.read_bytes() for p in (made / "out").rglob("*") if p.is_file())
    hashes = set(load_audit(made / "gone").inputs.values()) | {load_audit(made / "gone").data.content}
    assert not [h for h in hashes if h.encode() in told]
    assert b"t.npz" not in told
    assert str(made).encode() not in told


def test_elsewhere_and_without_the_run_every_number_comes_out_again(out: Path, made: Path, tmp_path: Path) -> None:
    """In a process of its own, with another home and another working folder."""
    home = tmp_path / "home"
    home.mkdir()
    shutil.copy(made / "t.npz", home / "other-name.npz")
    env = {**os.environ, "HOME": str(home), "XDG_CACHE_HOME": str(home)}
    command = [sys.executable, "-m", "zprime", "--json", "--quiet", "verify", str(out), "--data", "other-name.npz"]
    done = subprocess.run(command, cwd=home, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert (said["passed"], said["measured"], said["altered"], said["different"]) == (True, True, {}, [])
    told = {n["kind"]: n for n in said["numbers"]}
    assert {k for k, n in told.items() if n["status"] == "reproduced"} >= set(told) - {"likelihood_gain_lower"}
    assert {k for k, n in told.items() if "other draws" in n["because"]} <= BY_DRAWS
    exact = {"elbo_gain", "frechet_prior", "frechet_reconstructions", "frechet_real_rows", "copying", "least_rows"}
    assert exact <= set(told)
    assert all(told[k]["because"] == "" and told[k]["found"] == told[k]["recorded"] for k in exact)


def test_held_out_rows_alone_give_the_gains_again_and_the_rest_is_not_checked(out: Path, made: Path) -> None:
    found = verify(out, heldout_data=made / "heldout.npz")
    assert found.passed
    by_kind = {n.kind: n for n in found.numbers}
    assert {k for k, n in by_kind.items() if n.status == "reproduced"} == NO_ROWS
    assert {n.status for k, n in by_kind.items() if k not in NO_ROWS} == {"not checked"}
    assert "give the data of the run, --data" in by_kind["copying"].because
    assert by_kind["elbo_gain"].recorded == by_kind["elbo_gain"].found
    assert f"3 numbers of the card reproduced, 0 that differ, {len(by_kind) - 3} not checked" in found.sentence


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        (lambda x: x[::-1], ArtifactError, "not the rows that the folder was measured on.*in the order that they had"),
        (lambda x: np.concatenate([x[:1] + 50, x[1:]]), ArtifactError, "not the rows that the folder was measured on"),
        (lambda x: x[1:], ArtifactError, "expected 40 held-out rows.*got 39$"),
        (lambda x: x[:, :4], ArrayError, r"expected rows of shape \[5\], as the model has, got \[4\]"),
    ],
)
def test_other_rows_are_refused(
    out: Path, made: Path, tmp_path: Path, change: Callable[..., np.ndarray], error: type[Exception], text: str
) -> None:
    np.savez(tmp_path / "rows.npz", x=change(np.load(made / "heldout.npz")["x"]))
    with pytest.raises(error, match=text):
        verify(out, heldout_data=tmp_path / "rows.npz")


def test_all_rows_given_for_held_out_rows_are_told_to_be_the_data(out: Path, made: Path, own: Path) -> None:
    x = np.load(made / "t.npz")["x"]
    np.savez(made / "split rows.npz", x_train=x[:-60], x_test=x[-60:])
    for name, quoted in (("t.npz", "{}"), ("split rows.npz", "'{}'")):
        file = made / name
        with pytest.raises(
            ArtifactError, match=f"expected 40 held-out rows.*give them as .*: --data {quoted}$".format(file)
        ):
            verify(out, heldout_data=file)
    with pytest.raises(
        ArtifactError, match=r"--data .*rows.npz --heldout-data HELDOUT, the file of the held-out rows$"
    ):
        verify(own / "out", heldout_data=own / "rows.npz", own=as_own(own))


def test_other_data_are_refused_and_none_are_asked_for(out: Path, made: Path, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="these are not the rows that the folder was measured on"):
        verify(out, data=small.table(tmp_path / "other.npz", n=239))
    with pytest.raises(UsageError, match="expected the data.*--data PATH.*or --heldout-data PATH"):
        verify(out)
    with pytest.raises(UsageError, match="held-out rows of this folder are among the data: leave"):
        verify(out, data=made / "t.npz", heldout_data=made / "heldout.npz")
    for option in ("data", "heldout_data"):
        with pytest.raises(UsageError, match="nowhere.npz is not there"):
            verify(out, **{option: tmp_path / "nowhere.npz"})
        with pytest.raises(UsageError, match="data: nothing://bucket/x cannot be reached"):  # asked for, and no path
            verify(out, **{option: "nothing://me@bucket/x"})


def test_the_page_may_be_edited_and_its_numbers_may_not(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = out / "README.md"
    text = page.read_text()
    page.write_text(text.replace('license: "other"', 'license: "mit"').replace("# mine", "# ours") + "\nMore: 12.\n")
    assert verify(out, files_only=True).passed
    gain = head(text)["model-index"][0]["results"][0]["metrics"][0]
    page.write_text(text.replace(repr(gain["value"]), repr(gain["value"] + 1)))
    (only,) = verify(out, files_only=True).different
    assert only.what == "README.md, metric likelihood_gain"
    assert call("verify", out, "--files-only", "--quiet") == 1
    assert "Different: README.md, metric likelihood_gain" in capsys.readouterr().out
    page.unlink()
    assert not verify(out, files_only=True).passed


def seal_again(out: Path, change: Callable[[dict], None]) -> None:
    """Another `check.json`, and a page that says the same, with every hash right."""
    file = out / FILE
    told = json.loads(file.read_text())
    change(told)
    file.write_text(json.dumps(told))
    (out / "README.md").unlink()
    there = artifact.read(out)
    names = [n for n in there.files if n != "README.md"]
    hashes = {n: hashlib.sha256((out / n).read_bytes()).hexdigest() for n in names}
    artifact.seal(out, artifact.Manifest(there.kind, there.config, inputs=there.inputs), files=hashes)


@pytest.mark.parametrize("kind", ["elbo_gain", "likelihood_gain", "least_rows"])
def test_a_number_that_was_forged_with_every_hash_right_differs(out: Path, made: Path, kind: str) -> None:
    def better(told: dict) -> None:
        (metric,) = [m for m in told["metrics"] if m["kind"] == kind]
        metric["value"] += {"elbo_gain": 0.001, "likelihood_gain": 9.0, "least_rows": 1.0}[kind]
        told["simulation"] = 99.0  # what is claimed of it counts up to a multiple of what is found

    seal_again(out, better)
    found = verify(out, heldout_data=made / "heldout.npz")
    assert not found.passed
    assert [n.kind for n in found.numbers if n.status == "differs"] == [kind]


def test_altered_files_are_named_and_nothing_is_measured_from_them(out: Path, made: Path) -> None:
    for name in ("sample.py", "generator/tensors.safetensors"):
        file = out / name
        content = file.read_bytes()
        file.write_bytes(content[:-3] + bytes([content[-3] ^ 1]) + content[-2:])
        found = verify(out, data=made / "t.npz")
        assert (found.passed, found.measured, list(found.altered)) == (False, False, [name.split("/")[0]])
        file.write_bytes(content)
    other = load_generator(out / "generator")
    replace(other, copying="passes").save(out / "generator")  # without its encoder
    assert "another artefact than the one that was exported" in verify(out, files_only=True).altered["generator"]
    with pytest.raises(ArtifactError, match="another artefact than the one that was exported"):
        load_generator(out / "generator")


def test_the_generator_of_the_folder_draws_what_that_of_the_run_draws(out: Path, made: Path) -> None:
    name = small.candidate(load_audit(made / "gone"), "mixture")
    there = RunFolder(made / "gone").generative(name)
    for here in (out, out / "generator"):
        for a, b in zip(sample(there, 9, seed=2), sample(load_generator(here), 9, seed=2), strict=True):
            assert torch.equal(a, b)
    assert call("sample", out, "-n", 3, "--out", out.parent / "x.npz", "--quiet") == 0
    assert len(np.load(out.parent / "x.npz")["x"]) == 3


@pytest.mark.parametrize("name", ["prior", "gaussian"])
def test_the_prior_and_what_no_verdict_may_choose_are_verified_too(made: Path, tmp_path: Path, name: str) -> None:
    assert call("export", made / "gone", "--from", name, "--out", tmp_path / "out", "--quiet") == 0
    found = verify(tmp_path / "out", heldout_data=made / "heldout.npz")
    assert found.passed
    assert {"likelihood_gain", "elbo_gain"} <= {n.kind for n in found.numbers if n.status == "reproduced"}
    assert {n.kind: n.status for n in verify(tmp_path / "out", data=made / "t.npz").numbers}["copying"] == "reproduced"


def test_gains_may_be_as_far_apart_as_their_draws_explain() -> None:
    then = Metric("likelihood_gain", "gain", "1.00", 1.0, 0.1, 50)
    for apart, status in ((0.049, "reproduced"), (0.051, "differs")):
        again = replace(then, value=1 + apart)
        assert checked(then, again, 0.05, "").status == status
        assert checked(replace(then, kind="elbo_gain"), again, 0.05, "").status == "differs"
        by_rows = replace(then, kind="membership_auc")  # one standard error: 0.1
        assert checked(by_rows, replace(by_rows, value=1 + 2 * apart), 0.0, "").status == status
    assert checked(then, replace(then, stderr=0.2), 0.05, "").status == "differs"
    assert checked(then, replace(then, n=49), 0.05, "").because == "over 49 rows, recorded 50"
    word = Metric("copying", "copies", "passes")
    assert checked(word, replace(word, shown="copies"), 0.0, "").status == "differs"
    missing = checked(word, None, 0.0, "no rows")
    assert (missing.status, missing.because) == ("not checked", "no rows")


def test_the_error_of_simulation_is_that_of_repeated_draws() -> None:
    """Means of K weights against those of a quarter: log-normal ones, whose error over repetitions is known."""
    n, k, times = 60, 400, 200
    rng = torch.Generator().manual_seed(0)
    weights = torch.randn(times, n, k, generator=rng, dtype=torch.float64).mul(0.8)
    whole = weights.logsumexp(2) - math.log(k)
    quarter = weights[..., : k // 4].logsumexp(2) - math.log(k // 4)
    told = [
        simulation_error({"gain.heldout.likelihood.a": w, "quarter.heldout.a": q}, "a")
        for w, q in zip(whole, quarter, strict=True)
    ]
    wanted = math.sqrt(float((whole.mean(1) - 0.32).square().mean()))  # log E exp(0.8 x) is 0.8^2 / 2
    assert sum(told) / times == pytest.approx(wanted, rel=0.15)
    assert simulation_error({}, "a") == 0


def test_without_an_audit_there_is_a_page_and_nothing_to_measure(made: Path, tmp_path: Path) -> None:
    assert call("export", made / "gone" / "generator", "--out", tmp_path / "out", "--quiet") == 0
    assert not (tmp_path / "out" / FILE).exists()
    with pytest.raises(UsageError, match="exported without an audit"):
        verify(tmp_path / "out", data=made / "t.npz")
    assert verify(tmp_path / "out", files_only=True).passed


def test_exported_in_python_it_has_the_card_of_its_audit(tmp_path: Path) -> None:
    """Rows in memory and a decoder of one's own: files and card are checked, and nothing is measured again."""
    x = own_code.MODEL.sample(240, seed=0)[0].float()
    weight, bias = own_code.MODEL.weight.float(), own_code.MODEL.bias.float()
    mine = bring.modules(
        encoder,
        lambda z: z @ weight.T + bias,
        {"train": x[:120], "heldout": x[120:]},
        gives="std",
        likelihood=Gaussian(scale=0.3**0.5),
    )
    fits = {"gaussian": zprime.fit("gaussian", **mine.splits)}
    audit = zprime.audit(fits, mine.posteriors, model=mine.model, rows=mine.rows, settings=small.AUDIT)
    shipped = mine.shipped(audit, fits)
    with pytest.raises(UsageError, match=r"^export: licence: expected one of the arguments .*; write license=$"):
        shipped.export(tmp_path / "other", licence="mit")
    assert not (tmp_path / "other").exists()
    made = shipped.export(tmp_path / "out", name="mine", license="mit")
    page = (made.path / "README.md").read_text()
    assert head(page)["license"] == "mit"
    assert "zprime verify" not in page
    record = read_record(made)
    assert record is not None
    assert record.candidate == audit.shipped
    assert verify(made.path, files_only=True).passed
    missing = (
        "holds no decoder and no encoder.*exported in Python.*--model does not give these.*--files-only.*zprime run"
    )
    for options in ({}, {"own": OwnModel("mymodel.py:build")}):
        with pytest.raises(UsageError, match=missing):
            verify(made.path, data="digits", **options)


def encoder(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    mean, scale = own_code.MODEL.posterior(x.double())
    return mean.float(), scale.expand_as(mean).float()


# -- a model of the user's own -----------------------------------------------------------------------------------------

OWN = ["--kinds", "gaussian", "--rows=20", "--draws=80", "--samples=40", "--simulated=0", "--exchange=0", "--quiet"]


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Code, weights and rows, and an exported folder of a model whose prior is N(-1, 4 I); the run is gone."""
    place = own_code.folder(tmp_path_factory.mktemp("own"))
    rows = np.load(place / "rows.npz")
    np.savez(place / "seen.npz", x=rows["x_train"])
    np.savez(place / "unseen.npz", x=rows["x_test"])
    source = ["--data", place / "seen.npz", "--heldout-data", place / "unseen.npz"]
    assert call("run", *code(place), *source, "--out", place / "run", *OWN) == 0
    assert call("export", place / "run", "--from", "gaussian+p1", "--out", place / "out", "--quiet") == 0
    shutil.move(place / "run", place / "gone")
    return place


def code(place: Path) -> list[str]:
    return ["--model", f"{place / 'mymodel.py'}:wide", "--model-weights", f"{place / 'w.pt'}"]


def as_own(place: Path) -> OwnModel:
    return OwnModel(f"{place / 'mymodel.py'}:wide", f"{place / 'w.pt'}")


def test_it_is_measured_again_with_the_code_and_not_without(own: Path, tmp_path: Path) -> None:
    (own / "ran").unlink(missing_ok=True)
    out = shutil.copytree(own / "out", tmp_path / "moved")
    with pytest.raises(UsageError, match=r"made by mymodel.py:wide.*add --model mymodel.py:wide --model-weights w.pt"):
        verify(out, data=own / "seen.npz", heldout_data=own / "unseen.npz")
    assert verify(out, files_only=True).passed
    assert not (own / "ran").exists()
    with pytest.raises(UsageError, match="were in a file of their own: give it by --heldout-data too"):
        verify(out, data=own / "seen.npz", own=as_own(own))
    found = verify(out, data=own / "seen.npz", heldout_data=own / "unseen.npz", own=as_own(own))
    assert found.passed
    assert {"elbo_gain", "likelihood_gain", "copying"} <= {n.kind for n in found.numbers if n.status == "reproduced"}


def test_held_out_rows_are_found_among_all_that_it_has_not_seen(own: Path, tmp_path: Path) -> None:
    data = RunFolder(own / "gone").dataset
    np.save(tmp_path / "heldout.npy", data.raw[data.ids["heldout"]].numpy())
    for rows in (own / "unseen.npz", tmp_path / "heldout.npy"):
        found = verify(own / "out", heldout_data=rows, own=as_own(own))
        assert {n.kind for n in found.numbers if n.status == "reproduced"} == NO_ROWS
        assert found.passed


def test_its_generator_is_loaded_with_the_function_that_builds_it(own: Path) -> None:
    path = own / "out" / "generator"
    assert {p.name for p in path.iterdir()} == {"manifest.json", "tensors.safetensors"}
    told = load_generator(path)
    assert told.latent.d == 2
    with pytest.raises(UsageError, match="add --model mymodel.py:wide"):
        sample(told, 3)
    z, x = sample(load_generator(path, as_own(own)), 400, seed=1)
    there = RunFolder(own / "gone", as_own(own)).generative("gaussian+p1")
    for a, b in zip((z, x), sample(there, 400, seed=1), strict=True):
        assert torch.equal(a, b)
    with pytest.raises(UsageError, match="was made by mymodel.py:wide, got mymodel.py:build"):
        load_generator(path, OwnModel(f"{own / 'mymodel.py'}:build", f"{own / 'w.pt'}"))


def test_its_folder_draws_what_its_own_decoder_takes(own: Path) -> None:
    """Latents of the run are in units of the prior; those of the sampler are not."""
    subprocess.run([sys.executable, "sample.py", "20000"], cwd=own / "out", check=True)
    z = torch.from_numpy(np.load(own / "out" / "z.npy"))
    (own / "out" / "z.npy").unlink()
    r = RunFolder(own / "gone").distribution("gaussian+p1")
    inside = r.sample(20000, rng=torch.Generator().manual_seed(0))
    torch.testing.assert_close(z.mean(0), 2 * inside.mean(0) - 1, atol=0.1, rtol=0)
    torch.testing.assert_close(z.std(0), 2 * inside.std(0), rtol=0.05, atol=0)
    page = (own / "out" / "README.md").read_text()
    assert "built by `mymodel.py:wide`" in page
    assert 'zprime sample . --model "mymodel.py:wide" --model-weights "w.pt"' in page


def test_the_commands_on_its_page_work_as_they_stand(
    own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the folder, with the files that the page names put there."""
    out = shutil.copytree(own / "out", tmp_path / "out")
    page = (out / "README.md").read_text()
    assert "`mymodel.py` (with what it imports) and `w.pt` are not in this folder: put them there" in page
    for name in ("mymodel.py", "w.pt", "helper.py"):
        shutil.copy(own / name, out / name)
    monkeypatch.chdir(out)
    commands = [shlex.split(c)[1:] for c in re.findall("`(zprime [^`]+)`", page)]
    assert [c[0] for c in commands] == ["sample", "verify", "verify"]
    places = {"FILE": f"{own / 'seen.npz'}", "HELDOUT": f"{own / 'unseen.npz'}"}
    alone = {"FILE": places["HELDOUT"]}
    for command, names in zip(commands, ({}, places, alone), strict=True):
        assert call(*[names.get(word, word) for word in command], "--quiet") == 0
    (python,) = re.findall(r"`zprime.load_generator\((.+)\)`", page)
    assert python == '".", zprime.OwnModel("mymodel.py:wide", "w.pt")'
    assert sample(load_generator(".", OwnModel("mymodel.py:wide", "w.pt")), 3)[1].shape == (3, 5)


def test_a_run_has_a_generator_of_it_too(own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    there = artifact.read(own / "gone" / "generator")
    assert there.config["own"]["code"]["named"] == "mymodel.py:wide"
    assert call("sample", own / "gone" / "generator", *code(own), "-n", 4, "--out", own / "x.npz", "--quiet") == 0
    assert np.load(own / "x.npz")["x"].shape == (4, 5)
    capsys.readouterr()


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda c: c.pop("own"), "vae: expected a VAE of zprime, or own, a model of the user's own"),
        (lambda c: c["own"].pop("code"), "own.code: expected a value, got none"),
        (lambda c: c["own"].update(latents=3), "latent: expected 3 dimensions, as the decoder takes, got 2"),
        (lambda c: c["own"].update(shape=[4]), r"shift: expected shape \[4\], that of a row"),
    ],
)
def test_what_is_told_of_a_model_of_ones_own_has_to_fit(
    own: Path, tmp_path: Path, change: Callable[[dict], object], text: str
) -> None:
    path = shutil.copytree(own / "gone" / "generator", tmp_path / "generator")
    there = artifact.read(path)
    config = json.loads(json.dumps(there.config))
    change(config)
    artifact.seal(path, artifact.Manifest(there.kind, config, seed=there.seed), files=there.files)
    with pytest.raises(ArtifactError, match=text):
        load_generator(path)
