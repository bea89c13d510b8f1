"""What the page of `zprime explore` shows: decoded x', posteriors, what data share, ways between them, other fits."""

import base64
import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from exploring import D, N, explorer, posteriors, rows
from test_exporting import KINDS, of
from zprime.data import Rows
from zprime.decoders import as_decoder
from zprime.errors import ArrayError, UsageError
from zprime.exploring import Trials, pick
from zprime.exploring.explorer import NUMBERS, SHARED, STOPS
from zprime.exploring.paths import straight, through
from zprime.exploring.scene import Axes, numbers, shown
from zprime.exploring.static import noise_of
from zprime.exporting import FromNoise, from_noise
from zprime.latent import Aggregated, Gaussian, Prior
from zprime.latent.gaussian import moments
from zprime.posteriors import MemoryPosteriors
from zprime.rng import stream


def pixels(x: dict[str, str]) -> torch.Tensor:
    return torch.from_numpy(np.frombuffer(base64.b64decode(x["pixels"]), np.uint8).copy()).double() / 255


# -- x' and z' ---------------------------------------------------------------------------------------------------------


def test_x_is_what_the_generative_model_makes_of_the_same_z() -> None:
    table, picture = explorer(image=False), explorer()
    z, x = table.model.sample(5, rng=stream(0, "draws"))
    for z_, x_ in zip(z, x, strict=True):
        made = torch.tensor(table.decode(z_.tolist())["x"]["values"])
        torch.testing.assert_close(
            made, table.model.restore(x_).flatten(), rtol=1e-4, atol=1e-4
        )  # in units of the data
        seen = pixels(picture.decode(z_.tolist())["x"])
        torch.testing.assert_close(seen, x_.flatten().double(), rtol=0, atol=0.5 / 255 + 1e-6)


def test_the_log_ratio_is_that_of_the_source() -> None:
    e, z = explorer(), [0.3, -1.0, 2.0]
    at = torch.tensor([z])
    right = e.sources["gaussian"].log_prob(at) - Prior(D).log_prob(at)
    assert e.decode(z, "gaussian")["log_ratio"] == pytest.approx(float(right), rel=1e-4)
    assert e.decode(z)["log_ratio"] == 0
    without = replace(e, sources={"flow-matching": of_no_density()}, choice="prior")
    assert without.decode([0.0] * D, "flow-matching")["log_ratio"] is None


def of_no_density() -> Gaussian:
    class Silent(Gaussian):
        density_of_kind = "none"

    return Silent(torch.zeros(D), torch.ones(D))


@pytest.mark.parametrize(
    "z", [[], [0.0] * (D - 1), [0.0] * (D + 1), [math.nan, 0.0, 0.0], [0.0, math.inf, 0.0], [2e4, 0.0, 0.0]]
)
def test_a_z_that_is_none_is_refused(z: list[float]) -> None:
    with pytest.raises(UsageError, match="z: expected"):
        explorer().decode(z)


def test_a_source_that_is_none_is_refused() -> None:
    with pytest.raises(UsageError, match="source: expected one of prior, gaussian, aggregated, got 'mixture'"):
        explorer().decode([0.0] * D, "mixture")
    with pytest.raises(UsageError, match="source"):
        explorer(choice="mixture")
    with pytest.raises(UsageError, match="explore: expected at most 4,000 latents, got 5,000"):
        explorer(model=replace(explorer().model, latent=Prior(5000)))
    with pytest.raises(ArrayError, match=f"x: expected {N} rows"):
        explorer(x=rows(3))


# -- where things lie --------------------------------------------------------------------------------------------------


def test_a_gaussian_along_the_axes_is_the_marginal_of_its_draws() -> None:
    axes = Axes.of(posteriors().mean)
    torch.testing.assert_close(axes.directions.norm(dim=0), torch.ones(len(axes.names), dtype=torch.float64))
    tril = torch.tensor([[1.0, 0.0, 0.0], [0.6, 0.8, 0.0], [0.0, 0.3, 0.5]])
    mean = torch.tensor([1.0, -2.0, 0.5])
    for scale, full in ((tril, tril), (tril.diagonal(), torch.diag(tril.diagonal()))):
        found = axes.gaussian(mean, scale)
        right = axes.directions.T @ (full @ full.T).double() @ axes.directions
        torch.testing.assert_close(torch.tensor(found["covariance"]).double(), right, rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(
            torch.tensor(found["mean"]).double(), mean.double() @ axes.directions, rtol=1e-3, atol=1e-4
        )


def test_the_axes_are_principal_ones_and_the_dimensions_that_vary_most() -> None:
    codes = torch.randn(500, 5, generator=stream(0, "codes")) * torch.tensor([0.15, 3.0, 1.0, 0.2, 2.0])
    axes = Axes.of(codes)
    assert axes.names[:4] == tuple(f"principal axis {i}" for i in (1, 2, 3, 4))
    assert axes.names[4:] == tuple(f"dimension {j}" for j in (1, 4, 2, 3, 0))
    assert float(axes.directions[1, 0].abs()) > 0.99
    assert Axes.of(torch.randn(10, 1)).names == ("principal axis 1", "dimension 0")
    assert Axes.of(codes * torch.tensor([0.1, 1, 1, 1, 1])).names[-1] == "dimension 0 (collapsed)"


def test_a_datum_is_its_row_its_posterior_and_what_is_decoded_of_it() -> None:
    e = explorer()
    found, p = e.row(7), e.posteriors
    torch.testing.assert_close(pixels(found["x"]), rows()[7].flatten().double(), rtol=0, atol=0.5 / 255 + 1e-6)
    assert found["made"] == e.decode(p.mean[7].tolist())["x"]
    assert found["posterior"] == e.axes.gaussian(p.mean[7], p.scale[7])
    assert replace(e, x=None).row(7)["x"] is None
    codes = MemoryPosteriors(p.mean, None, row_ids=p.row_ids)
    assert replace(e, posteriors=codes, trials=None).row(7)["posterior"] is None
    for wrong in (-1, N):
        with pytest.raises(UsageError, match=f"rows: expected 1 to {SHARED} different numbers from 0 to {N - 1}"):
            e.row(wrong)


def test_the_scene_is_json_of_what_is_there() -> None:
    scene = explorer().scene()
    assert json.loads(json.dumps(scene, allow_nan=False)) == scene
    assert [s["name"] for s in scene["sources"]] == ["prior", "gaussian", "aggregated"]
    assert scene["rows"]["ids"] == posteriors().row_ids.tolist()
    assert scene["rows"]["labels"] == posteriors().labels.tolist()  # type: ignore[union-attr]
    np.testing.assert_allclose(scene["rows"]["z"], posteriors().mean.numpy(), rtol=1e-4)
    assert (scene["image"], scene["columns"]) == ([1, 4, 4], [])
    table = explorer(image=False).scene()
    assert table["columns"] == [f"x{j}" for j in range(16)]
    low, high = table["span"][0]
    assert low <= 3 + 16 * float(rows()[:, 0, 0, 0].min()) + 1e-3
    assert high >= 3 + 16 * float(rows()[:, 0, 0, 0].max()) - 1e-3


def test_what_is_sent_is_bounded_in_many_dimensions() -> None:
    wide = MemoryPosteriors(torch.zeros(900, 4000), None)
    assert len(pick(wide, 3)) * 4000 * 5 <= NUMBERS
    some = pick(posteriors(2000), 3)
    assert len(some) == 600
    assert bool((some[1:] > some[:-1]).all())


def test_numbers_that_json_lacks_are_not_written() -> None:
    assert numbers(torch.tensor([math.nan, math.inf, -math.inf, 1 / 3])) == [0.0, 3.4e38, -3.4e38, 0.33333]
    assert pixels(shown(torch.tensor([math.nan, -1.0, 2.0, 0.5]), image=True)).tolist() == [0, 0, 1, 128 / 255]


# -- what data share ---------------------------------------------------------------------------------------------------


def test_what_data_share_is_the_closed_form_and_tightens() -> None:
    e, widths = explorer(), []
    for n in (1, 2, 5, 20, 60):
        found = e.shared(list(range(n)))
        mean, scale = (t[:n].double() for t in (e.posteriors.mean, e.posteriors.scale))
        precision = 1 + (scale.pow(-2) - 1).sum(0)
        z = (mean * scale.pow(-2)).sum(0) / precision
        right = e.axes.gaussian(z, precision.rsqrt())
        np.testing.assert_allclose(found["posterior"]["covariance"], right["covariance"], rtol=1e-3, atol=1e-6)
        np.testing.assert_allclose(found["z"], z.numpy(), rtol=1e-3, atol=1e-4)
        assert found["made"] == e.decode(z.float().tolist())["x"]
        widths.append(math.sqrt(found["posterior"]["covariance"][0][0]))
    assert all(b < a for a, b in zip(widths, widths[1:], strict=False))
    assert widths[-1] == pytest.approx(widths[0] / math.sqrt(60), rel=0.2)


def test_full_posteriors_share_a_full_one() -> None:
    e = explorer()
    tril = torch.tensor([[0.3, 0.0, 0.0], [0.2, 0.3, 0.0], [0.0, 0.1, 0.4]]).expand(N, D, D).contiguous()
    full = replace(e, posteriors=MemoryPosteriors(e.posteriors.mean, tril), trials=None)
    precision = 4 * torch.linalg.inv((tril[0] @ tril[0].T).double()) - 3 * torch.eye(D)
    right = full.axes.gaussian(torch.zeros(D), torch.linalg.cholesky(torch.linalg.inv(precision)))
    np.testing.assert_allclose(
        full.shared([4, 9, 1, 0])["posterior"]["covariance"], right["covariance"], rtol=1e-3, atol=1e-5
    )


def test_what_shares_no_latent_says_why() -> None:
    e = explorer(trials=False)
    codes = replace(e, posteriors=MemoryPosteriors(e.posteriors.mean, None))
    assert "Posteriors are known by draws, or codes without a posterior" in codes.shared([0, 1])["says"]
    assert codes.shared([0, 1])["ok"] is False
    wide = MemoryPosteriors(e.posteriors.mean, torch.full((N, D), 1.5))
    assert "is no density" in replace(e, posteriors=wide).shared([0, 1])["says"]
    other = replace(e.model, latent=Gaussian(torch.ones(D), torch.ones(D)))
    assert "N(0, I)" in replace(e, model=other).shared([0, 1])["says"]
    for wrong in ([], [0, 0], [N], list(range(SHARED + 1))):
        with pytest.raises(UsageError, match="rows"):
            e.shared(wrong)


# -- ways --------------------------------------------------------------------------------------------------------------


def ring(n: int = 400) -> torch.Tensor:
    angle = 2 * math.pi * torch.rand(n, generator=stream(0, "ring"), dtype=torch.float64)
    return torch.stack([angle.cos(), angle.sin()], 1)


def test_the_way_through_draws_stays_among_them_and_the_straight_one_does_not() -> None:
    a, b = torch.tensor([1.0, 0.0]), torch.tensor([-1.0, 0.0])
    assert float(straight(a, b, 13).norm(dim=1).min()) == 0
    way = through(a, b, ring(), 13)
    assert float(way.norm(dim=1).min()) > 0.99
    length = (way[1:] - way[:-1]).norm(dim=1)
    assert float(length.max()) < 1.2 * float(length.min())
    assert float(length.sum()) == pytest.approx(math.pi, rel=0.02)
    torch.testing.assert_close(through(a, b, ring(), 13, power=1.0), straight(a, b, 13))


def test_both_ways_begin_and_end_at_the_data() -> None:
    a, b = torch.randn(2, 4, generator=stream(0, "ends"))
    draws = torch.randn(50, 4, generator=stream(0, "draws"))
    for way in (straight(a, b, 7), through(a, b, draws, 7), through(a, b, draws, 2), through(a, a, draws, 5)):
        assert torch.equal(way[0], a.double())
    assert torch.equal(through(a, b, draws, 7)[-1], b.double())
    assert torch.equal(straight(a, b, 7)[-1], b.double())
    assert torch.equal(through(a, a, draws, 5), a.double().expand(5, 4))


def test_dimensions_that_say_nothing_do_not_bend_the_way() -> None:
    noise = 9 * torch.randn(400, 1, generator=stream(0, "noise"), dtype=torch.float64)
    draws, a, b = torch.cat([ring(), noise], 1), torch.tensor([1.0, 0.0, 0.0]), torch.tensor([-1.0, 0.0, 0.0])
    assert float(through(a, b, draws, 50, dims=[0, 1])[:, :2].norm(dim=1).min()) > 0.99
    assert float(through(a, b, draws, 50)[:, :2].norm(dim=1).min()) < 0.98


def test_the_ways_between_two_data_are_decoded_and_scored() -> None:
    e = explorer()
    found = e.between(3, 11, "aggregated")
    for stops in found.values():
        assert len(stops) == STOPS
        assert stops[0]["z"] == numbers(e.posteriors.mean[3])
        assert stops[-1]["z"] == numbers(e.posteriors.mean[11])
        for s in stops[:: STOPS - 1]:
            again = e.decode(s["z"], "aggregated")
            assert s["log_ratio"] == pytest.approx(again["log_ratio"], abs=1e-2)
            torch.testing.assert_close(pixels(s["x"]), pixels(again["x"]), rtol=0, atol=1.01 / 255)
    assert found["straight"] != found["through"]


# -- other settings ----------------------------------------------------------------------------------------------------


def test_what_is_tried_is_what_its_setting_says() -> None:
    trials = explorer().trials
    assert trials is not None
    one = trials.tried("components", 1.0)
    m, S = moments(trials.train)
    z = torch.randn(20, D)
    right = torch.distributions.MultivariateNormal(m, S).log_prob(z.double())
    torch.testing.assert_close(one.r.log_prob(z), right, rtol=1e-4, atol=1e-3)
    exact = trials.tried("bandwidth", 0.0).r
    aggregated = Aggregated(trials.train.mean, trials.train.scale)
    torch.testing.assert_close(exact.log_prob(z), aggregated.log_prob(z), rtol=1e-4, atol=1e-4)
    smooth = trials.tried("bandwidth", 1.0).r
    torch.testing.assert_close(
        smooth.log_prob(z).mean(),
        torch.distributions.Normal(m, S.diagonal().sqrt()).log_prob(z.double()).sum(1).mean(),
        rtol=1e-3,
        atol=1e-3,
    )


def test_the_gain_is_that_of_the_candidate_on_the_selection_split() -> None:
    trials = explorer().trials
    assert trials is not None
    found = trials.tried("components", 2.0)
    z = trials.selection.draw(rng=stream(9, "other draws"), draws=400)
    log_p = Prior(D).log_prob(z)
    log_r = torch.logaddexp(found.r.log_prob(z) + math.log1p(-found.share), log_p + math.log(found.share))
    assert found.gain == pytest.approx(float((log_r - log_p).mean()), abs=0.05)
    says = found.says()
    assert says["gain"] == found.gain
    assert says["half"] == pytest.approx(1.96 * (found.stderr or 0), rel=1e-3)


def test_copies_are_found_and_smoothing_ends_them() -> None:
    """The decoder shows codes as they are; narrow posteriors of few rows are copies, one Gaussian makes none."""
    mean, unseen = torch.randn(2, 80, 2, generator=stream(0, "planted"))
    train, selection = (MemoryPosteriors(m, torch.full_like(m, 1e-3)) for m in (mean, unseen))
    known = {"train": Rows("train", mean, train.row_ids), "selection": Rows("selection", unseen, train.row_ids)}
    trials = Trials(train, selection, Prior(2), as_decoder(lambda z: z), known)
    says = trials.tried("bandwidth", 0.0).says()
    assert says["copies"] is True
    assert says["nearer"][1] > 0.9
    assert trials.tried("bandwidth", 1.0).says()["copies"] is False
    bare = replace(trials, rows=None, made={})
    assert bare.tried("bandwidth", 0.0).says()["copies"] is None
    assert bare.tried("bandwidth", 0.0) is bare.tried("bandwidth", 0.0)  # fitted once


def test_what_was_tried_is_a_source_and_nothing_else_may_be_tried() -> None:
    e = explorer()
    found = e.trying("components", 2.0)
    assert e.decode([0.0] * D, "components 2")["log_ratio"] is not None
    assert json.dumps(found, allow_nan=False)
    assert found["source"]["name"] == "components 2"
    for setting, value, said in (
        ("rank", 1.0, "setting: expected one of components, bandwidth"),
        ("components", 3.0, "components: expected one of 1, 2, 5, 10, got 3"),
        ("bandwidth", 0.07, "bandwidth: expected one of 0, 0.05"),
        ("components", math.nan, "components: expected one of"),
    ):
        with pytest.raises(UsageError, match=said):
            e.trying(setting, value)
    with pytest.raises(UsageError, match="nothing may be tried"):
        replace(e, trials=None).trying("components", 2.0)


def test_codes_without_a_width_have_no_bandwidth() -> None:
    trials = explorer().trials
    assert trials is not None
    codes = MemoryPosteriors(trials.train.mean, None)
    bare = replace(trials, train=codes, selection=MemoryPosteriors(trials.selection.mean, None), rows=None, made={})
    assert set(bare.values) == {"components"}
    assert bare.tried("components", 2.0).says()["copies"] is None


# -- without a server --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", KINDS)
def test_every_z_is_reached_by_random_numbers(name: str) -> None:
    drawn = from_noise(of(name))
    found = noise_of(drawn)
    z = 3 * torch.randn(20, drawn.d, generator=stream(0, "wanted"), dtype=torch.float64)
    normal = (z - torch.tensor(found["mean"]).double()) @ torch.tensor(found["inverse"]).double().T
    assert normal.shape == (20, drawn.columns)
    uniform = torch.full((20,), found["uniform"], dtype=torch.float64)
    torch.testing.assert_close(drawn(uniform, normal.float()).double(), z, rtol=1e-4, atol=1e-4)


def test_points_reach_nothing_else() -> None:
    points = from_noise(Aggregated(torch.randn(4, 2), torch.full((4, 2), 1e-9)))
    with pytest.raises(UsageError, match="static: expected a component with a width"):
        noise_of(points)
    never = FromNoise(torch.tensor([0.0, 1.0]).double(), torch.zeros(2, 2), torch.tensor([[5.0, 5.0], [1.0, 1.0]]))
    assert noise_of(never)["uniform"] == 0.5
    assert noise_of(never)["inverse"] == [[1.0, 0.0], [0.0, 1.0]]  # of the second: the first has no share
