"""A VAE trained with a prior of its own: its KL, its artefact, and a run that takes it as the base of all gains."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Independent, Normal, StudentT, kl_divergence

import small
from zprime import artifact, vae
from zprime.arrays import standard_kl
from zprime.checkpoints import checkpoint_key
from zprime.data import DataSettings, Rows
from zprime.errors import ArtifactError, UsageError
from zprime.fitting import load_fit
from zprime.latent import Gaussian, Mixture, Prior
from zprime.likelihoods import Gaussian as GaussianLikelihood
from zprime.loading import load as load_generator
from zprime.results.audit import load
from zprime.running import Run, run
from zprime.training import TrainSettings, train
from zprime.vae import VAE, VAESettings

LOC, WIDTH = torch.tensor([3.0, -2.0]), torch.tensor([0.5, 2.0])
OWN = Gaussian(LOC, WIDTH)
TWO = Mixture(torch.tensor([0.5, 0.5]).log(), torch.tensor([[-3.0, 0.0], [3.0, 0.0]]), torch.ones(2, 2))
TRAINING = TrainSettings(epochs=60, batch=32, lr=5e-3)


class Fixed(nn.Module):
    """q(z|x) of one mean and scale for all rows."""

    def __init__(self, mean=(1.0, -1.0)) -> None:
        super().__init__()
        self.mean = nn.Parameter(torch.tensor(mean))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.mean.expand(len(x), 2), torch.tensor([[0.5, 1.5]]).expand(len(x), 2)


def fixed(prior=None, mean=(1.0, -1.0)) -> VAE:
    return VAE(Fixed(mean), nn.Linear(2, 3), GaussianLikelihood(scale=1.0), latents=2, prior=prior)


def test_kl_is_a_closed_form_for_gaussians_of_independent_dimensions_and_unbiased_by_draws_for_others() -> None:
    x, rng = torch.zeros(40_000, 3), torch.Generator().manual_seed(0)
    q = Normal(*(t[0] for t in Fixed()(x[:1])))
    for prior in (None, Prior(2)):
        _, kl = fixed(prior).elbo_terms(x[:3], rng=rng)
        assert torch.equal(kl, standard_kl(*Fixed()(x[:3])).sum(1))
    for prior, p in ((Prior(2, 3.0), Normal(0.0, 3.0)), (OWN, Normal(LOC, WIDTH))):
        _, kl = fixed(prior).elbo_terms(x, rng=rng)
        assert torch.allclose(kl, kl_divergence(q, p).sum().expand_as(kl), atol=1e-4)
    _, kl = fixed(Gaussian(LOC, torch.diag(WIDTH))).elbo_terms(x, rng=rng)  # as a matrix: by draws
    want = float(kl_divergence(q, Normal(LOC, WIDTH)).sum())
    assert float(kl.std()) > 0.1
    assert float(kl.mean()) == pytest.approx(want, abs=4 * float(kl.std()) / 200)
    _, kl = fixed(TWO).elbo_terms(x, rng=rng)
    z = q.sample((40_000,))
    want = (q.log_prob(z).sum(1) - TWO.log_prob(z)).mean()
    assert float(kl.mean()) == pytest.approx(float(want), abs=4 * float(kl.std()) * 2**0.5 / 200)


def test_the_gradient_of_the_kl_reaches_the_encoder() -> None:
    """d/dm KL(N(m, s^2) || p) at m = 1, -1: (m - loc) / width^2, on average over draws."""
    for prior in (OWN, Independent(Normal(LOC, WIDTH), 1)):
        model = fixed(prior)
        model.elbo_terms(torch.zeros(40_000, 3), rng=torch.Generator().manual_seed(0))[1].mean().backward()
        mean = model.encoder.mean
        torch.testing.assert_close(mean.grad, (mean.detach() - LOC) / WIDTH**2, atol=0.05, rtol=0)


def test_draws_that_are_not_finite_are_told_as_a_loss_that_is_not() -> None:
    model = fixed(OWN, mean=(torch.nan, 0.0))
    assert bool(model.elbo_terms(torch.zeros(2, 3), rng=torch.Generator())[1].isnan().all())


def test_a_prior_that_cannot_be_trained_with_is_refused_in_words() -> None:

    for prior, text in (
        (Normal(torch.zeros(2), 1.0), r"got a batch of shape \[2\] of events of shape \[\]; Independent"),
        (Independent(Normal(torch.zeros(3), 1.0), 1), r"of events of shape \[3\]"),
        (Prior(3), "expected 2 latents, as the VAE has, got 3"),
        (Ungraded(), "expected a log-density with a gradient in z, got Ungraded"),
    ):
        with pytest.raises(UsageError, match=text):
            fixed(prior)


class Ungraded(Independent):
    def __init__(self) -> None:
        super().__init__(Normal(torch.zeros(2), 1.0), 1)

    def log_prob(self, value: Tensor) -> Tensor:
        return super().log_prob(value).detach()

    def __repr__(self) -> str:
        return "Ungraded"


def test_a_prior_that_cannot_be_kept_trains_a_vae_but_no_run(tmp_path: Path) -> None:
    heavy = Independent(StudentT(torch.full((2,), 5.0)), 1)
    x = torch.randn(40, 3, generator=torch.Generator().manual_seed(0))
    rows = Rows("train", x, torch.arange(40))
    model = VAE.build((3,), VAESettings(latents=2, hidden=(4,)), prior=heavy)
    assert train(model, rows, rows, TrainSettings(epochs=2)).vae.prior is heavy
    with pytest.raises(UsageError, match="would not be known where it is loaded"):
        Run.create(tmp_path / "run").train(DataSettings("none.npz"), small.NETWORK, seed=0, prior=heavy)


def small_rows() -> Rows:
    return Rows("train", torch.zeros(4, 3), torch.arange(4))


def test_a_checkpoint_is_of_one_prior() -> None:
    rows, settings = small_rows(), VAESettings(latents=2, hidden=(4,))
    keys = [
        checkpoint_key(VAE.build((3,), settings, prior=p), rows, rows, TrainSettings(), seed=0)
        for p in (None, Prior(2), OWN, Gaussian(LOC, 2 * WIDTH), Prior(2, 2.0), Independent(Normal(LOC, WIDTH + 1), 1))
    ]
    assert keys[0] == keys[1]
    assert len(set(keys)) == 5


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, Path]:
    folder = tmp_path_factory.mktemp("prior")
    data = small.table(folder / "t.npz", 200)
    run(
        DataSettings(str(data)),
        folder / "run",
        network=small.NETWORK,
        training=TRAINING,
        prior=OWN,
        kinds=("gaussian", "mixture"),
        auditing=small.AUDIT,
    )
    return Run.open(folder / "run"), data


def test_codes_lie_where_the_prior_is_and_all_that_reads_the_run_knows_it(made: tuple[Run, Path]) -> None:
    job, _ = made
    z = torch.randn(5, 2, generator=torch.Generator().manual_seed(0))
    back = vae.load(job.path / "model")
    for prior in (back.prior, job.folder.prior, job.folder.generative("prior").latent):
        assert torch.equal(prior.log_prob(z), OWN.log_prob(z))
    codes = job.folder.posteriors("train").gather()
    width = (codes.mean.var(0) + codes.scale.square().mean(0)).sqrt()
    torch.testing.assert_close((codes.mean.mean(0) - LOC) / WIDTH, torch.zeros(2), atol=0.7, rtol=0)
    torch.testing.assert_close(width / WIDTH, torch.ones(2), atol=0.5, rtol=0)
    audit = load(job.path / "audit")
    assert audit.prior == "gaussian (diagonal)"
    assert audit.command == ""
    # N(0, I) is a candidate, and a bad one: KL(p || N(0, I)) = 1/2 (LOC^2 + WIDTH^2 - 1 - log WIDTH^2) = 6.6 + 1.8 nats
    assert audit.entry("standard-normal").heldout.elbo.gain.value < -3
    assert audit.entry("prior").heldout.elbo.gain.value == 0
    assert {"gaussian", "mixture"} <= {e.id.name for e in audit.entries}


def test_a_share_of_the_prior_is_one_of_this_prior(made: tuple[Run, Path]) -> None:
    job, _ = made
    r = load_fit(job.path / "latent" / "gaussian").distribution
    z = torch.randn(5, 2, generator=torch.Generator().manual_seed(0)) + LOC
    want = torch.logaddexp(r.log_prob(z) + np.log(0.9), OWN.log_prob(z) + np.log(0.1))
    torch.testing.assert_close(job.folder.generative("gaussian+p10").latent.log_prob(z), want)
    standard = job.folder.generative("standard-normal").latent
    torch.testing.assert_close(standard.log_prob(z), Prior(2).log_prob(z))
    with pytest.raises(UsageError, match="expected one of prior, gaussian, mixture"):
        job.folder.generative("nothing")


@pytest.mark.parametrize("name", ["prior", "gaussian+p10", "standard-normal"])
def test_what_is_shipped_draws_what_the_run_draws(made: tuple[Run, Path], tmp_path: Path, name: str) -> None:
    job, _ = made
    job.export(name, tmp_path / "g", allow_copies=True)
    back, here = load_generator(tmp_path / "g"), job.folder.generative(name)
    z, x = back.sample(7, rng=torch.Generator().manual_seed(1))
    u, y = here.sample(7, rng=torch.Generator().manual_seed(1))
    assert torch.equal(z, u)
    assert torch.equal(x, y)


def test_another_prior_does_not_replace_a_run_unless_told(made: tuple[Run, Path]) -> None:
    job, data = made
    before = (job.path / "model" / "manifest.json").read_bytes()
    again = Run.open(job.path)
    again.train(DataSettings(str(data)), small.NETWORK, TRAINING, seed=0, prior=Gaussian(LOC.clone(), WIDTH.clone()))
    assert (job.path / "model" / "manifest.json").read_bytes() == before
    with pytest.raises(UsageError, match=r"prior gaussian, now N\(0, I\)"):
        again.train(DataSettings(str(data)), small.NETWORK, TRAINING, seed=0)
    with pytest.raises(UsageError, match="made with other settings"):
        again.train(DataSettings(str(data)), small.NETWORK, TRAINING, seed=0, prior=Gaussian(LOC, 2 * WIDTH))
    with pytest.raises(UsageError, match="expected 2 latents, as the posteriors have, got 3"):
        again.train(DataSettings("there-is-none.npz"), small.NETWORK, TRAINING, seed=0, prior=Prior(3))


def test_a_prior_that_was_altered_is_not_loaded(made: tuple[Run, Path], tmp_path: Path) -> None:
    source = artifact.read(made[0].path / "model")
    tensors = source.tensors()
    for name, change, text in (
        ("kind", {"prior": {"kind": "no-such", "config": {}}}, "no-such"),
        ("gone", {"prior": {"kind": "gaussian"}}, "prior"),
        ("flat", {"prior": {"kind": "prior", "config": {"dim": 3, "tau": 2.0}}}, "2 dimensions, as the VAE has"),
    ):
        manifest = artifact.Manifest("model", {**source.config, **change}, source.key, source.seed, source.inputs)
        kept = tensors if name != "flat" else {k: v for k, v in tensors.items() if not k.startswith("prior.")}
        artifact.write(tmp_path / name, manifest, tensors=kept)
        with pytest.raises(ArtifactError, match=text):
            vae.load(tmp_path / name)
    assert "prior" in source.config
    assert any(k.startswith("prior.") for k in tensors)


def test_of_n_0_i_nothing_is_kept(tmp_path: Path) -> None:
    job = Run.create(tmp_path / "run")
    job.train(DataSettings(str(small.table(tmp_path / "t.npz"))), small.NETWORK, small.TRAINING, seed=0, prior=Prior(2))
    source = artifact.read(job.path / "model")
    assert "prior" not in source.config
    assert not any(k.startswith("prior.") for k in source.tensors())
    assert job.folder.prior == Prior(2)
    job.train(DataSettings(str(tmp_path / "t.npz")), small.NETWORK, small.TRAINING, seed=0)  # the same training
