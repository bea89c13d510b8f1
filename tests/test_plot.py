"""Images of a generative model in one call: their limits, their shape, and what is no image; models in a notebook."""

import numpy as np
import pytest
import torch

from zprime import GenerativeModel, plot, sample
from zprime.bring import Brought, arrays, modules
from zprime.distribution import Prior
from zprime.errors import UsageError
from zprime.likelihoods import Gaussian
from zprime.rng import stream


def shades(figure: object) -> np.ndarray:
    """The sheet that was drawn."""
    return np.asarray(figure.axes[0].images[0].get_array())  # type: ignore[attr-defined]


def images(z: torch.Tensor) -> torch.Tensor:
    """2 x 3 pixels from 0 to 1 that z decides."""
    return torch.sigmoid(z @ torch.linspace(-2, 2, 12).reshape(2, 6)).reshape(-1, 1, 2, 3)


def test_samples_of_a_model_are_those_that_sample_draws() -> None:
    model = GenerativeModel(Prior(2), images)
    sheet = shades(plot.samples(model, n=6, seed=4, columns=3))
    assert sheet.shape == (2 * 3 + 1, 3 * 4 + 1)
    x = sample(model, 6, seed=4)[1]
    for i in range(6):
        top, left = 1 + i // 3 * 3, 1 + i % 3 * 4
        np.testing.assert_array_equal(sheet[top : top + 2, left : left + 3], (255 * x[i, 0]).round())
    assert not np.array_equal(sheet, shades(plot.samples(model, n=6, seed=5, columns=3)))
    assert "z' from prior" in plot.samples(model, n=6).axes[0].get_title()


@pytest.mark.parametrize(("times", "plus"), [(1.0, 0.0), (2.0, -1.0), (255.0, 0.0), (1.04, -0.02)])
def test_usual_ranges_are_told_from_the_values(times: float, plus: float) -> None:
    """[0, 1], [-1, 1], [0, 255]; and a decoder that goes a little beyond."""
    x = torch.linspace(0, 1, 6).reshape(1, 1, 2, 3)
    own, other = (shades(plot.samples(y)).astype(int) for y in (x, times * x + plus))
    assert np.abs(own - other).max() <= (6 if times == 1.04 else 0)
    assert own[1:-1, 1:-1].tolist() == [[0, 51, 102], [153, 204, 255]]


def test_dim_images_stay_dim() -> None:
    assert shades(plot.samples(torch.full((1, 1, 2, 3), 0.2)))[1, 1] == 51


def test_other_ranges_take_quantiles_and_limits_take_what_is_said() -> None:
    x = torch.linspace(-7, 13, 6000).reshape(1, 1, 60, 100)
    sheet = shades(plot.samples(x))
    assert (sheet[1, 1], sheet[-2, -2]) == (0, 255)
    assert abs(int(sheet[30, 99]) - 127) < 4
    for y in (4 * x / 13, 16 * (x + 7) / 20):  # standardised, and from 0 to 16: not a range of bytes
        assert shades(plot.samples(y)).max() == 255
        assert shades(plot.samples(y))[-2, -2] == 255
    assert shades(plot.samples(x, limits=(-100.0, 100.0)))[1, 1] == round(255 * 93 / 200)
    with pytest.raises(UsageError, match="expected a GenerativeModel, an audit or a tensor of images, got str"):
        plot.samples("generator")
    with pytest.raises(UsageError, match=r"limits: expected a number for black below that for white, got 1 and 0"):
        plot.samples(x, limits=(1.0, 0.0))


def test_units_of_the_data_do_not_change_a_picture() -> None:
    shift, scale = torch.tensor(30.0), torch.tensor(400.0)
    stored = GenerativeModel(Prior(2), images, shift, scale, image=(1, 2, 3))
    plain = GenerativeModel(Prior(2), images, image=(1, 2, 3))
    np.testing.assert_allclose(shades(plot.samples(stored)), shades(plot.samples(plain)), atol=1)


def test_flat_rows_are_images_where_a_shape_is_said() -> None:
    flat = GenerativeModel(Prior(2), lambda z: images(z).flatten(1))
    np.testing.assert_array_equal(
        shades(plot.samples(flat, shape=(1, 2, 3))), shades(plot.samples(GenerativeModel(Prior(2), images)))
    )
    with pytest.raises(UsageError, match=r"expected images.* got rows of shape \[6\]; .* say shape="):
        plot.samples(flat)
    with pytest.raises(UsageError, match=r"shape: expected one of 6 numbers, as the rows have, got \(1, 2, 2\)"):
        plot.samples(flat, shape=(1, 2, 2))


def test_a_brought_model_is_shown_in_one_call_and_in_a_notebook() -> None:
    z = torch.randn(60, 2, generator=stream(0, "z"))
    x = (images(z) + 0.01 * torch.randn(60, 1, 2, 3, generator=stream(0, "x"))).clamp(0, 1)
    mine = modules(
        lambda x: (torch.logit(x.clamp(0.01, 0.99)).flatten(1)[:, :2], torch.full((len(x), 2), -4.0)),
        images,
        {"train": x[:40], "heldout": x[40:]},
        gives="log-variance",
        likelihood=Gaussian(scale=0.1),
        check=False,
    )
    model = mine.generator(Prior(2))
    assert model.image == (1, 2, 3)
    assert shades(plot.samples(model, n=4)).shape == (4, 17)
    shown = mine._repr_html_()
    assert "40 train" in shown
    assert "2 dimensions" in shown
    assert "N(0, I)" in shown
    assert "images 1 x 2 x 3" in model._repr_html_()


def test_bare_arrays_and_latent_distributions_show_themselves() -> None:
    mean = torch.randn(30, 2, generator=stream(0, "m"))
    splits = {"train": mean[:10], "selection": mean[10:20], "heldout": mean[20:]}
    scales = {s: torch.full_like(m, 0.5) for s, m in splits.items()}
    shown = arrays(splits, scales, gives="std")._repr_html_()
    assert "decoder</th><td" in shown
    assert ">none<" in shown
    assert "brought model" in Brought({})._repr_html_()
    prior = Prior(3)._repr_html_()
    assert "nothing is stored" in prior
    assert "exact" in prior
