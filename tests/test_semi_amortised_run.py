"""A run whose posteriors are semi-amortised: all splits alike, in the audit too, and nothing is lost unasked."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

import own_code
import small
import zprime
from test_cli import call
from zprime import artifact, bring, chain, encode_stage, encoding
from zprime.arrays import standard_kl
from zprime.data import SPLITS, DataSettings
from zprime.errors import ArtifactError, UsageError
from zprime.likelihoods import Gaussian
from zprime.measure.study import Study
from zprime.own_model import OwnModel
from zprime.run_folder import RunFolder
from zprime.run_posteriors import steps_by_split, steps_of
from zprime.running import Run
from zprime.semi_amortised import SemiAmortised


@pytest.fixture
def job(tmp_path: Path) -> Run:
    """A trained model, not encoded."""
    job = Run.create(tmp_path / "run")
    job.train(DataSettings(str(small.table(tmp_path / "table.npz"))), small.NETWORK, small.TRAINING, seed=0)
    return job


def test_every_split_is_encoded_with_the_steps(job: Run) -> None:
    found = job.encode(steps=3)
    assert steps_by_split(job.path) == dict.fromkeys(SPLITS, 3)
    for split, q in found.items():
        alone = zprime.encode(job.folder.vae, job.folder.rows[split], steps=3).gather()
        assert torch.equal(q.gather().mean, alone.mean)
        assert not torch.equal(q.gather().mean, zprime.encode(job.folder.vae, job.folder.rows[split]).gather().mean)
    before = artifact.read(job.path / "posteriors" / "train").hash
    job.encode()  # as they are
    assert artifact.read(job.path / "posteriors" / "train").hash == before


def test_without_steps_keys_and_settings_are_as_ever(job: Run) -> None:
    job.encode()
    found = artifact.read(job.path / "posteriors" / "train")
    assert found.key == encode_stage.key_of("train", job.folder.model.hash)
    assert "steps" not in found.config
    assert steps_of(job.path) == 0
    assert not isinstance(job.folder.encoding(), SemiAmortised)


def test_what_was_made_from_other_posteriors_is_not_lost_unasked(job: Run) -> None:
    job.encode()
    job.encode(steps=2)  # nothing was made from them yet
    job.fit(["gaussian"], seed=0)
    with pytest.raises(UsageError, match=r"steps=2, and steps=5 was asked for.*latent/gaussian.*--replace"):
        job.encode(steps=5)
    assert job.folder.has("latent/gaussian")
    Run.open(job.path, replace=True).encode(steps=5)
    assert steps_of(job.path) == 5
    assert not job.folder.has("latent/gaussian")


def test_a_killed_replacement_is_told_and_goes_on(job: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that died between two splits leaves posteriors of two sorts, which nothing may be fitted to."""
    job.encode()
    place, placed = chain.place, []

    def killed(run: Path, name: str, *args: object, **kwargs: object) -> object:
        if placed:
            raise KeyboardInterrupt
        placed.append(name)
        return place(run, name, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(chain, "place", killed)
        with pytest.raises(KeyboardInterrupt):
            job.encode(steps=2)
    with pytest.raises(ArtifactError, match=r"different numbers of steps \(train 2, selection 0, heldout 0\)"):
        job.fit(["gaussian"], seed=0)
    job.encode()
    assert steps_by_split(job.path) == dict.fromkeys(SPLITS, 2)
    assert torch.equal(
        job.folder.posteriors("selection").gather().mean,
        zprime.encode(job.folder.vae, job.folder.rows["selection"], steps=2).gather().mean,
    )


def test_shards_of_a_killed_stage_are_kept(job: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoding, "SHARD", 32)
    seen: list[int] = []
    encode = SemiAmortised.encode

    def counted(self: SemiAmortised, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        seen.append(len(x))
        return encode(self, x)

    def stop(what: str, done: int, total: int) -> None:
        if what == "encode train" and done == 64:
            raise KeyboardInterrupt

    monkeypatch.setattr(SemiAmortised, "encode", counted)
    with pytest.raises(KeyboardInterrupt):
        encode_stage.EncodeStage(job.folder, progress=stop, steps=2).run()
    assert sum(seen) == 64
    job.encode(steps=2)
    assert sum(seen) == sum(len(rows) for rows in job.folder.rows.values())


def test_the_audit_encodes_in_the_same_way_and_the_command_says_so(job: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    job.encode(steps=2)
    job.fit(["gaussian"], seed=0)
    models: list[object] = []
    start = Study.__init__

    def kept(self: Study, *args: object, **kwargs: object) -> None:
        start(self, *args, **kwargs)  # type: ignore[arg-type]
        models.append(self.model)

    monkeypatch.setattr(Study, "__init__", kept)
    audit = job.audit(small.AUDIT, seed=0)
    model = models[0]
    assert isinstance(model, SemiAmortised)
    assert model.steps == 2
    assert "encode runs/again --steps 2" in audit.command
    assert audit.likelihood is not None
    assert audit.likelihood.gaps["heldout"].kl.value == pytest.approx(kl_of(job, audit), abs=1e-6)


def kl_of(job: Run, audit: zprime.Audit) -> float:
    """Mean KL(q||p) of the stored held-out posteriors that were scored."""
    q = job.folder.posteriors("heldout").gather()
    at = torch.isin(q.row_ids, audit.tensors["row_ids.heldout"])
    return float(standard_kl(q.mean.double(), q.scale.double()).sum(1)[at].mean())


def test_the_command_line_takes_steps_and_asks_before_it_replaces(job: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("encode", job.path, "--steps", "2", "--quiet") == 0
    assert steps_of(job.path) == 2
    assert call("fit", job.path, "--kinds", "gaussian", "--quiet") == 0
    assert call("encode", job.path, "--quiet") == 0  # as they are
    assert job.folder.has("latent/gaussian")
    capsys.readouterr()
    assert call("encode", job.path, "--steps", "0", "--quiet") != 0
    said = capsys.readouterr().err
    assert "--replace" in said
    assert "Traceback" not in said
    assert call("encode", job.path, "--steps", "0", "--replace", "--quiet") == 0
    assert steps_of(job.path) == 0


def test_on_demand_draws_are_encoded_so_too(job: Run) -> None:
    job.encode(steps=2)
    job.fit(["aggregated"], seed=0)
    folder = RunFolder.open(job.path)
    drawn = folder.distribution("aggregated", store="data").sample(5, rng=torch.Generator().manual_seed(0))
    stored = folder.distribution("aggregated").sample(5, rng=torch.Generator().manual_seed(0))
    torch.testing.assert_close(drawn, stored, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("steps", [-1, True])
def test_a_number_that_is_none_is_refused(job: Run, steps: int) -> None:
    with pytest.raises(UsageError, match="steps: expected a whole number from 0 on"):
        job.encode(steps=steps)
    assert not job.folder.has("posteriors/train")


def test_a_brought_encoder_is_improved_in_the_coordinates_of_its_prior() -> None:
    """Under N(-1, 2^2), with z = 2 u - 1, u of a linear model: the encoder is wrong by half a unit."""
    linear, x = own_code.MODEL, own_code.MODEL.sample(90)[0].float()

    def encode(x: Tensor) -> tuple[Tensor, Tensor]:
        mean, scale = (t.float() for t in linear.posterior(x.double()))
        return 2 * (mean + 0.5) - 1, scale

    mine = bring.modules(
        encode,
        lambda z: (z + 1) / 2 @ linear.weight.float().T + linear.bias.float(),
        {"train": x[:30], "selection": x[30:50], "heldout": x[50:]},
        gives="std",
        likelihood=Gaussian(scale=0.3**0.5),
        prior=torch.distributions.Normal(-torch.ones(2), 2 * torch.ones(2)),
        check=False,
    )
    q = zprime.encode(mine.model, mine.rows["heldout"], steps=200).gather()
    mean, scale = linear.posterior(x[50:].double())
    torch.testing.assert_close(q.mean.double(), mean, rtol=0, atol=2e-3)
    torch.testing.assert_close(q.scale.double(), scale, rtol=5e-3, atol=0)


def test_a_run_with_a_model_of_the_users_own_takes_steps(tmp_path: Path) -> None:
    place = own_code.folder(tmp_path / "own")
    own = OwnModel(f"{place / 'mymodel.py'}:build", str(place / "w.pt"))
    job = Run.create(tmp_path / "run", own=own)
    job.bring(DataSettings(str(place / "rows.npz")), seed=0)
    q = job.encode(steps=5)["heldout"].gather()
    mean, scale = own_code.MODEL.posterior(job.folder.rows["heldout"].x.double())
    torch.testing.assert_close(q.mean.double(), mean, rtol=0, atol=1e-4)  # it was exact, and no step is better
    torch.testing.assert_close(q.scale.double(), scale, rtol=1e-4, atol=0)
