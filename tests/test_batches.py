"""What engines call on batches: an encoder that can be pickled, and sums that are those of all rows together."""

import pickle
from functools import reduce
from operator import add
from pathlib import Path

import numpy as np
import pytest
import torch

import small
import zprime
from zprime.batches import Encode, Sums
from zprime.data import DataSettings
from zprime.errors import ArrayError, UsageError
from zprime.latent.em import ComponentEM, State
from zprime.latent.gaussians import Mixture
from zprime.posteriors import MemoryPosteriors
from zprime.running import Run

N, D, K = 600, 3, 4


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("batches")
    made = Run.create(folder / "run")
    made.train(DataSettings(str(small.table(folder / "t.npz"))), small.NETWORK, small.TRAINING, seed=0)
    made.encode()
    return made


def posteriors(*, full: bool = False) -> MemoryPosteriors:
    rng = torch.Generator().manual_seed(0)
    mean = 50 + 3 * torch.randn(N, D, generator=rng, dtype=torch.float64)
    mean[: N // 2] += 10
    scale = 0.1 + torch.rand(N, D, generator=rng, dtype=torch.float64)
    if full:
        scale = torch.diag_embed(scale) + 0.2 * torch.randn(N, D, D, generator=rng, dtype=torch.float64).tril(-1)
    return MemoryPosteriors(mean, scale)


def mixture(*, diagonal: bool) -> Mixture:
    rng = torch.Generator().manual_seed(1)
    mean = 55 + 6 * torch.randn(K, D, generator=rng, dtype=torch.float64)
    tril = torch.full((K, D), 4.0, dtype=torch.float64)
    if not diagonal:
        tril = torch.diag_embed(tril) + torch.randn(K, D, D, generator=rng, dtype=torch.float64).tril(-1)
    return Mixture(torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64).log(), mean, tril)


def merged(rows: MemoryPosteriors, sizes: list[int], with_mixture: Mixture | None = None) -> Sums:
    cuts = np.cumsum([0, *sizes])
    parts = [
        Sums.of(rows.mean[a:b].numpy(), rows.scale[a:b], with_mixture) for a, b in zip(cuts, cuts[1:], strict=False)
    ]
    return sum(pickle.loads(pickle.dumps(parts)))


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("sizes", [[N], [1, N - 1], [100] * 6])
def test_merged_sums_give_the_gaussian_of_all_rows(sizes: list[int], full: bool) -> None:
    rows = posteriors(full=full)
    want = zprime.fit("gaussian", rows, selection=rows, keep_duplicates=True).distribution
    got = merged(rows, sizes).gaussian()
    torch.testing.assert_close(got.mean, want.mean, rtol=1e-12, atol=0)
    torch.testing.assert_close(got.scale_tril, want.scale_tril, rtol=1e-10, atol=1e-10)
    assert got.least_rows == N


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("diagonal", [False, True])
def test_merged_sums_give_the_step_of_em_of_all_rows(diagonal: bool, full: bool) -> None:
    """As `ComponentEM` makes it, whose units are those of the data."""
    rows, before = posteriors(full=full), mixture(diagonal=diagonal)
    em = ComponentEM(rows, diagonal=diagonal)
    tril = before.scale_tril
    own = tril.square() if diagonal else tril @ tril.mT
    scaled = own / em.unit.square() if diagonal else own / (em.unit[:, None] * em.unit)
    state, bound = em.step(State(before.log_weight, (before.mean - em.centre) / em.unit, scaled))
    want = em.finish(state)
    after, got = merged(rows, [100, 250, 250], before).mixture_step()
    assert got == pytest.approx(bound, abs=1e-10)
    for a, b in zip((after.log_weight, after.mean, after.scale_tril), want, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)
    assert after.least_rows is not None
    assert 0 < after.least_rows < N / K


def test_steps_of_merged_sums_raise_the_bound() -> None:
    rows, now, bounds = posteriors(), mixture(diagonal=True), []
    for _ in range(5):
        now, bound = merged(rows, [300, 300], now).mixture_step()
        bounds.append(bound)
    assert bounds == sorted(bounds)
    assert bounds[-1] > bounds[0] + 0.01


def test_what_a_worker_sends_does_not_grow_with_its_rows() -> None:
    few, many = (len(pickle.dumps(Sums.of(torch.randn(n, 5), torch.ones(n, 5)))) for n in (10, 10_000))
    assert few == many


def test_sums_that_do_not_belong_together_are_refused() -> None:
    a, b = Sums.of(torch.randn(5, 2), torch.ones(5, 2)), Sums.of(torch.randn(5, 3), torch.ones(5, 3))
    with pytest.raises(ArrayError, match="expected the same dimension and mixture, got 2 dimensions with mixture none"):
        a + b
    c = Sums.of(torch.randn(5, 3), torch.ones(5, 3), mixture(diagonal=True))
    with pytest.raises(ArrayError, match=r"with mixture none and 3 dimensions with mixture mixture\(4\)"):
        b + c
    with pytest.raises(UsageError, match="expected sums of a step of EM, got none"):
        a.mixture_step()
    with pytest.raises(UsageError, match="expected full or diagonal covariances in 2 dimensions, got 3 dimensions"):
        Sums.of(torch.randn(5, 2), torch.ones(5, 2), mixture(diagonal=True))
    with pytest.raises(ArrayError, match="expected standard deviations above 0"):
        Sums.of(torch.randn(5, 2), torch.zeros(5, 2))
    with pytest.raises(TypeError):
        _ = a + 1


def test_the_encoder_of_a_run_gives_its_posteriors(run: Run) -> None:
    """From rows in their own units, in batches, after it was pickled; other columns stay."""
    source = np.load(run.path.parent / "t.npz")
    encode = pickle.loads(pickle.dumps(Encode.of_run(run.path)))
    want = zprime.load_posteriors(run.path / "posteriors" / "train").gather()
    x = source["x"][want.row_ids.numpy()]
    parts = [encode({"x": x[b], "id": np.arange(len(x[b]))}) for b in (slice(0, 7), slice(7, None))]
    assert set(parts[0]) == {"mean", "scale", "id"}
    for name, t in (("mean", want.mean), ("scale", want.scale)):
        np.testing.assert_allclose(np.concatenate([p[name] for p in parts]), t.numpy(), rtol=1e-5, atol=1e-6)
    assert list(parts[0]["id"]) == list(range(7))
    np.testing.assert_array_equal(encode(x)["mean"], encode({"x": x})["mean"])
    inner = Encode(encode.model, shift=1.0, scale=2.0)  # one number for all columns
    scaled = run.folder.rows["train"].x.numpy()
    np.testing.assert_allclose(inner(2 * scaled + 1)["mean"], want.mean.numpy(), rtol=1e-4, atol=1e-5)


def test_encoded_batches_and_their_sums_make_the_fit_of_a_run(run: Run) -> None:
    """Encode, then Sums, merged: as an engine does it."""
    train = zprime.load_posteriors(run.path / "posteriors" / "train")
    x = np.load(run.path.parent / "t.npz")["x"][train.row_ids.numpy()]
    encode = Encode.of_run(run.path)
    answers = map(encode, np.array_split(x, 5))
    got = reduce(add, (Sums.of(a["mean"], a["scale"]) for a in answers)).gaussian()
    want = zprime.fit("gaussian", train, selection=train, keep_duplicates=True).distribution
    torch.testing.assert_close(got.mean.float(), want.mean, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(got.scale_tril.float(), want.scale_tril, rtol=1e-5, atol=1e-5)


def test_batches_and_runs_that_cannot_be_encoded_are_refused(run: Run, tmp_path: Path) -> None:
    encode = Encode.of_run(run.path)
    with pytest.raises(ArrayError, match="batch: expected a column 'x', got 'y'"):
        encode({"y": np.zeros((2, 5))})
    with pytest.raises(ArrayError, match="batch: .*finite"):
        encode(np.full((2, 5), np.nan))
    with pytest.raises(UsageError, match="model: expected an object with encode"):
        Encode(3)
    binary = Run.create(tmp_path / "binary")
    settings = DataSettings("digits", limit=200, binarise=True)
    binary.train(settings, small.NETWORK, small.TRAINING, seed=0)
    with pytest.raises(UsageError, match="got a run with binarise"):
        Encode.of_run(binary.path)


def test_a_module_in_training_mode_encodes_as_in_evaluation_mode() -> None:
    class Model(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.drop = torch.nn.Dropout(0.5)
            self.kept = torch.nn.Dropout(0.5).eval()

        def encode(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return self.kept(self.drop(x)), torch.ones_like(x)

    model, x = Model().train(), np.ones((9, 4), dtype="float32")
    model.kept.eval()
    np.testing.assert_array_equal(Encode(model)(x)["mean"], x)
    assert model.training
    assert model.drop.training
    assert not model.kept.training


def test_empty_batches_have_empty_answers_that_change_no_sum(run: Run) -> None:
    encode = Encode.of_run(run.path)
    d = encode.model.latents
    empty = encode({"x": np.zeros((0, 5), dtype="float32"), "id": np.zeros(0)})
    assert empty["mean"].shape == empty["scale"].shape == (0, d)
    assert empty["id"].shape == (0,)
    nothing, rows = Sums.of(np.zeros((0, D)), np.zeros((0, D))), posteriors()
    some = Sums.of(rows.mean, rows.scale)
    assert (nothing + nothing).count == 0
    for total in (some + nothing, nothing + some, sum([nothing, some, nothing])):
        np.testing.assert_array_equal(total.scatter, some.scatter)
    r = mixture(diagonal=True)
    with_r = Sums.of(rows.mean, rows.scale, r)
    step = (Sums.of(np.zeros((0, D)), np.zeros((0, D)), r) + with_r).mixture_step()
    assert step[1] == with_r.mixture_step()[1]
    with pytest.raises(ArrayError, match="at least one row, got those of none"):
        nothing.gaussian()
    with pytest.raises(UsageError, match="expected sums of a step of EM, got none"):
        Sums.of(np.zeros((0, D)), np.zeros((0, D)), r).mixture_step()
