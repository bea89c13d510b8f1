"""Adapter: AutoencoderKL of diffusers (Rombach et al. 2022; written against diffusers 0.42).

Its latents are grids, [channels, height, width]; what diffusers scales by is one number, or one a channel. So the unit
here is a position of the grid, with its channels as latents, and the question is whether one Gaussian a channel is
enough.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from zprime.arrays import blocks
from zprime.bring.brought import Brought
from zprime.bring.places import Place
from zprime.bring.splits import split
from zprime.errors import ArrayError, UsageError
from zprime.latent.gaussian import moments
from zprime.latent.selection import TIE
from zprime.posteriors import MemoryPosteriors
from zprime.results.verdicts import Verdict
from zprime.rng import stream

BATCH = 32


@dataclass(frozen=True)
class Latents:
    """Mean and standard deviation of each channel over training images, and what is left when they are taken out.

    Attributes:
        brought: posteriors of positions in units of `mean` and `std`: there N(0, I) *is* one Gaussian a channel, so
            gains over the prior are gains over it, and a verdict for the prior says that it is enough.
        mean, std: of a draw z ~ q(z|x) at a random position of a random training image; one a channel.
        overall: mean and standard deviation of all channels together.
    """

    brought: Brought
    mean: tuple[float, ...]
    std: tuple[float, ...]
    overall: tuple[float, float]

    def config(self, per: str = "channel") -> dict[str, Any]:
        """What `vae.register_to_config(**...)` takes.

        Pipelines compute `(z - latents_mean) * scaling_factor / latents_std`, or `(z - shift_factor) * scaling_factor`
        where those two are not there. So with one number a channel the factor has to be 1: both together would scale
        twice.

        Args:
            per: `channel`, or `all` for one number (older pipelines know `scaling_factor` alone, without the shift).

        Raises:
            UsageError: neither of them.
        """
        if per == "channel":
            return {
                "latents_mean": self.mean,
                "latents_std": self.std,
                "scaling_factor": 1.0,
                "shift_factor": None,
            }
        if per == "all":
            return {
                "latents_mean": None,
                "latents_std": None,
                "scaling_factor": 1 / self.overall[1],
                "shift_factor": self.overall[0],
            }
        raise UsageError(f"per: expected channel or all, got {per!r}")

    def sentence(self, verdict: Verdict) -> str:
        """What an audit's verdict means for these latents."""
        if verdict.best == "prior":
            return (
                "One Gaussian a channel (latents_mean, latents_std) is enough for a position: on the selection split "
                "nothing tried codes positions measurably better."
            )
        chosen = verdict.chosen
        gain, split = (
            (chosen.selection, "selection split") if verdict.heldout is None else (verdict.heldout, "held-out")
        )
        known = None
        if verdict.bet is not None and gain.stable:
            known = "is not enough" if verdict.bet.passed and gain.value > TIE else "is enough"
        says = (
            f"One Gaussian a channel (latents_mean, latents_std) {known or 'may or may not be enough'} for a position"
        )
        return f"{says}: {verdict.best} beside it, {split}: {chosen.gain.words} {gain} {gain.unit}."


def diffusers(
    vae: Any,
    images: Mapping[str, Any],
    *,
    labels: Mapping[str, Any] | None = None,
    groups: Mapping[str, Any] | None = None,
    seed: int = 0,
) -> Latents:
    """Bring an AutoencoderKL: measure by what to scale its latents, and bring the scaled latents.

    All positions of the training images are taken, and one position at random of each selection and held-out image: so
    those rows are independent, and their errors are right.

    Args:
        vae: an AutoencoderKL, or whatever encodes to a `latent_dist`; put into evaluation mode.
        images: `train`, `heldout` and perhaps `selection`, each [n, 3, height, width], as the VAE takes them.
        labels: split -> one integer an image, for conditional kinds.
        groups: split -> one name an image (see `modules`); give `audit` the `groups` of what is brought.
        seed: decides the selection split and the positions.

    Raises:
        UsageError: a split is missing.
        ArrayError: the encoder gives no grids, numbers that are not finite, or scales that are not above 0.
    """
    if isinstance(vae, torch.nn.Module):
        vae.eval()
    place = Place.of([vae]) if isinstance(vae, torch.nn.Module) else None
    rows = split(images, labels or {}, groups, seed=seed, dtype=None if place is None else place.dtype)
    grids = {s: _encode(vae, r.x) for s, r in rows.items()}
    positions = grids["train"][0].shape[1]
    flat = MemoryPosteriors(*(g.flatten(0, 1) for g in grids["train"]))
    mean, covariance = moments(flat)
    std = covariance.diagonal().sqrt()
    posteriors, codes = {}, {}
    for s, r in rows.items():
        at = torch.arange(positions).expand(len(r), positions)
        if s != "train":
            at = torch.randint(positions, (len(r), 1), generator=stream(seed, "position", s))
        which = torch.arange(len(r))[:, None]
        m, scale = (g[which, at].flatten(0, 1) for g in grids[s])
        posteriors[s] = MemoryPosteriors(
            ((m - mean) / std).to(m.dtype),
            (scale / std).to(m.dtype),
            row_ids=(r.ids[:, None] * positions + at).flatten(),
            labels=None if r.labels is None else r.labels[:, None].expand(at.shape).flatten(),
        )
        if r.groups is not None:
            codes[s] = r.groups[:, None].expand(at.shape).flatten()
    says = (
        f"a row is one of {positions} positions of a grid, {len(mean)} channels; in units of latents_mean and "
        "latents_std, N(0, I) is one Gaussian a channel. Positions of one image depend on each other: draws of single "
        "positions make no image",
        "AutoencoderKL does not say with which weight its KL term was trained (often 1e-6): q(z|x) is then far "
        "narrower than a posterior, and N(0, I) was hardly its prior; gains compare codes, and nothing else",
    )
    overall = (float(mean.mean()), float((covariance.diagonal() + (mean - mean.mean()).square()).mean().sqrt()))
    return Latents(
        Brought(posteriors, says=says, groups=codes or None), tuple(mean.tolist()), tuple(std.tolist()), overall
    )


@torch.no_grad()
def _encode(vae: Any, x: Tensor) -> tuple[Float[Tensor, "n p c"], Float[Tensor, "n p c"]]:
    """Means and standard deviations, the grid's positions in the middle."""
    means, scales = [], []
    for block in blocks(len(x), BATCH):
        q = vae.encode(x[block]).latent_dist
        if q.mean.ndim != 4:
            raise ArrayError(
                f"vae: expected latents of shape [n, channels, height, width], got {list(q.mean.shape)}; vectors go to "
                "bring.modules"
            )
        means.append(q.mean.flatten(2).transpose(1, 2))
        scales.append(q.std.flatten(2).transpose(1, 2))
    return torch.cat(means), torch.cat(scales)
