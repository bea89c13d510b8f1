"""A file of a user's own for the tests: linear models whose posteriors are known in closed form, and wrong ones."""

from pathlib import Path

import numpy as np
import torch

from oracles import linear_gaussian

MODEL = linear_gaussian(D=5, d=2, var=0.3)
CODE = '''
"""A VAE of a user."""
import pathlib
import torch
from torch import nn

import helper
from zprime.likelihoods import Gaussian

pathlib.Path(__file__).with_name("ran").touch()  # by it a test sees that this file ran
print("this file talks")


class VAE(nn.Module):
    def __init__(self):
        super().__init__()
        self.mean, self.back = nn.Linear(5, 2), nn.Linear(2, 5)
        self.register_buffer("scale", torch.ones(2))
        self.drop = nn.Dropout(0.5)

    def encode(self, x):
        mean = self.drop(self.mean(x))
        return mean, self.scale.expand_as(mean)

    def decode(self, z):
        return self.back(z) * helper.FACTOR


SAYS = {"gives": "std", "likelihood": Gaussian(scale=getattr(helper, "SIGMA", 0.3**0.5))}


def build(weights):
    vae = VAE()
    vae.load_state_dict(weights)
    return {"vae": vae, **SAYS}


def parts(weights):
    vae = build(weights)["vae"]
    return {"encoder": lambda x: vae.encode(x), "decoder": vae.decode, **SAYS}


def named(weights):
    return {**build(weights), "likelihood": "gaussian"}


def wide(weights):
    """The same with z = 2 u - 1."""
    vae = build(weights)["vae"]
    prior = torch.distributions.Normal(-torch.ones(2), 2 * torch.ones(2))
    encode = lambda x: (2 * vae.encode(x)[0] - 1, 2 * vae.encode(x)[1])
    return {"encoder": encode, "decoder": lambda z: vae.decode((z + 1) / 2), "prior": prior, **SAYS}


def two(weights):
    from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal
    parts = Independent(Normal(torch.tensor([[-0.5, 0.0], [0.5, 0.0]]), 1.0), 1)
    return {**build(weights), "prior": MixtureSameFamily(Categorical(torch.ones(2)), parts)}


def student(weights):
    from torch.distributions import Independent, StudentT
    return {**build(weights), "prior": Independent(StudentT(torch.full((2,), 5.0)), 1)}


def bare():
    return VAE()


def raises():
    raise ValueError("no such\\nlayer")


def leaves():
    raise SystemExit(3)


def needs(a, b):
    return None


def nothing():
    return None


def unknown(weights):
    return {**build(weights), "liklihood": "gaussian"}


def silent(weights):
    return build(weights)["vae"]


def half(weights):
    return {"encoder": build(weights)["vae"], **SAYS}


def swapped(weights):
    vae = build(weights)["vae"]
    return {"encoder": lambda x: vae.encode(x)[::-1], "decoder": vae.decode, **SAYS}


def narrow(weights):
    vae = build(weights)["vae"]
    return {"encoder": lambda x: vae.mean(x[:, :3]), "decoder": vae.decode, **SAYS}


def talking(weights):
    return {**build(weights), "prior": lambda c: None}


def beta(weights):
    return {**build(weights), "beta": -1}
'''


def vae_weights() -> dict[str, torch.Tensor]:
    """Of the linear model, for the class in `CODE`."""
    zero, eye = torch.zeros(1, 5).double(), torch.eye(5).double()
    bias = MODEL.posterior(zero)[0]
    return {
        "mean.weight": (MODEL.posterior(eye)[0] - bias).T.float().contiguous(),
        "mean.bias": bias[0].float(),
        "back.weight": MODEL.weight.float().contiguous(),
        "back.bias": MODEL.bias.float(),
        "scale": MODEL.posterior(zero)[1][0].float(),
    }


def folder(path: Path, *, n: int = 150, unseen: int = 80) -> Path:
    """`mymodel.py`, `helper.py`, `w.pt` and `rows.npz` in a folder."""
    path.mkdir(parents=True, exist_ok=True)
    (path / "mymodel.py").write_text(CODE)
    (path / "helper.py").write_text("FACTOR = 1.0\n")
    torch.save(vae_weights(), path / "w.pt")
    x = MODEL.sample(n, seed=0)[0] + torch.where(torch.arange(n) % 2 == 0, 1.0, -1.0)[:, None] * MODEL.weight.sum(1)
    new = MODEL.sample(unseen, seed=1)[0]
    new = new + torch.where(torch.arange(unseen) % 2 == 0, 1.0, -1.0)[:, None] * MODEL.weight.sum(1)
    np.savez(path / "rows.npz", x_train=x.float().numpy(), x_test=new.float().numpy())
    return path
