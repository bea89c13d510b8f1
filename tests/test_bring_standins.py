"""Adapters of scvi and ctgan on small stand-ins with these libraries' shapes: what needs no library is tested anywhere.

The tests with the libraries themselves (test_bring_scvi.py, test_bring_tvae.py) are skipped where these are missing.
"""

import math
import sys
from collections.abc import Mapping
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.distributions import Normal, Poisson

from zprime import sample
from zprime.bring import ctgan_tvae, pythae, pythae_vae, scvi, tvae, tvae_drawing, tvae_keeping
from zprime.bring.trial import some_of
from zprime.errors import UsageError
from zprime.latent import Gaussian, Prior
from zprime.rng import stream
from zprime.training import TrainSettings

# -- scvi --------------------------------------------------------------------------------------------------------------

GENES, CELLS = 4, 60
WEIGHT = torch.tensor([[1.0, -1.0, 0.5, 0.0], [0.0, 0.5, -1.0, 1.0]])
SHIFT = torch.tensor([0.0, 1.0, -1.0, 2.0])


class Module(nn.Module):
    """scvi's VAE: q(z|counts) and p(counts|z, library, batch, covariate); draws a z by the global generator too."""

    gene_likelihood, latent_distribution = "poisson", "normal"
    use_size_factor_key, use_observed_lib_size = False, True

    def inference(
        self, *, x: Tensor, batch_index: Tensor, cont_covs: Tensor | None, cat_covs: Tensor | None
    ) -> dict[str, Any]:
        assert batch_index.dtype == torch.long
        qz = Normal(x.log1p() @ WEIGHT.T, torch.full((len(x), 2), 0.3))
        return {"qz": qz, "z": qz.sample()}

    def generative(
        self,
        *,
        z: Tensor,
        library: Tensor,
        batch_index: Tensor,
        y: Tensor | None,
        cont_covs: Tensor | None,
        cat_covs: Tensor | None,
    ) -> dict[str, Any]:
        assert cont_covs is not None
        logits = z @ WEIGHT + batch_index * SHIFT + cont_covs * SHIFT.flip(0)
        return {"px": Poisson(library.exp() * logits.softmax(1), validate_args=False)}


class Manager:
    def __init__(self, fields: Mapping[str, NDArray[Any]]) -> None:
        self.data_registry = self.fields = fields

    def get_from_registry(self, name: str) -> NDArray[Any]:
        return self.fields[name]


def cells(**changes: Any) -> SimpleNamespace:
    """A trained model of 60 cells in two batches; covariate and batch tell which cell a row is."""
    rng = np.random.default_rng(0)
    fields = {
        "X": rng.poisson(6.0, (CELLS, GENES)).astype(np.float32) + 1,
        "batch": rng.integers(0, 2, (CELLS, 1)),
        "extra_continuous_covs": np.linspace(-1, 1, CELLS)[:, None],
    }
    order = rng.permutation(CELLS)
    found: dict[str, Any] = {
        "module": Module(),
        "is_trained": True,
        "adata_manager": Manager(fields),
        "train_indices": order[:40],
        "validation_indices": order[40:50],
        "test_indices": order[50:],
        "history": {"kl_weight": np.array([[0.1], [1.0]])},
    }
    return SimpleNamespace(**{**found, **changes})


def test_scvi_q_and_p_are_the_modules_with_every_cells_own_conditions() -> None:
    model = cells()
    before = torch.random.get_rng_state()
    mine = scvi(model)
    assert torch.equal(torch.random.get_rng_state(), before)
    fields = model.adata_manager.fields
    for split, at in (
        ("train", model.train_indices),
        ("selection", model.validation_indices),
        ("heldout", model.test_indices),
    ):
        counts = torch.from_numpy(fields["X"][at])
        batch, age = (
            torch.from_numpy(fields["batch"][at]).float(),
            torch.from_numpy(fields["extra_continuous_covs"][at]).float(),
        )
        p = mine.posteriors[split].gather()
        torch.testing.assert_close(p.mean, counts.log1p() @ WEIGHT.T)
        torch.testing.assert_close(p.scale, torch.full_like(p.scale, 0.3))
        torch.testing.assert_close(mine.rows[split].x, torch.cat([counts, batch, age], 1))
        z = torch.randn(len(at), 2, generator=stream(0, split))
        rate = counts.sum(1, keepdim=True) * (z @ WEIGHT + batch * SHIFT + age * SHIFT.flip(0)).softmax(1)
        want = (counts * rate.log() - rate - torch.lgamma(counts + 1)).sum(1)
        torch.testing.assert_close(mine.model.decode(z).log_prob(mine.rows[split].x), want, rtol=1e-5, atol=1e-4)
    assert "conditional on the library size of the cell, batch, extra_continuous_covs" in mine.says[0]
    assert len(mine.says) == 1


def test_scvi_cells_are_drawn_under_the_conditions_of_one_training_cell() -> None:
    mine = scvi(cells())
    train = mine.rows["train"].x
    _, x = sample(mine.generator(Prior(2)), 500, noise="draw")
    row = (x[:, -1:] == train[:, -1]).nonzero()  # the covariate tells the cell
    assert len(row) == 500
    assert torch.equal(x[row[:, 0], GENES], train[row[:, 1], GENES])
    assert len(set(row[:, 1].tolist())) > 35
    library = train[row[:, 1], :GENES].sum(1)
    assert float(x[:, :GENES].sum(1).mean()) == pytest.approx(float(library.mean()), rel=0.03)
    assert np.corrcoef(x[:, :GENES].sum(1), library)[0, 1] > 0.3
    _, middle = sample(mine.generator(Prior(2)), 5)
    depth = train[:, :GENES].sum(1)
    typical = train[depth.argsort()[len(depth) // 2]]
    torch.testing.assert_close(middle[:, GENES:], typical[GENES:].expand(5, -1))
    torch.testing.assert_close(middle[:, :GENES].sum(1), typical[:GENES].sum().expand(5))


def test_scvi_cells_are_drawn_under_conditions_that_are_given() -> None:
    """The library size, and behind it the conditions in the order of a row."""
    mine = scvi(cells())
    z, x = sample(mine.generator(Prior(2)), 6, given=[50.0, 1.0, 0.25])
    assert torch.equal(x[:, GENES:], torch.tensor([[1.0, 0.25]]).expand(6, 2))
    want = 50 * (z @ WEIGHT + SHIFT + 0.25 * SHIFT.flip(0)).softmax(1)
    torch.testing.assert_close(x[:, :GENES], want)


def test_scvi_splits_given_or_its_own_and_what_cannot_be_brought() -> None:
    given = scvi(cells(), {"train": range(40), "heldout": range(40, 60)}, labels=np.arange(CELLS))
    assert [given.posteriors[s].n for s in ("train", "selection", "heldout")] == [40, 10, 10]
    assert torch.equal(given.posteriors["train"].gather().labels, torch.arange(40))
    halved = scvi(cells(test_indices=None))
    assert [halved.posteriors[s].n for s in ("train", "selection", "heldout")] == [40, 5, 5]
    warm = scvi(cells(history={"kl_weight": np.array([[0.4]])}))
    assert "at KL weight 0.4" in warm.says[1]
    empty = cells()
    empty.adata_manager.fields["X"][7] = 0
    odd, sized, latent, two = Module(), Module(), Module(), Module()
    two.encoder_z2_z1 = nn.Linear(2, 2)  # as SCANVI's
    odd.latent_distribution, sized.use_size_factor_key, latent.use_observed_lib_size = "ln", True, False
    for model, text in (
        (cells(is_trained=False), "expected a trained scvi.model.SCVI, got SimpleNamespace"),
        (cells(module=two), r"got SCANVI's two: the prior of z1 is p\(z1\|z2, y\)"),
        (cells(module=odd), "latent_distribution='normal', got 'ln'"),
        (cells(module=sized), "no size factor"),
        (cells(module=latent), "use_observed_lib_size=True"),
        (cells(test_indices=None, validation_indices=None), "trained on all of its cells"),
        (empty, "cell 7 has no counts at all"),
    ):
        with pytest.raises(UsageError, match=text):
            scvi(model)


# -- ctgan -------------------------------------------------------------------------------------------------------------

COLUMNS = 6  # a number, a choice of three, a choice of two
SIGMA = torch.tensor([0.2, 1, 1, 1, 1, 1])


class Encoder(nn.Module):
    """As ctgan's: mean, standard deviation, log-variance."""

    def __init__(self, width: int = COLUMNS) -> None:
        super().__init__()
        self.layer = nn.Linear(width, 2)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return self.layer(x), torch.full((len(x), 2), 0.5), torch.full((len(x), 2), 2 * math.log(0.5))


class Decoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, COLUMNS)

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor]:
        return self.layer(z), SIGMA


class Transformer:
    """As ctgan's: spans of columns, and a component of the number drawn at random."""

    def __init__(self) -> None:
        def span(dim: int, name: str) -> SimpleNamespace:
            return SimpleNamespace(dim=dim, activation_fn=name)

        self.output_info_list = [[span(1, "tanh"), span(3, "softmax")], [span(2, "softmax")]]
        self._column_transform_info_list = [SimpleNamespace(transform=self), SimpleNamespace(transform=self)]
        self.state = np.random.RandomState(99)

    def set_random_state(self, state: np.random.RandomState, method: str) -> None:
        assert method == "transform"
        self.state = state

    def transform(self, table: NDArray[np.float64]) -> NDArray[np.float64]:
        which = self.state.randint(3, size=len(table))
        return np.concatenate([0.1 * table[:, :1], np.eye(3)[which], np.eye(2)[(table[:, 0] > 0).astype(int)]], 1)


class Synthesizer:
    """As ctgan's TVAE after `fit`."""

    embedding_dim, compress_dims, loss_factor = 2, (8,), 2

    def __init__(self) -> None:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.decoder, self.transformer = Decoder(), Transformer()

    def sample(self, n: int) -> NDArray[np.float64]:
        with torch.no_grad():
            return self.decoder(torch.zeros(n, 2))[0].tanh().numpy()


TABLES = {
    s: np.random.default_rng(i).normal(size=(n, 1))
    for i, (s, n) in enumerate((("train", 80), ("selection", 40), ("heldout", 40)))
}


def encoder(width: int = COLUMNS) -> Encoder:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return Encoder(width)


def test_tvae_p_is_a_gaussian_of_numbers_and_a_choice_of_each_run() -> None:
    theirs, kept = Synthesizer(), encoder()
    mine = tvae(theirs, TABLES, encoder=kept, check=False)
    x = mine.rows["train"].x
    assert x.shape == (80, COLUMNS)
    with torch.no_grad():
        torch.testing.assert_close(mine.posteriors["train"].gather().mean, kept(x)[0])
        z = torch.randn(80, 2, generator=stream(0, "z"))
        output, _ = theirs.decoder(z)
        p = mine.model.decode(z)
        want = Normal(output[:, 0].tanh(), 0.2).log_prob(x[:, 0])
        for run in (slice(1, 4), slice(4, 6)):
            want = want + output[:, run].log_softmax(1)[x[:, run].bool()]
        torch.testing.assert_close(p.log_prob(x), want, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(
            p.mean, torch.cat([output[:, :1].tanh(), output[:, 1:4].softmax(1), output[:, 4:].softmax(1)], 1)
        )
        draws = torch.stack([p.sample() for _ in range(300)])
    torch.testing.assert_close(draws.mean(0), p.mean, rtol=0, atol=0.13)
    assert bool(((draws[..., 1:] == 0) | (draws[..., 1:] == 1)).all())
    assert bool((draws[..., 1:4].sum(-1) == 1).all())
    assert float((draws[..., 0] - p.mean[:, 0]).std()) == pytest.approx(0.2, rel=0.03)
    assert "had the weight 2" in mine.says[1]


def test_tvae_components_are_drawn_by_the_seed_and_split_and_nothing_of_theirs_moves() -> None:
    theirs = Synthesizer()
    found = [tvae(theirs, TABLES, encoder=encoder(), check=False, seed=s).rows for s in (0, 0, 1)]
    assert torch.equal(found[0]["train"].x, found[1]["train"].x)
    assert not torch.equal(found[0]["train"].x, found[2]["train"].x)
    same = dict.fromkeys(TABLES, TABLES["selection"])
    rows = tvae(theirs, same, encoder=encoder(), check=False).rows
    assert not torch.equal(rows["selection"].x, rows["heldout"].x)
    assert theirs.transformer.state.randint(10**9) == np.random.RandomState(99).randint(10**9)
    assert all(p.requires_grad for p in theirs.decoder.parameters())


def test_tvae_without_an_encoder_has_one_fitted_to_the_decoder() -> None:
    theirs = Synthesizer()
    before = {k: v.clone() for k, v in theirs.decoder.state_dict().items()}
    mine = tvae(theirs, TABLES, training=TrainSettings(epochs=2, batch=40, warmup=0.0))
    assert "fitted to this decoder" in mine.says[1]
    assert all(torch.equal(v, before[k]) for k, v in theirs.decoder.state_dict().items())
    assert mine.posteriors["heldout"].n == 40


def test_tvae_draws_from_what_it_is_told_for_a_while() -> None:
    theirs = Synthesizer()
    before, decoder = theirs.sample(3), theirs.decoder
    r = Gaussian(torch.tensor([3.0, -3.0]), 0.1 * torch.eye(2))
    with tvae_drawing(theirs, r, seed=0):
        first, second = theirs.sample(4), theirs.sample(4)
    assert theirs.decoder is decoder
    np.testing.assert_array_equal(theirs.sample(3), before)
    assert not np.array_equal(first, second)  # a stream for each call
    with torch.no_grad():
        middle = decoder(torch.tensor([[3.0, -3.0]]))[0].tanh().numpy()
    np.testing.assert_allclose(np.concatenate([first, second]).mean(0), middle[0], atol=0.15)
    with tvae_drawing(theirs, r, seed=0):
        np.testing.assert_array_equal(theirs.sample(4), first)
    with pytest.raises(UsageError, match="expected 2 dimensions as TVAE has, got 3"), tvae_drawing(theirs, Prior(3)):
        pass


def test_tvae_keeps_the_encoder_that_fit_makes(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ctgan", "ctgan.synthesizers", "ctgan.synthesizers.tvae"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setattr(sys.modules["ctgan.synthesizers.tvae"], "Encoder", Encoder, raising=False)
    initial = Encoder.__init__
    made: list[Encoder] = []

    def fit() -> None:
        made.append(Encoder())
        raise KeyError("a fit that fails")

    with tvae_keeping() as kept, pytest.raises(KeyError):
        fit()
    assert kept.encoder is made[0]
    with pytest.raises(KeyError), tvae_keeping():
        fit()
    assert Encoder.__init__ is initial
    monkeypatch.setitem(sys.modules, "ctgan.synthesizers.tvae", None)
    with pytest.raises(UsageError, match="needs ctgan, which is not installed"), tvae_keeping():
        pass


def test_tvae_what_cannot_be_brought() -> None:
    with pytest.raises(UsageError, match="expected a fitted TVAE, got SimpleNamespace"):
        tvae(SimpleNamespace(), TABLES)
    with pytest.raises(UsageError, match="expected one for 6 transformed columns, got one for 7"):
        tvae(Synthesizer(), TABLES, encoder=encoder(7))


# -- rows that are looked at -------------------------------------------------------------------------------------------


class Pythae(nn.Module):
    """As pythae's VAE, with an encoder of one's own."""

    model_name, model_config = "VAE", SimpleNamespace(reconstruction_loss="mse")

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(1, 1)

    def encoder(self, x: Tensor) -> dict[str, Tensor]:
        return {"embedding": x[:, :1], "log_covariance": torch.zeros(len(x), 1)}

    def decoder(self, z: Tensor) -> dict[str, Tensor]:
        return {"reconstruction": z}


@pytest.mark.parametrize("library", ["pythae", "tvae"])
def test_an_adapter_looks_at_rows_at_random(monkeypatch: pytest.MonkeyPatch, library: str) -> None:
    """Rows often come in an order, by class or by time: the first do not stand for all."""
    looked_at: list[Tensor] = []
    ordered = {"train": np.arange(600.0)[:, None], "heldout": 600 + np.arange(8.0)[:, None]}
    adapter = pythae_vae if library == "pythae" else ctgan_tvae
    monkeypatch.setattr(adapter, "plausible", lambda decode, x, *others, **how: looked_at.append(x))
    if library == "pythae":
        mine = pythae(Pythae(), ordered)
    else:
        mine = tvae(Synthesizer(), ordered, encoder=encoder())
    x = mine.rows["train"].x
    torch.testing.assert_close(looked_at[0], some_of(x, 0))
    assert len(looked_at[0]) == 256
    assert float(looked_at[0][:, 0].max()) > 0.9 * float(x[:, 0].max())
