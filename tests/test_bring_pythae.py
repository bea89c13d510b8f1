"""VAEs of pythae: what the adapter answers is what its own losses compute. Skipped where it is not installed."""

import copy
import logging
import math

import pytest
import torch
from torch.nn import functional as F

pytest.importorskip("pythae")
from pythae import models
from pythae.models.base.base_utils import ModelOutput
from pythae.trainers import BaseTrainer, BaseTrainerConfig
from sklearn.datasets import load_digits

from docpages import run_page
from zprime import audit, fit, sample
from zprime.bring import pythae
from zprime.bring.pythae_vae import TRAINED
from zprime.errors import ArrayError, UsageError
from zprime.latent import Vamp
from zprime.results.audit import AuditSettings
from zprime.results.names import Gain

SMALL = AuditSettings(rows=60, draws=80, grid=4, map=10, simulated=0)
NAMES = {"IWAE": {"number_samples": 3}, "BetaVAE": {"beta": 4.0}, "VAMP": {"number_components": 7}}
X = torch.from_numpy(load_digits().images / 16).float()[:, None]
DATA = {"train": X[:900], "heldout": X[900:1300]}


def model(name: str, **settings) -> models.VAE:
    config = f"{name}_Config" if hasattr(models, f"{name}_Config") else f"{name}Config"
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = getattr(models, name)(
            getattr(models, config)(input_dim=(1, 8, 8), latent_dim=3, **NAMES.get(name, {}), **settings)
        )
    return made.eval()


@pytest.mark.parametrize("loss", ["bce", "mse"])
@pytest.mark.parametrize("name", [n for n in TRAINED if n not in ("IWAE", "MIWAE", "CIWAE", "PIWAE")])
def test_encoder_and_decoder_are_those_of_pythae_s_own_loss(name: str, loss: str) -> None:
    """Its z is ours with its noise; its reconstruction loss is our -log p(x|z) at that z, up to known constants."""
    theirs = model(name, reconstruction_loss=loss)
    ours = pythae(theirs, DATA).model
    assert ours is not None
    x = DATA["train"][:50]
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(3)
        out = theirs({"data": x})
        torch.manual_seed(3)
        if name == "FactorVAE":  # which encodes half of its rows, in an order of its own
            torch.randperm(len(x))
            x = x[out.recon_x_indices]
        mean, scale = ours.encode(x)
        torch.testing.assert_close(mean + scale * torch.randn_like(scale), out.z)
        log_x = ours.decode(out.z).log_prob(x)
    beta = 4.0 if name == "BetaVAE" else 1.0
    var = beta if loss == "mse" else 1.0
    constant = 32 * math.log(2 * math.pi * var) if loss == "mse" else 0.0
    torch.testing.assert_close(-var * (log_x + constant).mean(), out.recon_loss, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["IWAE", "MIWAE", "CIWAE", "PIWAE"])
def test_encoder_and_decoder_of_importance_weighted_models(name: str) -> None:
    theirs = model(name, reconstruction_loss="bce")
    ours = pythae(theirs, DATA)
    assert "importance-weighted bound" in ours.says[-1]
    x = DATA["train"][:5]
    with torch.no_grad():
        out = theirs.encoder(x)
        mean, scale = ours.model.encode(x)
        torch.testing.assert_close(mean, out.embedding)
        torch.testing.assert_close(scale, (out.log_covariance / 2).exp())
        recon = theirs.decoder(mean).reconstruction
        expected = -F.binary_cross_entropy(recon, x, reduction="none").sum((1, 2, 3))
        torch.testing.assert_close(ours.model.decode(mean).log_prob(x), expected)


def test_mse_with_beta_is_beta_times_the_elbo_of_a_gaussian_of_variance_beta() -> None:
    theirs = model("BetaVAE", reconstruction_loss="mse")
    ours = pythae(theirs, DATA)
    x = DATA["train"][:20]
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        out = theirs({"data": x})
        mean, scale = ours.model.encode(x)
        kl = (0.5 * (mean**2 + scale**2 - 1) - scale.log()).sum(1)
        elbo = ours.model.decode(out.z).log_prob(x) - kl
    torch.testing.assert_close(out.loss, -4 * (elbo + 32 * math.log(2 * math.pi * 4)).mean(), rtol=1e-4, atol=1e-3)
    assert "variance 4" in ours.says[0]
    assert "neither bound nor estimate" in pythae(model("BetaVAE", reconstruction_loss="bce"), DATA).says[1]


def test_the_trained_vampprior_is_the_prior_of_pythae_s_loss() -> None:
    theirs = model("VAMP", reconstruction_loss="bce")
    ours = pythae(theirs, DATA)
    assert isinstance(ours.prior, Vamp)
    assert not ours.prior.holds_rows
    z = torch.randn(40, 3, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        own = theirs._log_p_z(z).double() - 1.5 * math.log(2 * math.pi)
    torch.testing.assert_close(ours.prior.log_prob(z), own, rtol=1e-5, atol=1e-4)
    assert pythae(model("VAE"), DATA).prior is None


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A VAE with which pythae's trainer has done all it does."""
    logging.getLogger("pythae").setLevel(logging.ERROR)
    out = model("VAE", reconstruction_loss="bce")
    settings = BaseTrainerConfig(
        output_dir=str(tmp_path_factory.mktemp("pythae")), num_epochs=15, learning_rate=2e-3, no_cuda=True
    )
    with torch.random.fork_rng():
        BaseTrainer(out, [ModelOutput(data=x) for x in DATA["train"]], training_config=settings).train()
    return out


def test_a_trained_model_is_audited_and_sampled_from(trained) -> None:
    before = torch.random.get_rng_state()
    mine = pythae(trained, {s: x.double().numpy() for s, x in DATA.items()})
    fits = {k: fit(k, **mine.splits) for k in ("gaussian", "mixture")}
    found = audit(fits, mine.posteriors, model=mine.model, rows=mine.rows, settings=SMALL)
    assert found.entry("mixture").heldout.measured == list(Gain)
    assert found.images
    z, x = sample(mine.generator(fits["mixture"].distribution), 10)
    assert (z.shape, x.shape) == ((10, 3), (10, 1, 8, 8))
    assert 0 <= float(x.min()) <= float(x.max()) <= 1
    assert torch.equal(torch.random.get_rng_state(), before)


def test_what_cannot_be_brought_is_said(trained) -> None:
    with pytest.raises(UsageError, match=r"whose q\(z\|x\) is a diagonal Gaussian .*, got VAE_IAF"):
        pythae(model("VAE_IAF"), DATA)
    odd = model("VAE")
    odd.model_config.reconstruction_loss = "huber"
    with pytest.raises(UsageError, match="bce or mse, got 'huber'"):
        pythae(odd, DATA)
    flat = {s: x.flatten(1) for s, x in DATA.items()}
    with pytest.raises(ArrayError, match=r"of shape \[64\], as the rows are, got \[1, 8, 8\]"):
        pythae(trained, flat)


class Own(torch.nn.Module):
    """An encoder that is not pythae's, and writes its scale as it likes."""

    def __init__(self, encoder: torch.nn.Module, write) -> None:
        super().__init__()
        self.encoder, self.write = encoder, write

    def forward(self, x):
        out = self.encoder(x)
        return ModelOutput(embedding=out.embedding, log_covariance=self.write(out.log_covariance))


@pytest.mark.parametrize(
    ("write", "is_"), [(lambda v: 0.5 * v, "log-std"), (lambda v: (0.5 * v).exp(), "std"), (torch.exp, "variance")]
)
def test_an_encoder_of_ones_own_that_gives_no_log_variance_is_refused(trained, write, is_) -> None:
    right = copy.copy(trained)
    right._modules = {**trained._modules, "encoder": Own(trained.encoder, lambda v: v)}
    torch.testing.assert_close(
        pythae(right, DATA).posteriors["train"].gather().scale, pythae(trained, DATA).posteriors["train"].gather().scale
    )
    wrong = copy.copy(trained)
    wrong._modules = {**trained._modules, "encoder": Own(trained.encoder, write)}
    with pytest.raises(UsageError, match=rf"read as log-variance, the ELBO .*bring.modules with gives='{is_}'"):
        pythae(wrong, DATA)
    pythae(wrong, DATA, check=False)


def test_the_page_runs() -> None:
    found = run_page("bring/pythae.md", model=model("VAE"), x_train=DATA["train"][:200], x_heldout=DATA["heldout"][:80])
    assert {e.name for e in found["audit"].entries} > {"prior", "mixture"}  # type: ignore[attr-defined]
