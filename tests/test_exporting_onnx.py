"""One ONNX file: onnxruntime makes what torch makes of the same random numbers; what cannot be written says why."""

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, Normal

from docpages import ROOT, blocks
from test_exporting import MORE, law, noise
from test_sampling import Identity, mixture
from zprime import bring, exporting
from zprime.distribution import LatentDistribution
from zprime.errors import UsageError
from zprime.exporting import FromNoise, from_noise
from zprime.exporting.onnx_file import OPERATOR
from zprime.latent import Defensive, Gaussian, Prior
from zprime.rng import stream
from zprime.sampling import GenerativeModel
from zprime.vae import VAE, VAESettings

MISSING = [name for name in ("onnx", "onnxscript", "onnxruntime") if importlib.util.find_spec(name) is None]
needs_onnx = pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)} (pip install zprime[onnx])")


def run(content: bytes, drawn: FromNoise, n: int) -> tuple[np.ndarray, np.ndarray, Tensor]:
    """x' and z' by onnxruntime, and z' by torch, of the same random numbers."""
    import onnxruntime

    uniform, normal = noise(drawn, n)
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    x, z = session.run(["x", "z"], {"uniform": uniform.numpy(), "normal": normal.numpy()})
    return x, z, drawn(uniform, normal)


def vae(shape: tuple[int, ...], network: str, likelihood: str) -> VAE:
    settings = VAESettings(latents=4, network=network, likelihood=likelihood, hidden=(16,), width=4)
    return VAE.build(shape, settings, seed=1).eval()


@needs_onnx
def test_a_decoder_of_convolutions_is_written_in_few_operations() -> None:
    """Not as the sums of planes by which it is fast in torch."""
    import onnx

    unit = torch.zeros(1, 8, 8), torch.ones(1, 8, 8)
    drawn = from_noise(Gaussian(torch.zeros(4), torch.ones(4)))
    whole = onnx.load_from_string(exporting.to_onnx(drawn, vae((1, 8, 8), "conv", "bernoulli"), *unit))
    assert {node.op_type for node in whole.graph.node}.isdisjoint({"ScatterND", "ScatterElements"})
    assert len(whole.graph.node) < 40


@needs_onnx
@pytest.mark.parametrize(
    ("network", "likelihood", "latent"),
    [
        ("mlp", "gaussian", MORE["defensive-low-rank"]),
        ("conv", "bernoulli", MORE["defensive-exemplars-full"]),
        ("mlp", "bernoulli", MORE["exemplars-one"]),
    ],
    ids=["mlp", "conv", "one factor"],
)
def test_onnx_makes_what_torch_makes(network: str, likelihood: str, latent: LatentDistribution, tmp_path: Path) -> None:
    """Pictures of the digits' size, in units of 0 to 16; any number of draws."""
    decoder = vae((1, 8, 8), network, likelihood)
    shift, scale = torch.full((1, 8, 8), 3.0), torch.full((1, 8, 8), 16.0)
    made = GenerativeModel(latent, decoder, shift, scale, (1, 8, 8), "passes").export(
        tmp_path / "out", onnx=True, allow_rows=True
    )
    content = (made.path / "generator.onnx").read_bytes()
    for n in (1, 7):
        x, z, wanted = run(content, from_noise(latent), n)
        np.testing.assert_allclose(z, wanted.numpy(), rtol=1e-5, atol=1e-5)
        with torch.no_grad():
            of_torch = 16 * decoder.decode(wanted).mean + 3
        assert x.dtype == np.float32
        assert x.shape == (n, 1, 8, 8)
        np.testing.assert_allclose(x, of_torch.numpy(), rtol=1e-5, atol=1e-5 * 16)
    assert "`generator.onnx` takes `uniform`" in (made.path / "README.md").read_text()


@needs_onnx
def test_the_block_of_the_docs_runs_beside_an_exported_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is marked as text, since it takes the file; a latent with factors has more columns than dimensions."""
    page = ROOT / "docs" / "publishing.md"
    (block,) = [text for _, language, text in blocks(page) if language == "text" and "onnxruntime" in text]
    latent = MORE["defensive-low-rank"]
    made = GenerativeModel(
        latent, vae((1, 8, 8), "mlp", "gaussian"), torch.zeros(1, 8, 8), torch.ones(1, 8, 8), (1, 8, 8), "passes"
    )
    made.export(tmp_path / "demo-export", onnx=True, allow_rows=True)
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    exec(compile(block, "publishing.md", "exec"), names)
    assert names["columns"] == from_noise(latent).columns > latent.d
    assert np.shape(names["x"]) == (64, 1, 8, 8)
    assert np.shape(names["z"]) == (64, latent.d)


@needs_onnx
def test_a_decoder_of_probabilities_is_exported() -> None:
    """Their check is left out there: a branch on values cannot be traced."""
    torch.manual_seed(0)
    net, bits = nn.Sequential(nn.Linear(2, 5), nn.Sigmoid()), (torch.rand(120, 5) > 0.5).float()
    mine = bring.modules(
        lambda x: (x[:, :2], torch.zeros(len(x), 2)),
        net,
        {"train": bits[:80] + 0.01 * torch.rand(80, 1) * (1 - bits[:80]), "heldout": bits[80:]},
        gives="log-variance",
        likelihood="bernoulli-probs",
        check=False,
    )
    r = Gaussian(torch.ones(2), torch.ones(2))
    generator = mine.generator(r, copying="passes")
    content = exporting.to_onnx(from_noise(r), generator.decoder, generator.shift, generator.scale)
    found, _, u = run(content, from_noise(r), 9)
    np.testing.assert_allclose(found, net(u).detach().numpy(), rtol=1e-5, atol=1e-5)


@needs_onnx
def test_a_brought_decoder_in_other_coordinates_is_exported_without_its_encoder(tmp_path: Path) -> None:
    """The prior is a Gaussian of other units; the decoder is a closure, and its distribution checks its values."""
    import onnx

    torch.manual_seed(0)
    x = torch.randn(120, 5)
    body, head = nn.Sequential(nn.Linear(5, 37), nn.Tanh(), nn.Linear(37, 4)), nn.Linear(2, 5)
    mine = bring.modules(
        lambda x: body(x).chunk(2, 1),
        lambda z: Independent(Normal(head(z), 1.0), 1),
        {"train": x[:80], "heldout": x[80:]},
        gives="log-variance",
        prior=Normal(torch.tensor([1.0, 0.0]), torch.tensor([2.0, 3.0])),
        check=False,
    )
    r = Gaussian(torch.ones(2), torch.tensor([[1.0, 0.0], [0.5, 0.3]]))
    generator = mine.generator(r, copying="passes")
    content = exporting.to_onnx(from_noise(r), generator.decoder, generator.shift, generator.scale)
    found, z, u = run(content, from_noise(r), 9)
    np.testing.assert_allclose(z, u.numpy(), rtol=1e-5, atol=1e-5)
    wanted = head(torch.tensor([1.0, 0.0]) + torch.tensor([2.0, 3.0]) * u).detach()
    np.testing.assert_allclose(found, wanted.numpy(), rtol=1e-5, atol=1e-5)
    folder = generator.export(tmp_path / "out", onnx=True).path  # there z' is the model's own
    content = (folder / "generator.onnx").read_bytes()
    found, z, u = run(content, from_noise(mine.outside(r)), 9)
    np.testing.assert_allclose(z, u.numpy(), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(found, head(u).detach().numpy(), rtol=1e-5, atol=1e-5)
    model = onnx.load_from_string(content)
    assert not [i.name for i in model.graph.initializer if 37 in i.dims]
    assert [d.dim_param for i in model.graph.input for d in i.type.tensor_type.shape.dim][:1] == ["n"]
    here = str(Path(__file__).parent).encode()
    assert here not in content  # the exporter notes paths and code of whoever exports
    assert b"stack_trace" not in content
    assert Distribution._validate_args  # as it was


class Decodes:
    """p(x|z) around any function."""

    def __init__(self, f: Any) -> None:
        self.f = f

    def decode(self, z: Tensor) -> Distribution:
        return Independent(Normal(self.f(z), 1.0, validate_args=False), 1, validate_args=False)


REFUSED = {
    "ONNX has no operator for aten.searchsorted": lambda z: torch.searchsorted(torch.arange(4.0), z).float(),
    "write z.shape\\[0\\] where it says len\\(z\\)": lambda z: z.reshape(len(z), 2).float() * torch.ones(len(z), 1),
    "cannot trace decode\\(z\\).mean": lambda z: z if z.sum() > 0 else 2 * z,
}


@needs_onnx
@pytest.mark.parametrize("text", REFUSED, ids=["operator", "rows", "branch"])
def test_what_cannot_be_written_says_what_stands_in_the_way(text: str) -> None:
    one = torch.ones(())
    with pytest.raises(UsageError, match=text):
        exporting.to_onnx(from_noise(mixture()), Decodes(REFUSED[text]), one, one)


@needs_onnx
def test_a_decoder_that_is_told_conditions_is_refused() -> None:
    x, c = torch.randn(60, 3, generator=stream(0, "x")), (torch.arange(60) % 2)
    mine = bring.modules(
        lambda x, c: (x[:, :2], torch.zeros(len(x), 2)),
        lambda z, c: Independent(Normal(torch.cat([z, c[:, None].float()], 1), 1.0), 1),
        {"train": x[:40], "heldout": x[40:]},
        conditions={"train": c[:40], "heldout": c[40:]},
        gives="log-variance",
        check=False,
    )
    with pytest.raises(UsageError, match="told conditions beside z"):
        mine.generator(Prior(2)).export("nowhere", onnx=True)


def test_without_onnx_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("zprime.exporting.onnx_file.NEEDED", ("onnx", "no_such_package"))
    model = GenerativeModel(Prior(2), Identity(), torch.zeros(()), torch.ones(()))
    with pytest.raises(UsageError, match=r"takes .*no_such_package; run pip install 'zprime\[onnx\]'"):
        model.export(tmp_path / "out", onnx=True)
    assert not (tmp_path / "out").exists()
    model.export(tmp_path / "out")


def test_the_operator_is_found_in_what_torch_says() -> None:
    said = "No ONNX function found for <OpOverload(op='prims.erf_inv', overload='default')>. Failure message: No"
    found = OPERATOR.search(said)
    assert found is not None
    assert found[1] == "prims.erf_inv"


def test_draws_of_torch_are_of_the_law_that_the_map_states() -> None:
    """What onnxruntime is compared with has the right mean and covariance."""
    r = Defensive(mixture(), 0.1)
    drawn = from_noise(r)
    z = drawn(*noise(drawn, 50_000)).double()
    wanted = law(drawn)
    torch.testing.assert_close(z.mean(0), wanted.mean, rtol=0, atol=0.03)
    torch.testing.assert_close(z.var(0), wanted.variance, rtol=0.03, atol=0)
