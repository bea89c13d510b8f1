"""SCVI: q and p(x|z) are those of its own loss, conditions included. Skipped where scvi-tools is not installed."""

import warnings

import numpy as np
import pytest
import torch

pytest.importorskip("scvi")
import anndata
import pandas as pd
from scvi import settings as settings_of_scvi
from scvi.model import SCANVI, SCVI

from docpages import run_page
from zprime import audit, fit, sample
from zprime.bring import scvi
from zprime.errors import UsageError
from zprime.results.audit import AuditSettings
from zprime.results.names import Gain

warnings.filterwarnings("ignore", module=r"(scvi|lightning|pytorch_lightning|anndata|torch).*")
SMALL = AuditSettings(rows=30, draws=80, grid=4, map=10, simulated=0)
GENES, CELLS = 12, 300


def cells() -> anndata.AnnData:
    """Two kinds of cell in two batches, of which the second is sequenced half as deeply and has other proportions."""
    rng = np.random.default_rng(0)
    kind, batch = rng.integers(0, 2, CELLS), rng.integers(0, 2, CELLS)
    rate = np.where(kind[:, None] == 1, np.linspace(1, 20, GENES), np.linspace(20, 1, GENES))
    rate[batch == 1, :3] *= 4
    depth = rng.lognormal(0, 0.3, CELLS) * np.where(batch == 1, 0.5, 1)
    obs = pd.DataFrame({"batch": batch.astype(str), "kind": kind.astype(str), "age": rng.normal(size=CELLS)})
    obs.index = obs.index.astype(str)
    return anndata.AnnData(rng.poisson(rate * depth[:, None]).astype(np.float32), obs=obs)


def trained(setup: dict, epochs: int = 100, **settings) -> SCVI:
    adata = cells()
    SCVI.setup_anndata(adata, **setup)
    with torch.random.fork_rng(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        settings_of_scvi.seed = 0
        model = SCVI(adata, n_latent=2, n_hidden=16, **settings)
        model.train(
            max_epochs=epochs,
            accelerator="cpu",
            train_size=0.6,
            validation_size=0.2,
            enable_progress_bar=False,
            plan_kwargs={"n_epochs_kl_warmup": 10},
        )
    return model


SETUPS = {
    "plain": ({}, {}),
    "batch": ({"batch_key": "batch"}, {"gene_likelihood": "nb", "dispersion": "gene-batch"}),
    "all": (
        {
            "batch_key": "batch",
            "labels_key": "kind",
            "continuous_covariate_keys": ["age"],
            "categorical_covariate_keys": ["kind"],
        },
        {"encode_covariates": True, "dispersion": "gene-label"},
    ),
}


@pytest.fixture(scope="module")
def model():
    return trained(*SETUPS["batch"][:1], **SETUPS["batch"][1])


@pytest.mark.parametrize("name", SETUPS)
def test_q_and_p_are_those_of_scvi_s_own_loss(name: str) -> None:
    setup, settings = SETUPS[name]
    theirs = trained(setup, epochs=2, **settings)
    ours = scvi(theirs)
    batch = next(iter(theirs._make_data_loader(adata=theirs.adata, indices=theirs.train_indices[:40], batch_size=40)))
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        inference, _, loss = theirs.module(batch)
        z, qz = inference["z"], inference["qz"]
        log_x = ours.model.decode(z).log_prob(ours.rows["train"].x[:40])
    torch.testing.assert_close(log_x, -loss.reconstruction_loss["reconstruction_loss"], rtol=1e-5, atol=1e-3)
    own = ours.posteriors["train"].gather()
    torch.testing.assert_close(own.mean[:40], qz.loc)
    torch.testing.assert_close(own.scale[:40], qz.scale)


def test_splits_are_scvi_s_own(model) -> None:
    mine = scvi(model)
    x = np.asarray(model.adata.X)
    for split, indices in (
        ("train", model.train_indices),
        ("selection", model.validation_indices),
        ("heldout", model.test_indices),
    ):
        np.testing.assert_array_equal(mine.rows[split].x[:, :GENES].numpy(), x[indices])
    given = scvi(model, {"train": range(200), "heldout": range(200, 300)}, labels=model.adata.obs["kind"].astype(int))
    assert [given.posteriors[s].n for s in ("train", "selection", "heldout")] == [200, 50, 50]
    np.testing.assert_array_equal(
        given.posteriors["train"].labels.numpy(), model.adata.obs["kind"].astype(int).to_numpy()[:200]
    )


def test_the_batch_is_a_condition_of_p_and_not_part_of_it(model) -> None:
    mine = scvi(model)
    x = mine.rows["heldout"].x[:20]
    z = mine.posteriors["heldout"].gather().mean[:20]
    other = x.clone()
    other[:, GENES] = 1 - other[:, GENES]
    with torch.no_grad():
        p = mine.model.decode(z)
        assert float((p.log_prob(x) - p.log_prob(other)).mean()) > 1
        torch.testing.assert_close(mine.model.encode(x)[0], mine.model.encode(other)[0])


def test_generated_cells_take_library_and_batch_from_training_cells(model) -> None:
    mine = scvi(model)
    train = mine.rows["train"].x
    r = fit("mixture", **mine.splits).distribution
    z, x = sample(mine.generator(r), 3000, noise="draw")
    assert x.shape == (3000, GENES + 2)  # batch and label behind the counts
    assert float(x[:, GENES].mean()) == pytest.approx(float(train[:, GENES].mean()), abs=0.03)
    counts, library = x[:, :GENES].sum(1), train[:, :GENES].sum(1)
    assert float(counts.mean()) == pytest.approx(float(library.mean()), rel=0.1)
    assert bool((x[:, :GENES] == x[:, :GENES].round()).all())
    middle = sample(mine.generator(r), 100)[1][:, :GENES].sum(1)
    torch.testing.assert_close(middle, library.median().expand(100), rtol=0.1, atol=0)


def test_audited(model) -> None:
    before = torch.random.get_rng_state()
    mine = scvi(model)
    fits = {k: fit(k, **mine.splits) for k in ("mixture", "aggregated")}
    found = audit(fits, mine.posteriors, model=mine.model, rows=mine.rows, settings=SMALL)
    assert found.entry("aggregated").heldout.measured == list(Gain)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert "p(x|z) is nb, conditional on the library size of the cell, batch;" in mine.says[0]
    assert len(mine.says) == 1


def test_what_to_know_and_what_cannot_be_brought_is_said(model) -> None:
    assert "training ended in its warm-up, at KL weight 0.4" in scvi(trained({}, epochs=5)).says[1]
    for settings, text in (
        ({"latent_distribution": "ln"}, "latent_distribution='normal', got 'ln'"),
        ({"use_observed_lib_size": False}, "a library size that is a latent variable"),
    ):
        with pytest.raises(UsageError, match=text):
            scvi(trained({}, epochs=1, **settings))
    with pytest.raises(UsageError, match=r"expected a trained scvi.model.SCVI, got SCVI"):
        scvi(SCVI(model.adata))
    with pytest.raises(UsageError, match=r"expected a trained scvi.model.SCVI, got str"):
        scvi("model")


def test_the_page_runs(model) -> None:
    found = run_page("bring/scvi.md", model=model)
    assert {e.name for e in found["audit"].entries} > {"prior", "mixture"}
    # samples of counts are draws: a mean would have no zeros
    assert bool((found["audit"].tensors["grid.prior"] == 0).any())


def test_a_trained_scanvi_is_refused_by_name(model) -> None:
    """Two layers of latents, with a prior p(z1|z2, y): the top group alone would be another model's."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        two = SCANVI.from_scvi_model(model, unlabeled_category="unknown", labels_key="kind")
        two.train(max_epochs=2, accelerator="cpu", enable_progress_bar=False)
    with pytest.raises(UsageError, match=r"got SCANVI's two: the prior of z1 is p\(z1\|z2, y\)"):
        scvi(two)
