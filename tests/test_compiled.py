"""Density and score of diagonal mixtures, compiled for every instruction set that this machine can run, and in torch.

Both against the direct form in float64, written here.
"""

import json
import math
import os
import shutil
import signal
import subprocess
import sys
import types
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from zprime.arrays import gaussian_log_prob
from zprime.components import Diagonal
from zprime.errors import ArrayError, UsageError
from zprime.kernels import (
    DiagonalMixture,
    LabelledMixture,
    compiled,
    mixture_compiled,
    mixture_log_prob,
    mixture_torch,
    trainable_mixture_log_prob,
)
from zprime.rng import stream

SETS = [] if compiled.module is None else list(compiled.module.sets())
needs_compiled = pytest.mark.skipif(compiled.module is None, reason=f"compiled kernels: {compiled.missing}")
FLOAT32 = 5e-5  # nats: what `mixture_log_prob` promises
Parts = tuple[Tensor, Tensor, Tensor, Tensor]


def direct(
    z: Tensor, mean: Tensor, scale: Tensor, log_weight: Tensor, leave_out: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Log-density and score by the direct form in float64, a few points at a time."""
    z, mean, scale = z.double(), mean.double(), scale.double()
    constant = log_weight.double() - scale.log().sum(1) - 0.5 * z.shape[1] * math.log(2 * math.pi)
    values, scores = [], []
    for start in range(0, len(z), max(1, 20_000_000 // mean.numel())):
        rows = slice(start, start + max(1, 20_000_000 // mean.numel()))
        u = (z[rows, None] - mean) / scale
        terms = constant - 0.5 * u.square().sum(2)
        if leave_out is not None:
            terms = terms.masked_fill(leave_out[rows, None] == torch.arange(len(mean)), -torch.inf)
        share = terms.softmax(1)
        values.append(terms.logsumexp(1))
        scores.append(-torch.einsum("mn,mnd->md", share, u / scale))
    return torch.cat(values), torch.cat(scores)


def case(n: int, d: int, scale: float, dtype: torch.dtype = torch.float64, m: int = 40) -> Parts:
    """Means of unit spread, scales within a factor e of `scale`; points near a mean, between, and far off."""
    rng = stream(0, "compiled", n, d)
    mean = torch.randn(n, d, generator=rng, dtype=torch.float64)
    scales = scale * (2 * torch.rand(n, d, generator=rng, dtype=torch.float64) - 1).exp()
    log_weight = torch.randn(n, generator=rng, dtype=torch.float64).log_softmax(0)
    at = torch.randint(n, (m,), generator=rng)
    noise = torch.randn(3, m, d, generator=rng, dtype=torch.float64)
    z = torch.cat([mean[at] + scales[at] * noise[0], noise[1, : m // 2], 1e4 * noise[2, :3]])
    return z.to(dtype), mean.to(dtype), scales.to(dtype), log_weight


def allowed(backend: str, z: Tensor, scale: float) -> Tensor:
    """Float32: what is promised. Float64: a few roundings; in torch those of an expanded square."""
    if backend != "torch":
        return torch.full((len(z),), FLOAT32 if z.dtype == torch.float32 else 1e-11, dtype=torch.float64)
    return 1e-11 + 4e-16 * z.shape[1] * (z.double().square().amax(1) + 10) * math.e**2 / scale**2


def check(backend: str, parts: Parts, scale: float, leave_out: Tensor | None = None) -> None:
    """Value and score, alone and together."""
    expected, gradient = direct(*parts, leave_out)
    mixture = DiagonalMixture(*parts[1:])
    value, score = mixture.log_prob_and_score(parts[0], leave_out=leave_out)
    assert value.dtype == score.dtype == torch.float64
    assert torch.equal(mixture.log_prob(parts[0], leave_out=leave_out), value)
    same = value == expected  # -inf too
    error = (value - expected).abs().masked_fill(same, 0) - 1e-12 * expected.abs().masked_fill(same, 0)
    bound = allowed(backend, parts[0], scale)
    assert (error <= bound).all(), f"{float((error - bound).max()):.1e} more than allowed"
    finite = torch.isfinite(expected)
    size = gradient.abs() + 1 / parts[2].double().amin()
    # where two terms nearly tie, an error of the log-terms moves their shares by as much
    assert ((score - gradient)[finite].abs() <= (10 * bound[:, None] * size + 1e-9 * size)[finite]).all()


@pytest.mark.parametrize("sort", [False, True], ids=["unsorted", "sorted"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
@pytest.mark.parametrize("scale", [1e-4, 3e-3, 1e-2, 0.1, 1.0, 1e2])
@pytest.mark.parametrize("d", [1, 2, 7, 16, 33, 64, 128])
def test_equals_the_direct_form(
    d: int, scale: float, dtype: torch.dtype, backend: str, *, sort: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mixture_compiled, "SORTED", 1 if sort else 10**9)
    check(backend, case(300, d, scale, dtype), scale)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
@pytest.mark.parametrize("scale", [1e-2, 1.0])
def test_equals_the_direct_form_in_512_dimensions(scale: float, dtype: torch.dtype, backend: str) -> None:
    check(backend, case(100, 512, scale, dtype, m=300), scale)


@pytest.mark.parametrize("n", [1, 2, 15, 16, 17, 255, 256, 257, 4097])
@pytest.mark.parametrize("m", [1, 3, 129, 700])
def test_equals_the_direct_form_at_every_size(n: int, m: int, backend: str) -> None:
    parts = case(n, 3, 0.3, torch.float32, m=m)
    check(backend, parts, 0.3)
    check(backend, parts, 0.3, torch.arange(len(parts[0])) % (n + 1) - 1)


@pytest.mark.parametrize(("n", "d"), [(100_000, 2), (100_000, 16)])
def test_equals_the_direct_form_with_100_000_components(n: int, d: int, backend: str) -> None:
    check(backend, case(n, d, 0.1, torch.float32, m=260 if d == 2 else 60), 0.1)


@pytest.mark.slow
def test_equals_the_direct_form_with_a_million_components(backend: str) -> None:
    parts = case(1_000_000, 16, 0.1, torch.float32, m=300)
    check(backend, (parts[0][:20], *parts[1:]), 0.1)
    sparse = torch.arange(0, len(parts[0]), 20)  # of those evaluated together, in sorted order, some are checked
    found = mixture_log_prob(*parts)[sparse]
    assert float((found - direct(parts[0][sparse], *parts[1:])[0]).abs().max()) < FLOAT32


@pytest.mark.parametrize("d", [2, 16, 128])
@pytest.mark.parametrize("scale", [0.01, 0.3])
def test_a_mixture_is_never_less_than_one_of_its_terms(d: int, scale: float, backend: str) -> None:
    """In float32 too: measures subtract the two, and where one posterior dominates nothing but rounding is left."""
    z, mean, scales, log_weight = case(400, d, scale, torch.float32, m=400)
    rng = stream(0, "own")
    z = mean + scales * torch.randn(400, d, generator=rng)
    own = gaussian_log_prob(z.double(), mean.double(), scales.double()) + log_weight
    assert float((own - mixture_log_prob(z, mean, scales, log_weight)).max()) < 1e-9


def test_panels_and_blocks_change_nothing(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = case(300, 5, 0.3, torch.float32, m=270)
    leave_out = torch.arange(len(parts[0])) % 301 - 1
    whole = mixture_log_prob(*parts, leave_out=leave_out)
    monkeypatch.setattr(compiled, "WORK", 1)
    for name, value in {"PANEL": 5 * 90, "KEPT": 0}.items():
        monkeypatch.setattr(mixture_compiled, name, value)
    for name, value in {"PANEL": 90, "POINTS": 13, "COMPONENTS": 17}.items():
        monkeypatch.setattr(mixture_torch, name, value)
    pieces = mixture_log_prob(*parts, leave_out=leave_out)
    torch.testing.assert_close(pieces, whole, rtol=1e-12, atol=FLOAT32 if backend != "torch" else 1e-10)
    check(backend, parts, 0.3, leave_out)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
def test_a_million_scales_away(dtype: torch.dtype, backend: str) -> None:
    for scale in (1e-4, 1.0, 1e2):
        rng = stream(0, "far")
        mean = torch.randn(400, 6, generator=rng, dtype=torch.float64)
        z = mean[:300] + 1e6 * scale * torch.randn(300, 6, generator=rng, dtype=torch.float64)
        scales = scale * (1 + torch.rand(400, 6, generator=rng, dtype=torch.float64))
        check(backend, (z.to(dtype), mean.to(dtype), scales.to(dtype), torch.zeros(400)), scale)


def test_terms_that_are_denormal_or_underflow_beside_each_other(backend: str) -> None:
    """Two components, of which the second is exp(-gap) of the first, up to where only it is left."""
    gap = torch.tensor([0.0, 1.0, 80.0, 87.0, 88.0, 103.0, 104.0, 500.0, 708.0, 740.0, 746.0, 5000.0])
    mean, scale = torch.tensor([[0.0], [3.0]]), torch.ones(2, 1)
    z = torch.linspace(-30, 40, 281)[:, None]
    for g in gap:
        check(backend, (z, mean, scale, torch.tensor([0.0, -float(g)], dtype=torch.float64)), 1.0)
    check(backend, (z * 1e-39, mean * 1e-40, scale, torch.zeros(2)), 1.0)  # denormal coordinates in float32


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
def test_scales_that_differ_by_a_million_within_one_mixture(dtype: torch.dtype, backend: str) -> None:
    rng = stream(0, "mixed scales")
    mean = torch.randn(300, 8, generator=rng, dtype=torch.float64).to(dtype)
    scale = (10 ** (6 * torch.rand(300, 8, generator=rng, dtype=torch.float64) - 4)).to(dtype)
    check(backend, (mean + scale, mean, scale, torch.zeros(300)), 1e-4)


def test_leaving_out_one_of_two_equal_components_leaves_the_other(backend: str) -> None:
    mean, scale = torch.tensor([[1.0, 2.0], [1.0, 2.0], [50.0, 50.0]]), torch.full((3, 2), 0.5)
    z = torch.tensor([[1.0, 2.0]]).expand(4, 2)
    log_weight = torch.tensor([0.25, 0.5, 0.25]).log()
    found = mixture_log_prob(z, mean, scale, log_weight, leave_out=torch.tensor([0, 1, 2, -1]))
    peak = -math.log(2 * math.pi * 0.25)
    expected = torch.tensor([0.5, 0.25, 0.75, 0.75], dtype=torch.float64).log() + peak
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
    assert mixture_log_prob(z[:1], mean[:1], scale[:1], log_weight[:1], leave_out=torch.tensor([0])) == -torch.inf


def test_sums_of_each_label(backend: str) -> None:
    z, mean, scale, log_weight = case(600, 5, 0.3)
    label = torch.arange(600) % 4 * 10 - 7
    label[17] = 99  # one of a kind
    log_weight[label == 3] = -torch.inf
    labelled = LabelledMixture(mean, scale, log_weight, label)
    assert labelled.labels.tolist() == [-7, 3, 13, 23, 99]
    found = labelled.log_prob(z)
    for y, column in zip(labelled.labels, found.T, strict=True):
        own = (label == y).nonzero().flatten()
        expected, _ = direct(z, mean[own], scale[own], log_weight[own])
        torch.testing.assert_close(column, expected, rtol=1e-12, atol=float(allowed(backend, z, 0.3).max()))
    torch.testing.assert_close(found.logsumexp(1), mixture_log_prob(z, mean, scale, log_weight), rtol=1e-12, atol=1e-9)


@pytest.mark.parametrize("m", [5, 600])
def test_weights_of_zero(m: int, backend: str) -> None:
    z, mean, scales, log_weight = case(300, 3, 0.5, torch.float32, m=m)
    log_weight[::2] = -torch.inf
    check(backend, (z, mean, scales, log_weight), 0.5)
    check(backend, (z, mean, scales, log_weight), 0.5, torch.arange(len(z)) % 300)
    assert (mixture_log_prob(z, mean, scales, torch.full((300,), -torch.inf)) == -torch.inf).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
@pytest.mark.parametrize("m", [5, 600])
def test_a_point_that_is_not_finite_has_no_density_and_spoils_no_other(
    m: int, dtype: torch.dtype, backend: str
) -> None:
    z, *rest = case(300, 3, 0.5, dtype, m=m)
    expected = mixture_log_prob(z, *rest)
    bad = torch.tensor([1, 3, 4])
    for value in (torch.nan, torch.inf, -torch.inf):
        spoilt = z.clone()
        spoilt[bad, 1] = value
        found = mixture_log_prob(spoilt, *rest)
        assert found[bad].isnan().all()
        kept = torch.ones(len(z), dtype=torch.bool).index_fill(0, bad, value=False)
        torch.testing.assert_close(found[kept], expected[kept], rtol=1e-12, atol=FLOAT32)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
def test_the_error_is_within_the_tolerance_and_is_not_always_nothing(dtype: torch.dtype, backend: str) -> None:
    """Broad components: many matter a little, so that what is passed over shows."""
    z, *mixture = case(20_000, 4, 0.2, dtype, m=300)
    z = z[:300]
    exact, _ = direct(z, *mixture)
    rounding = FLOAT32 if dtype == torch.float32 else 1e-9
    worst = {}
    for tolerance in (0.0, 1e-6, 1e-3, 0.1, 1.0):
        error = exact - mixture_log_prob(z, *mixture, tolerance=tolerance)
        worst[tolerance] = float(error.max())
        assert worst[tolerance] <= tolerance + rounding
        assert float(error.min()) >= -rounding  # what is passed over only makes it smaller
    # a bound that were a thousand times too wide would have been found out
    assert worst[1.0] > 1e-3 + rounding


@pytest.mark.parametrize("which", [0, 1, 2])
def test_a_component_that_is_no_number_makes_no_number(backend: str, which: int) -> None:
    parts = [torch.zeros(3, 2), torch.ones(3, 2), torch.full((3,), 1 / 3).log()]
    parts[which][1] = torch.nan
    assert mixture_log_prob(torch.zeros(4, 2), *parts).isnan().all()


@pytest.mark.parametrize("tolerance", [-1e-9, math.nan])
def test_a_tolerance_below_zero_is_refused(tolerance: float, backend: str) -> None:
    with pytest.raises(ArrayError, match="tolerance: expected nats, 0 or more, got"):
        mixture_log_prob(*case(3, 2, 1.0), tolerance=tolerance)


def test_any_layout_of_memory_will_do(backend: str) -> None:
    z, mean, scales, log_weight = case(300, 4, 0.5, torch.float32, m=300)
    expected = mixture_log_prob(z, mean, scales, log_weight)

    def strided(x: Tensor) -> Tensor:
        return torch.stack([x, torch.full_like(x, torch.nan)], -1)[..., 0]

    found = mixture_log_prob(strided(z), mean.T.contiguous().T, strided(scales), strided(log_weight))
    assert torch.equal(found, expected)
    one = torch.ones(1, 4).expand(300, 4)
    assert torch.equal(mixture_log_prob(z, mean, one, log_weight), mixture_log_prob(z, mean, one.clone(), log_weight))


def test_autograd_takes_the_score(backend: str) -> None:
    z, mean, scales, log_weight = case(20, 3, 0.5)
    z = z[:40].requires_grad_()
    mixture = Diagonal(log_weight, mean, scales)
    (expected,) = torch.autograd.grad(trainable_mixture_log_prob(z, mean, scales, log_weight).sum(), z)
    (found,) = torch.autograd.grad(mixture.log_prob(z).sum(), z, create_graph=True)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
    with pytest.raises(UsageError, match="first derivatives only"):
        torch.autograd.grad((found + z).sum(), z)


@needs_compiled
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
def test_threads_change_no_bit(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled, "SMALL", 0)
    parts = case(2000, 6, 0.3, dtype, m=2000)
    before = torch.get_num_threads()
    found = []
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            found.append(DiagonalMixture(*parts[1:]).log_prob_and_score(parts[0]))
    finally:
        torch.set_num_threads(before)
    for value, score in found[1:]:
        assert torch.equal(value, found[0][0])
        assert torch.equal(score, found[0][1])


@needs_compiled
@pytest.mark.parametrize(("apart", "used"), [(1.0, False), (20.0, True)], ids=["one cloud", "clumps"])
def test_boxes_are_used_where_they_spare_work_and_change_nothing(
    apart: float, monkeypatch: pytest.MonkeyPatch, *, used: bool
) -> None:
    rng = stream(0, "boxes")
    clump = apart * torch.randn(100, 16, generator=rng)
    mean = clump[torch.arange(20_000) % 100] + torch.randn(20_000, 16, generator=rng)
    scale = torch.full((20_000, 16), 0.3)
    z = mean[:700] + 0.3 * torch.randn(700, 16, generator=rng)
    mixture = (mean, scale, torch.zeros(20_000))
    candidates = compiled.module.Single(*mixture[:2], mixture[2].double(), True)
    start = torch.full((700,), -torch.inf, dtype=torch.float64), *torch.zeros(2, 700, dtype=torch.float64)
    cost = candidates.sweep(z, *start, None, None, 50.0, 3e-5, 1)
    assert (cost < 1) == used
    found = mixture_log_prob(z, *mixture)
    monkeypatch.setattr(mixture_compiled, "SORTED", 1 << 62)
    torch.testing.assert_close(found, mixture_log_prob(z, *mixture), rtol=0, atol=FLOAT32)
    assert float((found[:50] - direct(z[:50], *mixture)[0]).abs().max()) < FLOAT32


@needs_compiled
def test_an_interrupt_is_heard_between_blocks_of_bounded_work(monkeypatch: pytest.MonkeyPatch) -> None:
    parts = case(500, 4, 0.3, m=3000)
    mixture = DiagonalMixture(*parts[1:])
    expected = mixture.log_prob(parts[0])
    monkeypatch.setattr(compiled, "WORK", 500 * 4 * 1100)
    cut, done = mixture_compiled.blocks, []

    def interrupted(n: int, size: int) -> Iterator[slice]:
        for rows in cut(n, size):
            assert rows.stop - rows.start <= 1100
            if len(done) == 1:
                signal.raise_signal(signal.SIGINT)
            done.append(rows)
            yield rows

    monkeypatch.setattr(mixture_compiled, "blocks", interrupted)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a background shell starts us deaf to it
    try:
        with pytest.raises(KeyboardInterrupt):
            mixture.log_prob(parts[0])
    finally:
        signal.signal(signal.SIGINT, before)
    assert len(done) == 1
    monkeypatch.undo()
    assert torch.equal(mixture.log_prob(parts[0]), expected)


GROWTH = """
import resource, sys, torch
from zprime.kernels import mixture_log_prob
def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
n = 14_000  # n^2 float32 are 784 MB
z, mean = torch.randn(n, 2), torch.randn(n, 2)
mixture_log_prob(z[:500], mean[:500], torch.ones(500, 2), torch.zeros(500))
before = peak()
mixture_log_prob(z, mean, torch.full((n, 2), 0.1), torch.zeros(n))
print(peak() - before)
"""


@pytest.mark.parametrize("kernels", ["", "torch"])
def test_memory_does_not_grow_with_points_times_components(kernels: str) -> None:
    environment = {**os.environ, "ZPRIME_KERNELS": kernels}
    out = subprocess.run([sys.executable, "-c", GROWTH], capture_output=True, text=True, env=environment, check=True)
    assert float(out.stdout) < 120


def test_built_where_there_is_a_compiler() -> None:
    if os.environ.get("ZPRIME_KERNELS") == "torch" or not any(shutil.which(c) for c in ("c++", "g++", "clang++")):
        pytest.skip("torch was asked for, or there is no compiler")
    assert compiled.module is not None, f"{compiled.missing}: pip install -c constraints.txt -e '.[dev]'"


def test_what_is_loaded_and_why_not(monkeypatch: pytest.MonkeyPatch) -> None:
    assert compiled.load("torch") == (None, "ZPRIME_KERNELS=torch")
    fake = types.SimpleNamespace(interface=compiled.INTERFACE + 1)
    monkeypatch.setattr(compiled.importlib, "import_module", lambda name: fake)
    assert compiled.load("") == (None, "built from other sources than these; install zprime again")

    def missing(name: str) -> None:
        raise ModuleNotFoundError(name)

    monkeypatch.setattr(compiled.importlib, "import_module", missing)
    assert compiled.load("") == (None, "not built; with a C++ compiler at hand, install zprime again")

    def broken(name: str) -> None:
        raise ImportError("undefined symbol: x")

    monkeypatch.setattr(compiled.importlib, "import_module", broken)
    assert compiled.load("")[1] == "cannot be loaded (undefined symbol: x); install zprime again"


@needs_compiled
def test_an_instruction_set_can_be_chosen_and_must_be_known() -> None:
    used = compiled.module.used()
    try:
        for name in SETS:
            assert compiled.load(name)[0].used() == name
        with pytest.raises(UsageError, match="ZPRIME_KERNELS: expected torch, or what this machine can run.*'sse9'"):
            compiled.load("sse9")
        with pytest.raises(ValueError, match="cannot run the instruction set sse9"):
            compiled.module.use("sse9")
    finally:
        compiled.module.use(used)


@pytest.mark.parametrize("kernels", ["torch", *SETS])
def test_doctor_says_what_is_in_use(kernels: str) -> None:
    environment = {**os.environ, "ZPRIME_KERNELS": kernels}
    command = [sys.executable, "-m", "zprime.cli", "doctor"]
    told = subprocess.run(command, capture_output=True, text=True, env=environment, check=True).stdout
    out = subprocess.run([*command, "--json"], capture_output=True, text=True, env=environment, check=True).stdout
    found = json.loads(out)["kernels"]
    assert found["in_use"] == kernels
    if kernels == "torch":
        assert found["why_not_compiled"] == "ZPRIME_KERNELS=torch"
        assert "kernels: torch; no compiled ones: ZPRIME_KERNELS=torch" in told
    else:
        assert set(found["can_run"]) == set(SETS) <= set(found["built"])
        assert f"kernels: compiled, {kernels}" in told
        assert told.count("can be run here") == len(found["can_run"])
        assert told.count("this machine cannot run it") == len(found["built"]) - len(found["can_run"])
