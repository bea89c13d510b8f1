"""Adapter: autoencoders of diffusers (written against diffusers 0.42), and others whose latents are grids.

AutoencoderKL (Rombach et al. 2022) and video VAEs answer a distribution, AutoencoderDC, AutoencoderTiny and
AutoencoderRAE a code. What diffusers scales latents by is one number, or one a channel. So the unit is a position of
the grid, with its channels as latents, and the question is whether one Gaussian a channel is enough; or the whole grid.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from numbers import Integral
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from zprime.bring.brought import Brought
from zprime.bring.joint import JointGain, joint_gain
from zprime.bring.scaling import Comparison, Measured, Moments, scaling_of
from zprime.bring.shaped import Encoder, Grid, Layout, of_grids, of_positions
from zprime.bring.splits import split
from zprime.calls import called
from zprime.errors import UsageError
from zprime.latent.selection import TIE
from zprime.results.verdicts import Verdict
from zprime.rng import stream
from zprime.statistics.design import Design
from zprime.statistics.format import unsigned

UNITS = ("position", "whole", "both")


@dataclass(frozen=True, eq=False)
class Latents:
    """Mean and standard deviation of each channel over training data, and what is left when they are taken out.

    Attributes:
        measured: mean and standard deviation of each channel, with errors over data.
        comparison: what the config of the VAE says, and by how much that is off; None where it says nothing.
        position: posteriors of positions in units of `mean` and `std`: there N(0, I) *is* one Gaussian a channel, so
            gains over the prior are gains over it, and a verdict for the prior says that it is enough. Points, where
            the encoder answers codes alone. None where that was not asked for.
        whole: posteriors of whole grids, flat, in the same units; None likewise.
        layout: shape of a datum's latents.
        inside: whether the VAE says that its `encode` normalises latents itself.
    """

    measured: Measured
    comparison: Comparison | None
    position: Brought | None
    whole: Brought | None
    layout: Layout
    inside: bool = False
    _grids: Mapping[str, Grid] = field(default_factory=dict, repr=False)
    _heldout: Design = field(default_factory=Design, repr=False)
    _seed: int = 0

    def __repr__(self) -> str:
        kinds = [f"of {n}" for n, b in (("positions", self.position), ("whole grids", self.whole)) if b is not None]
        what = "codes" if self._grids["train"].scale is None else "posteriors"
        return f"<Latents: {list(self.layout.shape)}, {what} {' and '.join(kinds)}>"

    @property
    def brought(self) -> Brought:
        """What `fit` and `audit` take: of positions, or of whole grids where only these were asked for.

        Where the encoder answers codes and no distribution, they are points, without a density: see `bring.codes`.
        """
        found = self.position or self.whole
        assert found is not None  # one of them was asked for
        return found

    @property
    def mean(self) -> tuple[float, ...]:
        """Of a latent at a random position of a random training datum; one a channel."""
        return tuple(e.value for e in self.measured.mean)

    @property
    def std(self) -> tuple[float, ...]:
        """Of a draw z ~ q(z|x) there; one a channel."""
        return tuple(e.value for e in self.measured.std)

    @property
    def overall(self) -> tuple[float, float]:
        """Mean and standard deviation of all channels together."""
        return self.measured.overall

    @property
    def normalised(self) -> bool:
        """Whether latents come out of `encode` with mean 0 and standard deviation 1, or the VAE says that they do.

        Not where the VAE has posteriors and a config that would still scale them: that is to be replaced. Autoencoders
        without posteriors may read these fields in `encode`, so theirs are left alone.
        """
        codes = self._grids["train"].scale is None
        left = codes or self.comparison is None or self.comparison.agrees
        return self.inside or (self.measured.normalised and left)

    def config(self, per: str = "channel") -> dict[str, Any]:
        """What `vae.register_to_config(**...)` takes; nothing where `encode` normalises latents itself.

        Pipelines compute `(z - latents_mean) * scaling_factor / latents_std`, or `(z - shift_factor) * scaling_factor`
        where those two are not there. So with one number a channel the factor has to be 1: both together would scale
        twice. Where latents are `normalised` already, no second normalisation is written.

        Args:
            per: `channel`, or `all` for one number (older pipelines know `scaling_factor` alone, without the shift).

        Raises:
            UsageError: neither of them.
        """
        if per not in ("channel", "all"):
            raise UsageError(f"per: expected channel or all, got {per!r}")
        if self.normalised:
            return {}
        if per == "channel":
            return {
                "latents_mean": self.mean,
                "latents_std": self.std,
                "scaling_factor": 1.0,
                "shift_factor": None,
            }
        return {
            "latents_mean": None,
            "latents_std": None,
            "scaling_factor": 1 / self.overall[1],
            "shift_factor": self.overall[0],
        }

    def register(self, vae: Any, per: str = "channel") -> None:
        """Put `config(per)` onto a VAE; nothing else in this class changes it.

        Raises:
            UsageError: it has no `register_to_config`, or `per` is unknown.
        """
        fields = self.config(per)
        if not callable(getattr(vae, "register_to_config", None)):
            raise UsageError(
                f"register: expected a model of diffusers with register_to_config, got {type(vae).__name__}; write the "
                "fields of config() where your pipeline reads them"
            )
        if fields:
            vae.register_to_config(**fields)

    def unscaled(self, z: Float[Tensor, "n d"]) -> Float[Tensor, "n *grid"]:
        """Rows of `whole`, e.g. draws of a distribution fitted to them, as latents that the VAE decodes."""
        at = self.layout.flat(z.reshape(len(z), *self.layout.shape))
        mean, std = (torch.tensor(v, dtype=z.dtype) for v in (self.mean, self.std))
        return self.layout.grid(at * std + mean)

    def joint_gain(self) -> JointGain:
        """Held-out mean of `log r_whole(z) - sum_j log r_j(z_j)`, nats a grid: what positions tell of each other.

        Of one draw a datum, or of the codes. Where it is large, draws of single positions make no image, whatever the
        distribution of a position is.

        Raises:
            UsageError: there is one position only.
        """
        if self.layout.positions == 1:
            raise UsageError("joint_gain: expected latents of two positions or more, got one: there is nothing to join")
        return self._joint

    @cached_property
    def _joint(self) -> JointGain:
        mean, std = (torch.tensor(v, dtype=torch.float64) for v in (self.mean, self.std))
        z = {s: (g.draw(stream(self._seed, "joint", s)) - mean) / std for s, g in self._grids.items()}
        codes = self._grids["train"].scale is None
        return joint_gain(z, self._heldout, seed=None if codes else self._seed)

    @property
    def scaling(self) -> str:
        """What was measured, and what is to be said of the config beside it."""
        said = [self.measured.sentence]
        if self.normalised:
            how = "encode normalises them itself" if self.inside else "they come out normalised (mean 0, std 1)"
            said.append(f"Latents need no scaling: {how}, and no second normalisation is written.")
            if self.comparison is not None and not self.comparison.agrees:
                said.append(
                    f"If a pipeline applies what your config says ({self.comparison.scaling.says}), they are "
                    f"{unsigned(self.comparison.off)} nats a number off."
                )
        elif self.comparison is not None:
            said.append(self.comparison.sentence(self.measured))
        return " ".join(said)

    def sentence(self, verdict: Verdict | None = None) -> str:
        """What an audit's verdict on positions means for these latents, and the joint gain beside it.

        Args:
            verdict: of an audit of `position`; None for the measurement and the joint gain alone.
        """
        said = [self.scaling if verdict is None else _of_verdict(verdict)]
        if self.layout.positions > 1:
            said.append(self.joint_gain().sentence)
        return " ".join(said)


def _of_verdict(verdict: Verdict) -> str:
    if verdict.best == "prior":
        return (
            "One Gaussian a channel (latents_mean, latents_std) is enough for a position: on the selection split "
            "nothing tried codes positions measurably better."
        )
    chosen = verdict.chosen
    gain, split = (chosen.selection, "selection split") if verdict.heldout is None else (verdict.heldout, "held-out")
    known = None
    if verdict.bet is not None and gain.stable:
        known = "is not enough" if verdict.bet.passed and gain.value > TIE else "is enough"
    says = f"One Gaussian a channel (latents_mean, latents_std) {known or 'may or may not be enough'} for a position"
    return f"{says}: {verdict.best} beside it, {split}: {chosen.gain.words} {gain} {gain.unit}."


@called("bring.diffusers", types={"channels": Integral})
def diffusers(
    vae: Any,
    images: Mapping[str, Any],
    *,
    labels: Mapping[str, Any] | None = None,
    groups: Mapping[str, Any] | None = None,
    unit: str = "position",
    channels: int = 1,
    seed: int = 0,
) -> Latents:
    """Bring an autoencoder whose latents are grids: measure by what to scale them, and bring the scaled latents.

    As positions: all of the training data are taken, and one at random of each selection and held-out datum: so those
    rows are independent, and their errors are right. A public facade.

    Args:
        vae: a model whose `encode(x)` answers with `latent_dist` (AutoencoderKL, video VAEs), `latent` (DC, RAE) or
            `latents` (Tiny); put into evaluation mode. Batches go to its device in its precision. Without a
            distribution there are codes: see `bring.codes`.
        images: `train`, `heldout` and perhaps `selection`, as the VAE takes them: images, clips, sequences.
        labels: split -> one integer an image, for conditional kinds.
        groups: split -> one name an image (see `modules`); give `audit` the `groups` of what is brought.
        unit: `position` (one r for all positions), `whole` (a grid is a row) or `both`.
        channels: the axis of the latents that holds the channels: 1 in [n, C, *grid], -1 in [n, T, C].
        seed: decides the selection split and the positions.

    Raises:
        UsageError: a split is missing, an unknown unit, or a model that answers no such latents, or other ones at the
            next call.
        ArrayError: the encoder gives no grids, numbers that are not finite, a channel that does not vary, scales that
            are not above 0; or the config has numbers that do not fit the channels.
    """
    if unit not in UNITS:
        raise UsageError(f"unit: expected {', '.join(UNITS[:-1])} or {UNITS[-1]}, got {unit!r}")
    encoder = Encoder.of(vae, channels)
    dtype = None if encoder.place is None else encoder.place.wide
    rows = split(images, labels, groups, seed=seed, dtype=dtype)
    layout = encoder.layout(rows["train"].x)
    grids = {s: encoder.encode(r, layout) for s, r in rows.items()}
    design = Design(groups=rows["train"].groups)
    measured, scaling = Measured.of(grids["train"], design), scaling_of(encoder.vae, layout)
    comparison = None
    if scaling is not None:
        comparison = Comparison(scaling, Moments.of(grids["train"], design, scaling).off())
    mean, std = (torch.tensor([e.value for e in v], dtype=torch.float64) for v in (measured.mean, measured.std))
    return Latents(
        measured,
        comparison,
        of_positions(grids, rows, mean, std, seed=seed) if unit != "whole" else None,
        of_grids(grids, rows, layout, mean, std) if unit != "position" else None,
        layout,
        bool(getattr(encoder.vae, "do_latent_normalization", False)),
        grids,
        Design(groups=rows["heldout"].groups),
        seed,
    )
