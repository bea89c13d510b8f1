"""Latents with a shape: scaling with errors over data, the config beside it, whole grids, and the joint gain."""

import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from zprime.bring import Latents, diffusers
from zprime.bring.joint import JointGain, joint_gain
from zprime.errors import ArrayError, UsageError
from zprime.results.names import Gain
from zprime.results.verdicts import Choice, Verdict
from zprime.rng import stream
from zprime.statistics.design import Design
from zprime.statistics.estimate import exact
from zprime.statistics.format import figures, unsigned

SIZES = {"train": 400, "selection": 100, "heldout": 200}


class Answers:
    """An encoder that finds its latents in the data: a distribution of one width, or codes under a name."""

    def __init__(self, scale: float | None = None, name: str = "latents", **attributes: Any) -> None:
        self.scale, self.name = scale, name
        self.__dict__.update(attributes)

    def encode(self, x: Tensor) -> SimpleNamespace:
        if self.scale is None:
            return SimpleNamespace(**{self.name: x})
        return SimpleNamespace(latent_dist=SimpleNamespace(mean=x, std=torch.full_like(x, self.scale)))


def data(make: Callable[[int, torch.Generator], Tensor], **sizes: int) -> dict[str, Tensor]:
    return {s: make(n, stream(0, "shaped", s)) for s, n in {**SIZES, **sizes}.items()}


def normal(*shape: int, mean: float = 0.0, std: float = 1.0) -> dict[str, Tensor]:
    return data(lambda n, rng: mean + std * torch.randn(n, *shape, generator=rng))


# -- what is measured --------------------------------------------------------------------------------------------------


def test_of_a_video_both_standard_deviations_are_said_with_errors_over_clips() -> None:
    """Means with standard deviation 2, scale 1: 2.236 of draws, 2 of means; all 320 positions of a clip move as one."""

    def clips(n: int, rng: torch.Generator) -> Tensor:
        return 2 * torch.randn(n, 16, 1, 1, 1, generator=rng).expand(n, 16, 5, 8, 8).contiguous()

    latents = diffusers(Answers(1.0), data(clips))
    for e in latents.measured.std:
        assert e.value == pytest.approx(math.sqrt(5), abs=4 * e.stderr)
        assert e.n == SIZES["train"]
    for e in latents.measured.std_of_means:
        assert e.value == pytest.approx(2, abs=4 * e.stderr)
        assert e.stderr == pytest.approx(2 / math.sqrt(2 * SIZES["train"]), rel=0.25)  # over 320 as many: 0.004
    for e in latents.measured.mean:
        assert e.value == pytest.approx(0, abs=4 * e.stderr)
        assert e.stderr == pytest.approx(2 / math.sqrt(SIZES["train"]), rel=0.2)
    assert "(of draws; of posterior means from" in latents.scaling
    assert latents.brought.posteriors["train"].n == 320 * SIZES["train"]


def test_errors_are_over_groups_where_there_are_any() -> None:
    """Ten images of each subject are one: the error is that of a tenth of the images."""

    def images(n: int, rng: torch.Generator) -> Tensor:
        return torch.randn(n // 10, 2, 2, 2, generator=rng).repeat_interleave(10, 0)

    subjects = {s: [f"{s}{i // 10}" for i in range(n)] for s, n in SIZES.items()}
    alone, grouped = (diffusers(Answers(), data(images), groups=g).measured for g in (None, subjects))
    assert grouped.mean[0].value == pytest.approx(alone.mean[0].value)
    assert grouped.mean[0].groups == 40
    assert grouped.mean[0].stderr / alone.mean[0].stderr == pytest.approx(math.sqrt(10), rel=0.05)
    assert "400 training data in 40 groups" in grouped.sentence
    assert grouped.off.groups == 40


def test_an_autoencoder_that_normalises_itself_gets_no_second_normalisation() -> None:
    """Codes of shape [n, 768, 16, 16]: means 0 and standard deviations 1, nothing to write, and points alone."""
    latents = diffusers(
        Answers(name="latent", config={"latents_mean": [3.0] * 768, "latents_std": [2.0] * 768}),
        data(lambda n, rng: torch.randn(n, 768, 16, 16, generator=rng), train=16, selection=4, heldout=4),
    )
    assert latents.normalised
    assert latents.config() == latents.config("all") == {}
    assert abs(latents.measured.off.value) < 0.001
    for e in (*latents.measured.mean, *latents.measured.std):
        assert e.value == pytest.approx(round(e.value), abs=6 * e.stderr)
    assert "no second normalisation is written" in latents.scaling
    # (0 - 3) / 2 and 1 / 2, if the pipeline did it again
    assert latents.comparison.off.value == pytest.approx(0.5 * (0.25 + 2.25 - 1 + math.log(4)), abs=0.01)
    assert "If a pipeline applies what your config says (latents_mean, latents_std)" in latents.scaling
    assert latents.brought.posteriors["train"].form == "points"
    assert any("the encoder answers codes and no distribution" in s for s in latents.brought.says)


def test_positions_of_768_channels_are_joined_without_covariances_of_channels() -> None:
    """Each number shares half of its variance with all others."""
    shared = data(
        lambda n, rng: (
            math.sqrt(0.5) * torch.randn(n, 1, 1, 1, generator=rng)
            + math.sqrt(0.5) * torch.randn(n, 768, 2, 2, generator=rng)
        ),
        train=60,
        selection=20,
        heldout=20,
    )
    gain = diffusers(Answers(), shared).joint_gain()
    # a position with one factor over its 768 channels knows the common part: little is left for the others to tell
    assert gain.positions.startswith("a Gaussian of each position and channel, each with what a covariance of rank")
    assert 0 < gain.estimate.value < 100


def test_a_model_that_says_it_normalises_is_believed() -> None:
    latents = diffusers(Answers(do_latent_normalization=True, config={"scaling_factor": 1.0}), normal(2, 3, 3, std=4.0))
    assert latents.config() == {}
    assert "encode normalises them itself" in latents.scaling


@pytest.mark.parametrize("config", [{"scaling_factor": 0.2325}, SimpleNamespace(scaling_factor=0.2325), None])
def test_a_wrong_config_is_told_in_nats(config: object) -> None:
    """Mean -8.89, std 8.756: scaled by 0.2325 without a shift they have mean -2.067 and standard deviation 2.036."""
    vae = Answers(0.01, scaling_factor=0.2325) if config is None else Answers(0.01, config=config)
    latents = diffusers(vae, normal(4, 8, 8, mean=-8.89, std=8.756))
    off = latents.comparison.off
    assert off.value == pytest.approx(0.5 * (2.036**2 + 2.067**2 - 1 - math.log(2.036**2)), abs=0.01)
    assert off.value == pytest.approx(3.0, abs=4 * off.stderr)
    assert off.unit == "nats a number"
    said = latents.scaling.partition("Your config says ")[2]
    assert said == (
        f"scaling_factor 0.2325 and no shift; measured 0.114 and a shift of {figures(latents.overall[0], 3)}: "
        f"{unsigned(off)} nats a number off."
    )
    assert latents.config("all")["scaling_factor"] == pytest.approx(0.1142, abs=2e-4)
    assert latents.config("all")["shift_factor"] == pytest.approx(-8.89, abs=0.05)


@pytest.mark.parametrize(
    ("config", "off"),
    [
        ({"latents_mean": [1.0, -2.0], "latents_std": [3.0, 5.0]}, 0.0),
        (
            {"latents_mean": [1.0, -2.0], "latents_std": [3.0, 5.0], "scaling_factor": 0.5},
            0.5 * (0.25 - 1 + math.log(4)),
        ),
        ({"latents_mean": torch.tensor([1.0, -2.0]).view(1, 2, 1, 1), "latents_std": [3.0, 5.0]}, 0.0),
        ({"latents_mean": torch.tensor([1.0, -2.0])[:, None, None].expand(2, 4, 4), "latents_std": [3.0, 5.0]}, 0.0),
        ({"shift_factor": 1.0, "scaling_factor": 1 / 3}, 0.25 * (25 / 9 - 1 - math.log(25 / 9) + 1)),
        (
            {"latents_mean": [1.0, -2.0], "scaling_factor": 1 / 3},
            0.25 * (1 / 9 + 25 / 9 + 4 / 9 - 1 - math.log(25 / 9)),
        ),
    ],
)
def test_every_form_of_a_config_is_applied_as_pipelines_do(config: dict[str, Any], off: float) -> None:
    """Channels N(1, 3^2) and N(-2, 5^2)."""
    wide = data(
        lambda n, rng: (
            torch.randn(n, 2, 4, 4, generator=rng) * torch.tensor([3.0, 5.0])[:, None, None]
            + torch.tensor([1.0, -2.0])[:, None, None]
        )
    )
    latents = diffusers(Answers(config=config), wide)
    assert latents.comparison.off.value == pytest.approx(off, abs=0.03)
    assert latents.comparison.agrees is (off == 0)


def test_the_config_of_other_channels_is_refused() -> None:
    with pytest.raises(ArrayError, match="config: expected 2 numbers in latents_mean, one a channel, got 3"):
        diffusers(Answers(config={"latents_mean": [1.0, 2.0, 3.0]}), normal(2, 4, 4))
    with pytest.raises(ArrayError, match="above 0 for a std, got 0"):
        diffusers(Answers(config={"latents_mean": [1.0, 2.0], "latents_std": [0.0, 1.0]}), normal(2, 4, 4))


def test_a_right_config_of_few_images_is_not_called_off() -> None:
    """Ten images whose positions are one number: the naive value is 0.1 too large, and the jackknife takes it off."""
    right = {"latents_mean": [0.0] * 8, "latents_std": [1.0] * 8}
    off = [
        diffusers(
            Answers(config=right),
            {
                s: torch.randn(20, 8, 1, 1, generator=stream(seed, s)).expand(20, 8, 4, 4).contiguous()
                for s in ("train", "selection", "heldout")
            },
        ).comparison
        for seed in range(8)
    ]
    assert abs(sum(c.off.value for c in off) / 8) < 0.03
    assert sum(c.agrees for c in off) >= 7


def test_a_config_is_written_only_when_asked_and_only_where_it_can_be() -> None:
    written: list[dict[str, Any]] = []
    vae = Answers(0.1, register_to_config=lambda **fields: written.append(fields))
    latents = diffusers(vae, normal(2, 4, 4, std=3.0))
    assert written == []
    latents.register(vae)
    latents.register(vae, "all")
    assert written == [latents.config(), latents.config("all")]
    with pytest.raises(UsageError, match="expected a model of diffusers with register_to_config, got Answers"):
        latents.register(Answers())
    unit = Answers(0.1, register_to_config=vae.register_to_config, config={"scaling_factor": 0.18215})
    latents = diffusers(unit, normal(2, 4, 4))
    latents.register(unit)  # latents that need no scaling: the config that would still scale them is replaced
    assert written[2]["scaling_factor"] == 1
    assert written[2]["latents_std"] == pytest.approx((1, 1), abs=0.05)
    latents = diffusers(Answers(0.1), normal(2, 4, 4))
    latents.register(unit)
    assert len(written) == 3


# -- shapes and units --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(3, 4), (3, 4, 5), (3, 2, 4, 5)])
def test_whole_grids_are_rows_in_the_order_of_the_model(shape: tuple[int, ...]) -> None:
    x = normal(*shape, mean=2.0, std=3.0)
    latents = diffusers(Answers(0.5), x, unit="both", labels={s: torch.arange(n) for s, n in SIZES.items()})
    whole = latents.whole.posteriors["heldout"].gather()
    assert whole.mean.shape == (SIZES["heldout"], math.prod(shape))
    torch.testing.assert_close(latents.unscaled(whole.mean), x["heldout"], atol=1e-4, rtol=1e-4)
    assert torch.equal(whole.labels, torch.arange(SIZES["heldout"]))
    assert latents.brought is latents.position
    std = torch.tensor(latents.std).float()
    torch.testing.assert_close(whole.scale.reshape(-1, *shape).flatten(2)[0, :, 0] * std, torch.full((3,), 0.5))
    only = diffusers(Answers(0.5), x, unit="whole")
    assert only.position is None
    assert only.brought is only.whole


def test_channels_may_be_the_last_axis() -> None:
    """[n, T, C] with channels=-1 is the same as [n, C, T] turned."""
    x = data(lambda n, rng: torch.randn(n, 3, 6, generator=rng) * torch.tensor([1.0, 2.0, 4.0])[:, None])
    a = diffusers(Answers(0.1), x, unit="both")
    b = diffusers(Answers(0.1), {s: v.transpose(1, 2).contiguous() for s, v in x.items()}, unit="both", channels=-1)
    assert a.std == pytest.approx(b.std)
    for s in SIZES:
        p, q = (v.position.posteriors[s].gather() for v in (a, b))
        torch.testing.assert_close(p.mean, q.mean)
        turned = b.whole.posteriors[s].gather().mean.reshape(-1, 6, 3).transpose(1, 2).flatten(1)
        torch.testing.assert_close(a.whole.posteriors[s].gather().mean, turned)
    z = b.whole.posteriors["train"].gather().mean[:5]
    torch.testing.assert_close(b.unscaled(z), x["train"][:5].transpose(1, 2), atol=1e-4, rtol=1e-4)


class Half(nn.Module):
    """A model in half precision whose narrow q underflows there: only its log-variance tells the width."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 2, 1)
        self.dropout = nn.Dropout(0.5)

    def encode(self, x: Tensor) -> SimpleNamespace:
        assert x.dtype == torch.float16
        mean = self.dropout(x) + 0 * self.conv.weight.sum()
        log_var = torch.full_like(mean, -13.8)
        log_var[:, 0] = -40.0
        return SimpleNamespace(latent_dist=SimpleNamespace(mean=mean, std=(0.5 * log_var).exp(), logvar=log_var))


def test_a_model_in_half_precision_is_served_in_its_own_precision() -> None:
    vae = Half().half()
    latents = diffusers(nn.DataParallel(vae), normal(2, 4, 4))
    assert vae.training  # in evaluation mode while it computes
    p = latents.brought.posteriors["train"].gather()
    assert p.mean.dtype == torch.float32
    want = torch.tensor([math.exp(-20), math.exp(-6.9)])
    torch.testing.assert_close(p.scale[0] * torch.tensor(latents.std), want, rtol=1e-2, atol=0)


def test_a_distribution_without_width_is_codes() -> None:
    class Mode:
        def __init__(self, z: Tensor) -> None:
            self.z = z

        def mode(self) -> Tensor:
            return self.z

    identity = SimpleNamespace(encode=lambda x: SimpleNamespace(latent_dist=Mode(x)))
    for vae in (Answers(0.0), identity, Answers(name="latent")):
        latents = diffusers(vae, normal(2, 4, 4, std=2.0))
        assert latents.brought.posteriors["train"].form == "points"
        assert latents.measured.std == latents.measured.std_of_means
        assert latents.std == pytest.approx((2, 2), rel=0.05)
        assert latents.joint_gain().estimate.seed is None
        assert "Joint gain 0" in latents.sentence()


class Coded(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.quantize = nn.Embedding(4, 2)

    def encode(self, x: Tensor) -> SimpleNamespace:
        return SimpleNamespace(latents=x)


@pytest.mark.parametrize(
    ("vae", "error", "says"),
    [
        (Coded(), UsageError, r"Coded has a code book \(VQ\): discrete latents"),
        (SimpleNamespace(), UsageError, r"expected a model with encode\(x\), got SimpleNamespace"),
        ("stabilityai/sd-vae", UsageError, "expected a model with encode.x., got str; give the model itself"),
        (
            SimpleNamespace(encode=lambda x: x @ torch.zeros(9, 9)),
            UsageError,
            r"vae.encode: it fails when it is given \[8, 2, 4, 4\] float32 .*give rows as it had them in training",
        ),
        (SimpleNamespace(encode=lambda x: (x,)), UsageError, "latent_dist, latent or latents, got tuple"),
        (SimpleNamespace(encode=lambda x: SimpleNamespace(latents=x.long())), UsageError, "discrete latents"),
        (
            SimpleNamespace(encode=lambda x: SimpleNamespace(latents=x + torch.randn_like(x))),
            UsageError,
            "to the same rows differs between two calls",
        ),
        (SimpleNamespace(encode=lambda x: SimpleNamespace(latents=x.flatten(1))), ArrayError, "vectors go to"),
        (SimpleNamespace(encode=lambda x: SimpleNamespace(latents=x / 0)), ArrayError, "expected finite numbers"),
        (SimpleNamespace(encode=lambda x: SimpleNamespace(latents=0 * x + 3)), ArrayError, "got 3 in channel 0"),
    ],
)
def test_what_cannot_be_brought_is_refused_by_name(vae: object, error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        diffusers(vae, normal(2, 4, 4))


def test_arguments_that_do_not_fit_are_refused() -> None:
    with pytest.raises(UsageError, match="unit: expected position, whole or both, got 'pixel'"):
        diffusers(Answers(), normal(2, 4, 4), unit="pixel")
    with pytest.raises(UsageError, match="channels: expected an axis of the latents other than 0"):
        diffusers(Answers(), normal(2, 4, 4), channels=0)
    with pytest.raises(ArrayError, match=r"channels: expected an axis of latents of shape \[8, 2, 4, 4\], got 4"):
        diffusers(Answers(), normal(2, 4, 4), channels=4)
    with pytest.raises(UsageError, match="expected latents of two positions or more, got one"):
        diffusers(Answers(), normal(2, 1, 1)).joint_gain()


# -- the joint gain ----------------------------------------------------------------------------------------------------

JOINT = {"train": 1500, "selection": 400, "heldout": 1500}


def joined(make: Callable[[int, torch.Generator], Tensor], **sizes: int) -> JointGain:
    return joint_gain({s: z.double() for s, z in data(make, **{**JOINT, **sizes}).items()})


def common(rho: float, p: int, c: int) -> Callable[[int, torch.Generator], Tensor]:
    """Every number N(0, 1); all positions of a channel share a part rho of its variance."""

    def make(n: int, rng: torch.Generator) -> Tensor:
        alone = torch.randn(n, p, c, generator=rng)
        return math.sqrt(rho) * torch.randn(n, 1, c, generator=rng) + math.sqrt(1 - rho) * alone

    return make


def of_common(rho: float, p: int) -> float:
    return -0.5 * (math.log(1 + (p - 1) * rho) + (p - 1) * math.log(1 - rho))


@pytest.mark.parametrize(("rho", "p", "c"), [(0.5, 16, 2), (0.3, 64, 4), (0.9, 4, 1)])
def test_the_joint_gain_of_a_common_part_is_the_closed_form(rho: float, p: int, c: int) -> None:
    gain = joined(common(rho, p, c))
    assert gain.estimate.value == pytest.approx(c * of_common(rho, p), abs=4 * gain.estimate.stderr)
    assert gain.estimate.stderr < 0.05 * c * of_common(rho, p)
    assert gain.joined
    assert "Draws of single positions make no image" in gain.sentence
    assert gain.estimate.unit == "nats per grid"


def test_one_gaussian_a_position_never_hides_that_draws_make_no_image() -> None:
    """Every position is N(0, 1): one Gaussian is enough for a position, and the sentence says the rest."""
    x = {s: common(0.5, 16, 2)(n, stream(1, s)).transpose(1, 2).unflatten(2, (4, 4)) for s, n in JOINT.items()}
    latents = diffusers(Answers(0.01), x)
    none = exact(0.0, n=1, unit="nats per row", split="selection")
    enough = Verdict("keep the prior", "prior", "", chosen=Choice("prior", Gain.ELBO, none, []))
    said = latents.sentence(enough)
    assert said.startswith("One Gaussian a channel (latents_mean, latents_std) is enough for a position")
    assert "Draws of single positions make no image" in said
    gain = latents.joint_gain()
    assert gain is latents.joint_gain()
    assert gain.estimate.value == pytest.approx(2 * of_common(0.5, 16), abs=4 * gain.estimate.stderr)
    assert f"Joint gain {gain.estimate} nats per grid, held-out: {gain.whole} over all positions" in said


@pytest.mark.parametrize("train", [60, 1500])
def test_positions_of_different_means_and_scales_give_no_false_gain(train: int) -> None:
    """One r shared by positions of different means would show 1.4 nats and more where 0 is right."""
    rng = stream(0, "places")
    at, scale = 1.5 * torch.randn(16, 2, generator=rng), 0.5 + torch.rand(16, 2, generator=rng)
    gain = joined(lambda n, rng: at + scale * torch.randn(n, 16, 2, generator=rng), train=train)
    assert not gain.joined
    assert gain.estimate.low <= 0
    assert gain.estimate.value < 0.1


@pytest.mark.parametrize("train", [60, 1500])
def test_channels_that_depend_on_each_other_within_a_position_give_no_false_gain(train: int) -> None:
    mix = torch.randn(16, 4, 4, generator=stream(0, "mix"))
    mix = mix + 2 * torch.eye(4)
    gain = joined(lambda n, rng: torch.einsum("npc,pdc->npd", torch.randn(n, 16, 4, generator=rng), mix), train=train)
    assert not gain.joined
    assert gain.estimate.value < 0.1


@pytest.mark.parametrize("own", [False, True])
def test_the_joint_gain_does_not_depend_on_the_coordinates_of_channels(own: bool) -> None:  # noqa: FBT001
    """z_j -> A z_j + b_j, with one A for all positions or one for each, leaves what positions tell of each other."""
    rng = stream(0, "coordinates")
    a = torch.randn(8, 8, 8, generator=rng) if own else torch.randn(1, 8, 8, generator=rng).expand(8, -1, -1)
    b = 3 * torch.randn(8, 8, generator=rng)

    def moved(n: int, rng: torch.Generator) -> Tensor:
        return torch.einsum("npd,pcd->npc", common(0.3, 8, 8)(n, rng), a) + b

    gain = joined(moved, train=500)
    assert gain.estimate.value == pytest.approx(8 * of_common(0.3, 8), rel=0.12)


def test_positions_of_two_clumps_are_no_gaussians_of_their_own() -> None:
    """A sign shared by 16 positions: 15 log 2 = 10.4 nats. Gaussians r_j miss the clumps and would give 27."""

    def signs(n: int, rng: torch.Generator, places: int) -> Tensor:
        sign = 2.0 * torch.randint(0, 2, (n, places, 1), generator=rng) - 1
        return 2 * sign + 0.3 * torch.randn(n, 16, 1, generator=rng)

    gain = joined(lambda n, rng: signs(n, rng, 1))
    assert "as mixtures of 4" in gain.positions
    assert 5 < gain.estimate.value < 15 * math.log(2)
    assert not joined(lambda n, rng: signs(n, rng, 16)).joined


def test_errors_of_the_joint_gain_are_over_groups_of_data() -> None:
    z = {s: v.double() for s, v in data(common(0.5, 4, 1), **JOINT).items()}
    z["heldout"] = z["heldout"][:150].repeat_interleave(10, 0)
    alone = joint_gain(z).estimate
    grouped = joint_gain(z, Design(groups=torch.arange(150).repeat_interleave(10))).estimate
    assert grouped.stderr / alone.stderr == pytest.approx(math.sqrt(10), rel=0.05)
    assert grouped.groups == 150


@pytest.mark.parametrize("width", [1e-7, 0.0])
@pytest.mark.parametrize("train", [20, 1500])
def test_positions_that_hardly_vary_do_no_harm(width: float, train: int) -> None:
    """A dark corner has the same code in all images, to rounding: no position tells anything of it."""

    def corner(n: int, rng: torch.Generator) -> Tensor:
        z = common(0.5, 9, 1)(n, rng)
        z[:, 0] = 0.3 + width * torch.randn(n, 1, generator=rng)
        return z

    gain = joined(corner, train=train)
    without = 4 * (gain.estimate.stderr or 0.0)
    assert of_common(0.5, 8) - without - 20 / train < gain.estimate.value < of_common(0.5, 8) + without


def test_draws_of_wide_posteriors_are_joined_less_than_their_means() -> None:
    """Means share all of their variance, and q adds as much noise: rho is 1/2 of what is drawn."""
    x = {s: common(1.0, 8, 1)(n, stream(2, s)).transpose(1, 2) for s, n in JOINT.items()}
    gain: JointGain = diffusers(Answers(1.0), x).joint_gain()
    assert gain.estimate.value == pytest.approx(of_common(0.5, 8), abs=4 * gain.estimate.stderr)
    assert gain.estimate.seed == 0


def test_latents_are_a_value() -> None:
    assert isinstance(diffusers(Answers(0.1), normal(2, 4, 4)), Latents)
