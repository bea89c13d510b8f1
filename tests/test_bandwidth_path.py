"""The copying road: the closed form where rows are far apart, its ends, its laws, and what it says of a whole run."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import small
from zprime import plot, serialise
from zprime.components import choose
from zprime.latent.gaussian import moments
from zprime.measure.samples.bandwidth_path import BANDWIDTHS, Surroundings, bandwidth_path, path_draws
from zprime.measure.samples.copying import TrainingSet, copying
from zprime.measure.study import Split
from zprime.posteriors import MemoryPosteriors
from zprime.reporting import report
from zprime.reporting.samples import path_line
from zprime.results.audit import Audit
from zprime.results.audit import load as load_audit
from zprime.results.samples import CODES, PLANTED, RECONSTRUCTED, BandwidthPath, Copying
from zprime.rng import stream

N, M = 11, 4000


def line(scale: float) -> MemoryPosteriors:
    """Codes on a line, 1 apart: the decoder shows them as they are."""
    mean = torch.arange(N, dtype=torch.float64)[:, None] - (N - 1) / 2
    return MemoryPosteriors(mean, torch.full_like(mean, scale))


def measured(train: MemoryPosteriors, real: torch.Tensor, *, samples: int = 1000) -> BandwidthPath:
    """The road where the decoder is the identity, and reconstructions of unseen rows are these."""
    data = TrainingSet(train.mean, train.mean, reference=1)
    yard = data.neighbours(real)
    around = Surroundings(data, yard, {"reconstructions": yard.take(slice(samples))})
    return bandwidth_path(Split("train", train), lambda z: z, around, rng=stream(0, "road"))


@pytest.fixture(scope="module")
def straight() -> BandwidthPath:
    # unseen rows lie anywhere between two training rows: 0 to 1/2 from the nearer one
    real = N * (torch.rand(M, 1, generator=stream(0, "real"), dtype=torch.float64) - 0.5)
    return measured(line(1e-9), real)


def chance(h: float) -> float:
    """That a draw is nearer to a training row than such a row is: 1 less twice its distance, or 0, on average.

    A draw is `(1 - h^2)^1/2 mu` and a noise of h S^1/2.
    """
    mean = line(1e-9).mean[:, 0]
    grid = torch.linspace(-8, 8, 40_001, dtype=torch.float64)
    weight = torch.exp(-0.5 * grid.square())
    x = math.sqrt(1 - h * h) * mean[:, None] + h * float(mean.square().mean()) ** 0.5 * grid
    distance = (x - x.round().clamp(mean[0], mean[-1])).abs()
    return float(((1 - 2 * distance).clamp(min=0) * weight).sum() / weight.sum() / N)


def test_the_road_is_the_closed_form(straight: BandwidthPath) -> None:
    truths = {s.name: chance(s.bandwidth) for s in straight.points}
    assert truths["h = 0.05"] > 0.7 > truths["h = 0.1"] > 0.5 > truths["h = 0.5"] > truths["h = 1"]
    for stop in straight.points:
        e = stop.copying.regional
        assert (e.stderr or 0.0) < 0.05, stop.name
        assert e.value == pytest.approx(truths[stop.name], abs=3 * (e.stderr or 0.0) + 1e-6), stop.name


def test_the_codes_are_copies_and_smoothing_ends_it(straight: BandwidthPath) -> None:
    codes, exact = straight.points[:2]
    assert (codes.name, codes.bandwidth, codes.copying.regional.value) == (CODES, 0.0, 1.0)
    assert exact.copying.regional.value > 0.99  # the aggregated posterior, as narrow as these are
    assert codes.copying.authenticity.value == 0
    assert [s.name for s in straight.copies] == [s.name for s in straight.points[: len(straight.copies)]]
    assert {CODES, "h = 0"} <= {s.name for s in straight.copies}
    assert straight.points[-1].copying.status == "passes"


def test_wide_posteriors_are_no_copies_from_the_start() -> None:
    # a posterior as wide as the rows are apart: ancestral sampling need not copy, which the codes themselves do
    real = N * (torch.rand(M, 1, generator=stream(0, "real"), dtype=torch.float64) - 0.5)
    found = measured(line(1.0), real)
    assert [s.name for s in found.copies] == [CODES]


def test_a_hole_is_where_the_road_leaves_the_data() -> None:
    rng = stream(0, "clumps")
    centre = torch.tensor([[-5.0, 0.0], [5.0, 0.0]], dtype=torch.float64)
    mean, real = (
        centre[torch.randint(2, (n,), generator=rng)] + torch.randn(n, 2, generator=rng, dtype=torch.float64)
        for n in (300, 1000)
    )
    found = measured(MemoryPosteriors(mean, torch.full_like(mean, 1e-6)), real)
    assert found.copies
    assert found.off
    assert found.off[-1].bandwidth == 1.0  # one Gaussian draws from between the clumps
    assert found.copies[-1].bandwidth < found.off[0].bandwidth
    values = [s.copying.regional.value for s in found.points]
    assert all(a > b - 0.03 for a, b in zip(values, values[1:], strict=False))  # downhill all the way
    assert found.points[-1].copying.z_u.value > found.points[0].copying.z_u.value


def test_no_hole_no_way_off_the_data() -> None:
    rng = stream(0, "one clump")
    mean, real = (torch.randn(n, 2, generator=rng, dtype=torch.float64) for n in (300, 2000))
    found = measured(MemoryPosteriors(mean, torch.full_like(mean, 1e-6)), real)
    assert found.copies
    assert found.off == []
    assert found.points[-1].copying.regional.low < 0.5 < found.points[-1].copying.regional.high


# -- laws --------------------------------------------------------------------------------------------------------------


def test_every_stop_keeps_mean_and_covariance() -> None:
    rng = stream(0, "codes")
    mean = torch.randn(50, 3, generator=rng, dtype=torch.float64) @ torch.tensor(
        [[1.0, 0.8, 0.0], [0.0, 0.6, 0.0], [0.0, 0.0, 2.0]], dtype=torch.float64
    )
    train = MemoryPosteriors(mean + 1, 0.2 + torch.rand(50, 3, generator=rng, dtype=torch.float64))
    m, S = moments(train)
    n = 200_000
    for name, h, z in path_draws(Split("train", train), n, rng=stream(1, "walk")):
        if name != CODES:
            torch.testing.assert_close(z.mean(0), m, atol=5 * math.sqrt(float(S.diagonal().max()) / n), rtol=0)
            torch.testing.assert_close(torch.cov(z.T), S, atol=0.06, rtol=0, msg=f"{h}")


def test_nothing_changes_along_the_road_but_the_bandwidth() -> None:
    train = line(0.1)
    points = {name: z for name, _, z in path_draws(Split("train", train), 500, rng=stream(0, "walk"))}
    row = choose(train.log_weights, 500, stream(0, "walk"))
    torch.testing.assert_close(points[CODES], train.mean[row])
    m, S = moments(train)
    noise = points["h = 0"] - points[CODES]
    assert float(noise.std()) == pytest.approx(0.1, rel=0.15)
    a = math.sqrt(1 - 0.3**2)
    kernel = (points["h = 0.3"] - m - a * (points["h = 0"] - m)) / 0.3
    torch.testing.assert_close(kernel, points["h = 1"] - m)
    assert float(kernel.var()) == pytest.approx(float(S), rel=0.2)


def test_weights_are_kept() -> None:
    weights = torch.zeros(N, dtype=torch.float64)
    weights[[3, 7]] = 0.5
    train = line(0.1)
    weighted = MemoryPosteriors(train.mean, train.scale, weights=weights)
    z = next(z for _, _, z in path_draws(Split("train", weighted), 50, rng=stream(0, "w")))
    assert set(z[:, 0].tolist()) == {float(train.mean[3]), float(train.mean[7])}


# -- in an audit -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Audit, Path]:
    folder = tmp_path_factory.mktemp("road")
    job, audit = small.run(folder / "run", small.table(folder / "t.npz", n=240))
    return audit, job.path


def test_it_is_in_the_record_beside_both_controls(made: tuple[Audit, Path]) -> None:
    audit, folder = made
    assert audit.samples is not None
    found = audit.samples.path
    assert found is not None
    assert [s.bandwidth for s in found.points] == [0.0, *BANDWIDTHS]
    assert set(found.beside) == {PLANTED, RECONSTRUCTED, "prior"}
    assert found.beside[PLANTED].regional.low > 0.9
    assert found.beside[PLANTED].regional.n == found.points[0].copying.regional.n == found.rows
    assert serialise.from_jsonable(BandwidthPath, json.loads(json.dumps(serialise.to_jsonable(found)))) == found
    assert load_audit(folder / "audit").samples.path == found  # type: ignore[union-attr]


def test_it_is_drawn(made: tuple[Audit, Path], tmp_path: Path) -> None:
    audit, folder = made
    figure = plot.bandwidth_path(audit)
    assert figure is not None
    top, bottom = figure.axes
    assert audit.samples is not None
    found = audit.samples.path
    assert found is not None
    drawn = [line.get_ydata()[0] for line in top.lines if line.get_marker() == "o"]
    assert drawn == [s.copying.regional.value for s in found.points]
    assert {t.get_text() for t in top.texts} == set(found.beside)
    assert [t.get_text() for t in bottom.get_xticklabels()] == ["codes", *(f"{h:g}" for h in BANDWIDTHS)]
    page = report(folder, tmp_path / "page.html").read_text()
    assert "The bandwidth path from copies to off the data" in page
    assert page.count("bandwidth h that smooths the posteriors") == 1
    bare = replace(audit, samples=replace(audit.samples, path=None))
    assert plot.bandwidth_path(bare) is None
    assert plot.bandwidth_path(replace(audit, samples=None)) is None


def test_the_public_page_has_it_without_a_row_of_the_data(made: tuple[Audit, Path], tmp_path: Path) -> None:
    _, folder = made
    page = report(folder, tmp_path / "public.html", public=True).read_text()
    assert "bandwidth h that smooths the posteriors" in page  # counts and distances, no row
    assert "data-near" not in page


def test_words(straight: BandwidthPath) -> None:
    said = path_line(straight)
    assert f"samples copy up to {straight.copies[-1].name}" in said

    def marked(status: str) -> BandwidthPath:
        points = [replace(s, copying=replace(s.copying, status=status)) for s in straight.points]
        return replace(straight, points=points)

    assert "nowhere do samples measurably copy" in path_line(marked("passes"))
    assert "untested" in path_line(marked("untested"))


def test_as_many_of_each_or_z_u_would_not_compare() -> None:
    train = line(1e-9)
    data = TrainingSet(train.mean, train.mean, reference=1)
    yard = data.neighbours(torch.rand(300, 1, dtype=torch.float64, generator=stream(0, "x")))
    beside = {"few": yard.take(slice(60)), "many": yard}
    found = bandwidth_path(Split("train", train), lambda z: z, Surroundings(data, yard, beside), rng=stream(0, "road"))
    sizes: set[int] = {found.rows, *(c.z_u.n for c in _all(found))}
    assert sizes == {60}
    assert found.beside["many"] == copying(yard.take(slice(60)), yard)


def _all(found: BandwidthPath) -> list[Copying]:
    return [*(s.copying for s in found.points), *found.beside.values()]
