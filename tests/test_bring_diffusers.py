"""AutoencoderKL: what its latents are scaled by, and whether that is enough. The last tests need diffusers."""

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from docpages import run_page
from zprime import audit, fit
from zprime.bring import Latents, diffusers
from zprime.errors import ArrayError, UsageError
from zprime.latent import GaussianSettings, MixtureSettings
from zprime.results.audit import AuditSettings

SMALL = AuditSettings(rows=400, draws=0, simulated=0)
N = {"train": 150, "selection": 400, "heldout": 400}


class Grid:
    """An encoder that finds its latents in the image: 2 channels, 4 x 4 positions, and a narrow q."""

    scale = 0.01

    def encode(self, x: Tensor) -> SimpleNamespace:
        return SimpleNamespace(latent_dist=SimpleNamespace(mean=x, std=torch.full_like(x, self.scale)))


def images(kind: str) -> dict[str, Tensor]:
    rng = torch.Generator().manual_seed(0)
    out = {}
    for split, n in N.items():
        z = torch.randn(n, 2, 4, 4, generator=rng)
        if kind == "correlated":
            z[:, 1] = 0.8 * z[:, 0] + 0.6 * z[:, 1]
        if kind == "two clumps":
            z = 0.3 * z + 2.0 * (torch.rand(z.shape, generator=rng) < 0.5)
        out[split] = 5 * z + torch.tensor([1.0, -2.0])[:, None, None]
    return out


def measured(kind: str) -> tuple[Latents, str]:
    latents = diffusers(Grid(), images(kind))
    splits = latents.brought.splits
    fits = {"full": fit(GaussianSettings(), **splits), "mixture": fit(MixtureSettings(components=3), **splits)}
    verdict = audit(fits, latents.brought.posteriors, settings=SMALL).verdict
    return latents, latents.sentence(verdict)


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("independent", "is enough for a position"),
        ("correlated", "is not enough for a position: full+p1 beside it"),
        ("two clumps", "is not enough for a position: mixture+p1 beside it"),
    ],
)
def test_whether_one_gaussian_a_channel_is_enough(kind: str, says: str) -> None:
    assert says in measured(kind)[1]


def test_scales_are_those_of_all_draws_at_all_positions() -> None:
    x = images("correlated")
    latents = diffusers(Grid(), x)
    for j in range(2):
        z = x["train"][:, j].double()
        assert latents.mean[j] == pytest.approx(float(z.mean()), rel=1e-6)
        assert latents.std[j] == pytest.approx(float((z.var(correction=0) + 0.01**2).sqrt()), rel=1e-6)
    z = x["train"].double()
    assert latents.overall == (
        pytest.approx(float(z.mean()), rel=1e-6),
        pytest.approx(float((z.var(correction=0) + 0.01**2).sqrt()), rel=1e-6),
    )
    train = latents.brought.posteriors["train"].gather()
    torch.testing.assert_close(train.mean.mean(0), torch.zeros(2), atol=1e-4, rtol=0)
    torch.testing.assert_close(train.mean.std(0, correction=0), torch.ones(2), atol=1e-3, rtol=0)
    torch.testing.assert_close(train.scale[0] * torch.tensor(latents.std), torch.full((2,), 0.01))


def test_rows_are_positions_and_held_out_ones_come_from_one_image_each() -> None:
    x = images("independent")
    latents = diffusers(Grid(), x, labels={s: torch.arange(n) for s, n in N.items()})
    held = latents.brought.posteriors["heldout"].gather()
    assert held.n == N["heldout"]
    assert torch.equal(held.labels, torch.arange(N["heldout"]))
    image, position = held.row_ids // 16 - N["train"] - N["selection"], held.row_ids % 16
    want = x["heldout"].flatten(2)[image, :, position]
    torch.testing.assert_close(
        held.mean * torch.tensor(latents.std) + torch.tensor(latents.mean), want.float(), atol=1e-4, rtol=1e-4
    )
    assert len(set(position.tolist())) == 16
    train = latents.brought.posteriors["train"].gather()
    assert torch.equal(train.row_ids, torch.arange(N["train"] * 16))
    assert torch.equal(train.labels, torch.arange(N["train"]).repeat_interleave(16))


@pytest.mark.parametrize("per", ["channel", "all"])
def test_what_is_written_scales_latents_once(per: str) -> None:
    """As the pipelines of diffusers compute it (StableDiffusionXLImg2ImgPipeline; FluxPipeline)."""
    x = images("correlated")
    c = SimpleNamespace(**diffusers(Grid(), x).config(per))
    z = x["train"]
    if c.latents_mean is not None:
        mean, std = (torch.tensor(v).view(1, 2, 1, 1) for v in (c.latents_mean, c.latents_std))
        z = (z - mean) * c.scaling_factor / std
        assert [round(float(v), 2) for v in z.std((0, 2, 3))] == [1, 1]
    else:
        z = (z - c.shift_factor) * c.scaling_factor
    assert float(z.std()) == pytest.approx(1, abs=0.01)
    assert float(z.mean()) == pytest.approx(0, abs=0.01)


def test_what_is_wrong_is_said() -> None:
    x = images("independent")
    with pytest.raises(UsageError, match="per: expected channel or all, got 'pixel'"):
        diffusers(Grid(), x).config("pixel")
    with pytest.raises(ArrayError, match=r"got \[8, 32\]; vectors go to bring.modules"):
        diffusers(Grid(), {s: v.flatten(1) for s, v in x.items()})


def autoencoder(library) -> tuple[object, dict[str, Tensor]]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        vae = library.AutoencoderKL(
            in_channels=1, out_channels=1, block_out_channels=(8, 8), norm_num_groups=4, latent_channels=3,
            down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
        )  # fmt: skip
        x = {s: torch.rand(n, 1, 8, 8) for s, n in {"train": 40, "selection": 20, "heldout": 20}.items()}
    return vae, x


def test_an_autoencoder_of_diffusers_keeps_what_was_measured(tmp_path) -> None:
    library = pytest.importorskip("diffusers")
    vae, x = autoencoder(library)
    latents = diffusers(vae, {s: v.double().numpy() for s, v in x.items()})
    with torch.no_grad():
        q = vae.encode(x["train"]).latent_dist
    want = (q.mean.double().var((0, 2, 3), correction=0) + q.var.double().mean((0, 2, 3))).sqrt()
    torch.testing.assert_close(torch.tensor(latents.std).double(), want, rtol=1e-5, atol=0)
    vae.register_to_config(**latents.config())
    vae.save_pretrained(tmp_path)
    again = library.AutoencoderKL.from_pretrained(tmp_path, local_files_only=True)
    assert again.config.latents_std == pytest.approx(latents.std)
    assert again.config.latents_mean == pytest.approx(latents.mean)
    assert again.config.scaling_factor == 1.0


def test_the_page_runs() -> None:
    vae, x = autoencoder(pytest.importorskip("diffusers"))
    found = run_page("bring/diffusers.md", vae=vae, x_train=x["train"], x_heldout=x["heldout"])
    assert vae.config.latents_std == pytest.approx(found["latents"].std)
