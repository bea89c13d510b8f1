"""More dimensions than rows: fits of the default kinds and their audit make no d x d matrix."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from zprime import audit, fit
from zprime.fit_stage import KINDS
from zprime.latent import GaussianSettings, MixtureSettings
from zprime.measure.latents.leave_one_out import scored
from zprime.measure.latents.surgery import draws_of
from zprime.posteriors import MemoryPosteriors
from zprime.results.audit import AuditSettings
from zprime.rng import stream

D = 65
LIMITS = (
    "latent.factors.DENSE",
    "latent.gaussian.FULL",
    "latent.mixture.FULL",
    "measure.study.DENSE",
    "measure.latents.averages.DENSE",
)
"""Dimensions up to which matrices are allowed: 1,024 or 512, here 64."""


class NoMatrix(TorchDispatchMode):
    """Raises where an operation gives a tensor with two axes of length D, or D^2 / 2 features."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, torch.Tensor):
                assert list(leaf.shape).count(D) < 2, f"{func}: {list(leaf.shape)}"
                assert leaf.ndim < 2 or leaf.shape[-1] < D * D // 2, f"{func}: {list(leaf.shape)}"
        return out


def posteriors(n: int, seed: int) -> MemoryPosteriors:
    """Codes with three common factors."""
    load = torch.randn(3, D, generator=stream(0, "load"))
    rng = stream(seed, "codes")
    mean = torch.randn(n, 3, generator=rng) @ load + 0.3 * torch.randn(n, D, generator=rng)
    return MemoryPosteriors(mean, torch.full((n, D), 0.5), row_ids=torch.arange(n) + 1000 * seed)


SPLITS = {name: posteriors(n, i) for i, (name, n) in enumerate((("train", 40), ("selection", 16), ("heldout", 16)))}

QUICK = {"mixture": MixtureSettings(polish=1, restarts=1)}


def test_fits_and_audit_of_the_default_kinds_make_no_matrix_of_all_dimensions(monkeypatch: pytest.MonkeyPatch) -> None:
    for limit in LIMITS:
        monkeypatch.setattr(f"zprime.{limit}", D - 1)
    monkeypatch.setattr("zprime.latent.gaussian.MOST", 8)  # as many factors as dimensions would be a matrix too
    with NoMatrix():
        fits = {
            k: fit(QUICK.get(k, k), SPLITS["train"], selection=SPLITS["selection"], keep_duplicates=True) for k in KINDS
        }
        found = audit(fits, SPLITS, settings=AuditSettings(rows=16))
    for name in KINDS[:2]:
        assert f"{D} dimensions are many" in fits[name].outcome.message
    assert found.averages is not None
    assert found.latents.hole is not None


def test_the_mode_sees_a_matrix() -> None:
    with pytest.raises(AssertionError, match="65, 65"), NoMatrix():
        fit(GaussianSettings("full"), SPLITS["train"], selection=SPLITS["selection"], keep_duplicates=True)


def test_work_of_the_audit_is_cut_in_proportion_above_1024_dimensions() -> None:
    """Draws of surgery and rows of leave-one-out are as many as ever up to there."""
    assert [draws_of(5000, d) for d in (2, 1024, 1025, 4096, 10**6)] == [8, 8, 8, 3, 1]
    assert draws_of(60_000, 16) == draws_of(200_000, 16) == 1
    assert [scored(5000, d) for d in (2, 1024, 4096, 10**6)] == [6000, 6000, 1500, 100]
