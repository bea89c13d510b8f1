"""What is exported: r(z) as a function of random numbers, the same in NumPy, and a folder that anyone can draw from."""

import ast
import importlib.util
import json
import logging
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file
from torch.distributions import Categorical, MixtureSameFamily, MultivariateNormal

from test_sampling import Identity, aggregated, mixture
from zoo import ZOO, posteriors
from zprime import artifact
from zprime.components import Diagonal
from zprime.distribution import LatentDistribution
from zprime.errors import UsageError
from zprime.exporting import FromNoise, from_noise, numpy_sampler
from zprime.latent import Affine, Defensive, Exemplars, Gaussian, Mixture, Prior
from zprime.rng import stream
from zprime.sampling import GenerativeModel

D, N = 4, 500
REFUSED = {
    "flow",
    "flow-maf",
    "flow-matching",
    "resampled-energy",
    "resampled-rejection",
    "two-stage",
    "shared-nuts",
}
"""What is no mixture of Gaussians."""


def low_rank() -> Mixture:
    rng = stream(0, "low rank")
    mean, scale = torch.randn(3, D, generator=rng), 0.3 + torch.rand(3, D, generator=rng)
    return Mixture(torch.tensor([0.5, 0.2, 0.3]).log(), mean, scale, 9.0, torch.randn(3, D, 2, generator=rng))


MORE: dict[str, LatentDistribution] = {
    "low-rank": low_rank(),
    "defensive-low-rank": Defensive(low_rank(), 0.2),
    "defensive-gaussian": Defensive(Gaussian(torch.ones(D), torch.eye(D) + 0.5 * torch.ones(D, D).tril()), 0.1),
    "defensive-exemplars-full": Defensive(ZOO["exemplars-full"](D, torch.float32), 0.1),
    "other-prior": Defensive(low_rank(), 0.2, Gaussian(torch.ones(D), torch.full((D,), 2.0))),
    "affine-defensive": Affine(Defensive(low_rank(), 0.2), torch.arange(4.0).double(), torch.ones(D).double() * 3),
    "affine-matrix": Affine(Defensive(low_rank(), 0.2), torch.zeros(D).double(), (torch.eye(D) + 0.3).tril().double()),
    "exemplars-one": Exemplars(torch.randn(9, D), torch.ones(9, D), torch.zeros(D), torch.eye(D), 1.0),
}


def of(name: str) -> LatentDistribution:
    return MORE[name] if name in MORE else ZOO[name](D, torch.float32)


KINDS = [*(name for name in ZOO if name not in REFUSED), *MORE]


def noise(drawn: FromNoise, n: int = N) -> tuple[torch.Tensor, torch.Tensor]:
    rng = stream(0, "noise")
    return torch.rand(n, generator=rng, dtype=torch.float64), torch.randn(n, drawn.columns, generator=rng)


def law(drawn: FromNoise) -> MixtureSameFamily:
    """The distribution of z' that the map has by its definition."""
    weight = drawn.cumulative.diff(prepend=torch.zeros(1, dtype=torch.float64))
    covariance = torch.diag_embed(drawn.scale.double().square())
    if drawn.factor is not None and drawn.which is not None:
        spread = drawn.factor.double() @ drawn.factor.double().mT
        has = drawn.which >= 0
        covariance[has] += spread[drawn.which[has]]
    return MixtureSameFamily(Categorical(weight), MultivariateNormal(drawn.mean.double(), covariance))


@pytest.mark.parametrize("name", KINDS)
def test_the_map_has_the_density_of_the_distribution(name: str) -> None:
    r = of(name)
    z = r.sample(50, rng=stream(0, "z"))
    torch.testing.assert_close(law(from_noise(r)).log_prob(z.double()), r.log_prob(z), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", KINDS)
def test_numpy_and_torch_make_the_same_z_of_the_same_noise(name: str, tmp_path: Path) -> None:
    drawn = from_noise(of(name))
    uniform, normal = noise(drawn)
    (tmp_path / "r").write_bytes(artifact.pack(drawn.tensors()))
    z = numpy_sampler.from_noise(numpy_sampler.load(tmp_path / "r"), uniform.numpy(), normal.numpy())
    assert z.dtype == np.float32
    np.testing.assert_allclose(z, drawn(uniform, normal).numpy(), rtol=1e-5, atol=1e-5)


def test_the_map_makes_the_draws_that_zprime_makes() -> None:
    """For every form of components whose draws are in the order of their random numbers."""
    zoo = (mixture(), aggregated(), low_rank(), ZOO["exemplars"](D, torch.float32), of("exemplars-full"))
    for r in zoo:
        drawn = from_noise(r)
        rng = stream(0, "draws")
        uniform = torch.rand(N, generator=rng, dtype=torch.float64)
        first, second = r.d, drawn.columns - r.d
        if isinstance(r, Mixture) and r.factor is not None:  # there the factors' numbers are drawn first
            f = torch.randn(N, second, generator=rng)
            normal = torch.cat([torch.randn(N, first, generator=rng), f], 1)
        else:
            normal = torch.cat([torch.randn(N, c, generator=rng) for c in (first, second) if c], 1)
        torch.testing.assert_close(drawn(uniform, normal), r.sample(N, rng=stream(0, "draws")), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_what_is_no_mixture_of_gaussians_says_so(name: str) -> None:
    with pytest.raises(UsageError, match=r"export: .* is neither a Gaussian nor a mixture of Gaussians.*take another"):
        from_noise(ZOO[name](D, torch.float32))


def test_uniform_numbers_pick_components_by_their_weights() -> None:
    """Component k for u in [w_0 + ... + w_k-1, w_0 + ... + w_k); one of weight zero is never picked."""
    mean = torch.arange(4.0)[:, None]
    weight = torch.tensor([0.25, 0.0, 0.5, 0.25], dtype=torch.float64)
    drawn = from_noise(Mixture(weight.log(), mean, torch.full((4, 1), 1e-9)))
    u = torch.tensor([0.0, 0.2499, 0.25, 0.7499, 0.75, 1 - 2**-53], dtype=torch.float64)
    picked = [0.0, 0.0, 2.0, 2.0, 3.0, 3.0]
    zero = torch.zeros(6, 1)
    assert drawn(u, zero).flatten().tolist() == picked
    arrays = {k: v.numpy() for k, v in drawn.tensors().items()}
    assert numpy_sampler.from_noise(arrays, u.numpy(), zero.numpy()).flatten().tolist() == picked
    last = from_noise(Mixture(torch.tensor([0.3, 0.7, 0.0]).log(), mean[:3], torch.ones(3, 1)))
    assert last(u[-1:], zero[:1]).item() == 1


def test_factors_take_no_more_room_than_the_distribution_has() -> None:
    """Not one for every exemplar, where the kernel is one for all; none for the share of the prior."""
    drawn = from_noise(MORE["defensive-exemplars-full"])
    assert drawn.factor is not None
    assert drawn.factor.shape == (1, D, D)
    assert drawn.which is not None
    assert drawn.which.tolist() == [0] * (len(drawn.mean) - 1) + [-1]
    assert isinstance(Prior(D).components, Diagonal)
    assert from_noise(Defensive(mixture(), 0.1)).tensors().keys() == {"cumulative", "mean", "scale"}


def test_arrays_are_read_as_safetensors_writes_them(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    arrays = {"a": rng.normal(size=(3, 2)).astype(np.float32), "b": rng.normal(size=5), "c": np.arange(4)}
    save_file(arrays, tmp_path / "r")
    found = numpy_sampler.load(tmp_path / "r")
    for name, array in load_file(tmp_path / "r").items():
        assert found[name].dtype == array.dtype
        np.testing.assert_array_equal(found[name], array)


def model(latent: LatentDistribution, copying: str = "passes") -> GenerativeModel:
    return GenerativeModel(latent, Identity(), torch.zeros(()), torch.ones(()), copying=copying)


def sampler(folder: Path) -> Any:
    spec = importlib.util.spec_from_file_location("exported", folder / "sample.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_folder_draws_with_numpy_alone(tmp_path: Path) -> None:
    found = model(low_rank()).export(tmp_path / "out")
    assert {f.name for f in found.path.iterdir()} == {
        "README.md",
        "latent.json",
        "latent.safetensors",
        "manifest.json",
        "sample.py",
    }
    imported = {
        name.split(".")[0]
        for node in ast.walk(ast.parse((found.path / "sample.py").read_text()))
        for name in (
            [a.name for a in node.names]
            if isinstance(node, ast.Import)
            else [str(node.module)]
            if isinstance(node, ast.ImportFrom)
            else []
        )
    }
    assert imported == {"json", "sys", "pathlib", "typing", "numpy"}
    subprocess.run([sys.executable, "sample.py", "7", "3"], cwd=found.path, check=True)
    z = np.load(found.path / "z.npy")
    rng = np.random.default_rng(3)
    uniform, normal = rng.random(7), rng.standard_normal((7, D + 2), dtype=np.float32)
    said = from_noise(low_rank())(torch.from_numpy(uniform), torch.from_numpy(normal))
    np.testing.assert_allclose(z, said.numpy(), rtol=1e-5, atol=1e-5)
    exported = sampler(found.path)
    np.testing.assert_array_equal(exported.sample(7, seed=3), z)
    assert not np.array_equal(exported.sample(7), z)


def test_draws_of_the_folder_have_the_moments_of_the_distribution(tmp_path: Path) -> None:
    p = posteriors(D, torch.float32)
    found = model(ZOO["aggregated"](D, torch.float32)).export(tmp_path / "out", allow_rows=True)
    z = torch.from_numpy(sampler(found.path).sample(100_000, seed=1)).double()
    variance = (p.mean.double().square() + p.scale.double().square()).mean(0) - p.mean.double().mean(0).square()
    assert torch.all((z.mean(0) - p.mean.double().mean(0)).abs() < 5 * (variance / len(z)).sqrt())
    torch.testing.assert_close(z.var(0), variance, rtol=0.03, atol=0)


def test_the_folder_says_what_it_draws_from(tmp_path: Path) -> None:
    made = model(replace(low_rank(), least_rows=12.9))
    found = made.export(tmp_path / "out")
    said = json.loads((found.path / "latent.json").read_text())
    assert said == found.config
    assert said["kind"] == "mixture"
    assert said["label"] == "mixture(3, rank 2)"
    assert (said["d"], said["components"], said["columns"]) == (D, 3, D + 2)
    assert said["copying"] == "passes"
    assert said["unfit_to_publish"] is False
    assert said["holds_training_rows"] is False
    assert said["least_rows"] == 12.9
    assert said["random"]["uniform"] == "rng.random(n) of rng = numpy.random.default_rng(seed)"
    page = (found.path / "README.md").read_text()
    assert made.says() in page
    assert "python sample.py 100 0 z.npy" in page
    assert len(page.splitlines()) <= 12


def test_copies_and_stored_rows_are_exported_only_where_that_is_allowed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    out = tmp_path / "out"
    with pytest.raises(UsageError, match="its samples copy training rows"):
        model(low_rank(), "copies").export(out)
    with pytest.raises(UsageError, match="it stores functions of single training rows"):
        model(aggregated()).export(out, allow_copies=True)
    assert not out.exists()
    assert model(low_rank(), "copies").export(out, allow_copies=True).config["unfit_to_publish"] is True
    assert model(aggregated()).export(out, allow_rows=True).config["holds_training_rows"] is True
    with caplog.at_level(logging.WARNING, "zprime"):
        model(low_rank(), "untested").export(out)
    assert "no audit has cleared its samples" in caplog.text


def test_only_an_earlier_export_is_replaced(tmp_path: Path) -> None:
    out = tmp_path / "out"
    model(low_rank()).export(out)
    assert model(Prior(D)).export(out).config["kind"] == "prior"
    low_rank().save(tmp_path / "latent")
    with pytest.raises(UsageError, match="there lies an artefact of kind latent/mixture, which would be lost"):
        model(low_rank()).export(tmp_path / "latent")
    assert artifact.read(tmp_path / "latent").kind == "latent/mixture"
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes").write_text("mine")
    with pytest.raises(UsageError, match="holds files that zprime did not write"):
        model(low_rank()).export(tmp_path / "mine")
    assert [f.name for f in (tmp_path / "mine").iterdir()] == ["notes"]
