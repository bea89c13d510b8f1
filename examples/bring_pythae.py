"""A VAE trained by pythae, audited beside pythae's own samplers: python examples/bring_pythae.py

10,000 images of Fashion-MNIST, 16 latents. pythae's mixture and flow have densities, which its samplers do not show:
they are taken out of them and measured like any other candidate. Its two-stage sampler has draws alone.
"""

import logging
import os
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

os.environ["TQDM_DISABLE"] = "1"

import numpy as np
import torch
from pythae.models import IWAE, VAE, VAMP, BetaVAE, BetaVAEConfig, IWAEConfig, VAEConfig, VAMPConfig
from pythae.pipelines import TrainingPipeline
from pythae.samplers import (
    GaussianMixtureSampler,
    GaussianMixtureSamplerConfig,
    MAFSampler,
    TwoStageVAESampler,
    TwoStageVAESamplerConfig,
)
from pythae.trainers import BaseTrainerConfig
from table import written
from torch import Tensor

import zprime
from zprime import bring
from zprime.arrays import standard_log_prob
from zprime.components import Tilted
from zprime.distribution import LatentDistribution
from zprime.latent import Mixture
from zprime.results.names import CandidateId

logging.disable(logging.INFO)
FASHION, LATENTS, TRAIN = "/usr/share/datasets/fashion-mnist", 16, 10_000
EPOCHS = {"vae": 20, "sampler": 10, "digits": 50}
WATCHED = 500  # rows that pythae's trainers look at after every epoch
AUDIT = zprime.AuditSettings(rows=500, draws=400, simulated=0)


@dataclass(frozen=True, repr=False, eq=False)
class Theirs(LatentDistribution):
    """A sampler of pythae: its draws, its density where it has one, and the numbers that it keeps."""

    name: str
    draw: Callable[[int], Tensor]
    log_r: Callable[[Tensor], Tensor] | None
    kept: Mapping[str, Tensor]
    same: LatentDistribution | None = None  # one of zprime's that it equals, for what has a closed form

    @property
    def d(self) -> int:
        return LATENTS

    @property
    def density(self) -> str:
        return "none" if self.log_r is None else "exact"

    @property
    def label(self) -> str:
        return f"pythae's {self.name}"

    @torch.no_grad()
    def log_prob(self, z: Tensor) -> Tensor:
        assert self.log_r is not None
        return self.log_r(z).double()

    @torch.no_grad()
    def sample(self, n: int, *, rng: torch.Generator) -> Tensor:
        with torch.random.fork_rng():
            np.random.seed(rng.initial_seed() % 2**32)  # scikit-learn's mixture draws from numpy's
            torch.manual_seed(rng.initial_seed())
            return self.draw(n).detach()

    def tilt(self, mean: Tensor, scale: Tensor, **how: Any) -> Tilted | None:
        return None if self.same is None else self.same.tilt(mean, scale, **how)

    def tensors(self) -> dict[str, Tensor]:
        return dict(self.kept)

    def config(self) -> dict[str, Any]:
        return {}

    @classmethod
    def rebuild(cls, config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> LatentDistribution:
        raise NotImplementedError


def mixture(model: VAE, x: Tensor) -> LatentDistribution:
    """Its 10 Gaussians, fitted by scikit-learn to one draw a row."""
    sampler = GaussianMixtureSampler(model, GaussianMixtureSamplerConfig(n_components=10))
    sampler.fit(x)
    g = sampler.gmm
    weight, mean, covariance = (torch.from_numpy(a) for a in (g.weights_, g.means_, g.covariances_))
    same = Mixture(weight.log(), mean, torch.linalg.cholesky(covariance))
    return Theirs(same.label, lambda n: torch.from_numpy(g.sample(n)[0]), same.log_prob, same.tensors(), same)


def maf(model: VAE, x: Tensor, held: Tensor, folder: str) -> LatentDistribution:
    """Its autoregressive flow: log r(z) by the change of variables."""
    sampler = MAFSampler(model)
    sampler.fit(x, held[:WATCHED], training_config=trainer(folder, EPOCHS["sampler"]))
    flow = sampler.maf_model.eval()

    def log_r(z: Tensor) -> Tensor:
        out = flow(z.float())
        return standard_log_prob(out.out) + out.log_abs_det_jac

    def draw(n: int) -> Tensor:
        return flow.inverse(torch.randn(n, LATENTS)).out

    return Theirs("MAF", draw, log_r, flow.state_dict())


def two_stage(model: VAE, x: Tensor, held: Tensor, folder: str) -> LatentDistribution:
    """Its second VAE on the codes: draws alone."""
    sampler = TwoStageVAESampler(model, TwoStageVAESamplerConfig(reconstruction_loss="mse"))
    sampler.fit(x, held[:WATCHED], training_config=trainer(folder, EPOCHS["sampler"]))
    second = sampler.second_vae.eval()

    def draw(n: int) -> Tensor:
        return second.decoder(torch.randn(n, LATENTS)).reconstruction

    return Theirs("two-stage", draw, None, second.decoder.state_dict())


def trainer(folder: str, epochs: int) -> BaseTrainerConfig:
    """Settings of pythae's trainer."""
    return BaseTrainerConfig(
        output_dir=folder, num_epochs=epochs, learning_rate=1e-3, per_device_train_batch_size=100, no_cuda=True
    )


def trained(model: VAE, x: Tensor, held: Tensor, folder: str, epochs: int) -> VAE:
    """The same, trained by pythae."""
    TrainingPipeline(model=model, training_config=trainer(folder, epochs))(train_data=x, eval_data=held[:WATCHED])
    return model


def samplers(folder: str) -> None:
    """One VAE, zprime's kinds and pythae's samplers on the same held-out rows."""
    data = zprime.load_data(zprime.DataSettings(FASHION, limit=TRAIN), seed=0)
    x = {s: data.rows(s).x for s in ("train", "selection", "heldout")}
    torch.manual_seed(0)
    config = VAEConfig(input_dim=(1, 28, 28), latent_dim=LATENTS, reconstruction_loss="bce")
    model = trained(VAE(config), x["train"], x["selection"], folder, EPOCHS["vae"])

    mine = bring.pythae(model, x)
    fits: dict[str, Any] = {}
    seconds: dict[str, float] = {}
    own = {k: lambda k=k: zprime.fit(k, **mine.splits) for k in ("gaussian", "mixture", "aggregated")}
    theirs = {
        "pythae's mixture": lambda: mixture(model, x["train"]),
        "pythae's MAF": lambda: maf(model, x["train"], x["selection"], folder),
        "pythae's two-stage": lambda: two_stage(model, x["train"], x["selection"], folder),
    }
    for name, make in {**own, **theirs}.items():
        start = time.process_time()
        fits[name] = make()
        seconds[name] = time.process_time() - start
    audit = zprime.audit(fits, mine.posteriors, model=mine.model, rows=mine.rows, settings=AUDIT)

    print(f"\n# {TRAIN:,} images of Fashion-MNIST; {AUDIT.rows} held-out rows, {AUDIT.draws} draws, seed 0\n")
    print("\n".join(f"- {s}" for s in mine.says), "\n")
    print(written(audit))
    print("\n| draws z′ from | fit, CPU s | classifier tells them from held-out codes | MMD² to held-out codes, p |")
    print("| --- | --- | --- | --- |")
    for name, t in audit.latents.two_sample.items():
        fit = CandidateId.parse(name).name
        took = f"{seconds[fit]:.1f}" if fit in seconds else "–"
        print(f"| {name} | {took} | {t.c2st.accuracy.value:.1%} | {t.mmd.squared.value:.4f}, {t.mmd.p_value:.3f} |")
    print(f"\nVerdict: {audit.verdict.sentence}")


def models(folder: str) -> None:
    """A beta-VAE, an IWAE and a VampPrior VAE on scikit-learn's digits."""
    data = zprime.load_data(zprime.DataSettings("digits"), seed=0)
    x = {s: data.rows(s).x for s in ("train", "selection", "heldout")}
    shape = {"input_dim": (1, 8, 8), "latent_dim": 6, "reconstruction_loss": "bce"}
    for made in (
        lambda: BetaVAE(BetaVAEConfig(beta=2.0, **shape)),
        lambda: IWAE(IWAEConfig(number_samples=5, **shape)),
        lambda: VAMP(VAMPConfig(number_components=30, **shape)),
    ):
        torch.manual_seed(0)
        model = trained(made(), x["train"], x["selection"], folder, EPOCHS["digits"])
        mine = bring.pythae(model, x)
        fits: dict[str, Any] = {k: zprime.fit(k, **mine.splits) for k in ("gaussian", "mixture")}
        audit = zprime.audit(fits, mine.posteriors, model=mine.model, rows=mine.rows, prior=mine.prior, settings=AUDIT)
        print(f"\n# {model.model_name} on scikit-learn's digits\n")
        print("\n".join(f"- {s}" for s in mine.says), "\n")
        print(written(audit))
        print(f"\nVerdict: {audit.verdict.sentence}")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        samplers(folder)
        models(folder)
