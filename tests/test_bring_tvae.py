"""TVAE of ctgan and SDV: p(x|z) is its loss, its encoder is kept or fitted anew. Skipped where there is no ctgan."""

import sys

import numpy as np
import pytest
import torch

pytest.importorskip("ctgan")
import joblib
import pandas as pd
from ctgan.synthesizers.tvae import TVAE, Encoder, _loss_function

from docpages import run_page
from zprime import audit, fit
from zprime.bring import tvae, tvae_drawing, tvae_keeping
from zprime.errors import ArrayError, UsageError
from zprime.latent import Gaussian
from zprime.results.audit import AuditSettings
from zprime.training import TrainSettings

SMALL = AuditSettings(rows=40, draws=80, grid=4, map=10, simulated=0)
SHORT = TrainSettings(epochs=150, batch=100, warmup=0.0)


def table(n: int, seed: int) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    kind = rng.integers(0, 3, n)
    a = rng.normal(5 * kind, 1.5)
    return pd.DataFrame({"a": a, "b": 2 * a + rng.normal(size=n), "kind": np.array(["x", "y", "z"])[kind]})


TABLES = {"train": table(600, 0), "selection": table(200, 1), "heldout": table(200, 2)}


@pytest.fixture(scope="module")
def fitted():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = TVAE(
            embedding_dim=4, compress_dims=(32,), decompress_dims=(32,), epochs=200, batch_size=100, enable_gpu=False
        )
        model.set_random_state(0)
        with tvae_keeping() as kept, joblib.parallel_config(backend="sequential"):
            model.fit(TABLES["train"], ["kind"])
    return model, kept.encoder


def test_the_kept_encoder_and_p_are_those_of_the_loss_in_training(fitted) -> None:
    model, encoder = fitted
    mine = tvae(model, TABLES, encoder=encoder)
    x = mine.rows["train"].x[:70]
    mean, std, logvar = encoder(x)
    z = mean + std * torch.randn(mean.shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        recon, sigma = model.decoder(z)
        theirs, kl = _loss_function(recon, x, sigma, mean, logvar, model.transformer.output_info_list, 1.0)
        numbers = sum(s.activation_fn != "softmax" for c in model.transformer.output_info_list for s in c)
        ours = mine.model.decode(z).log_prob(x).mean() + numbers * 0.5 * np.log(2 * np.pi)
    assert float(ours) == pytest.approx(-float(theirs), rel=1e-5)
    torch.testing.assert_close(mine.posteriors["train"].gather().mean[:70], mean.detach())
    torch.testing.assert_close(mine.posteriors["train"].gather().scale[:70], std.detach())
    assert float(kl) > 1  # the encoder has learned something
    assert "had the weight 2" in mine.says[1]


def test_the_class_of_ctgan_is_given_back_and_the_model_is_not_touched(fitted) -> None:
    model, encoder = fitted
    assert Encoder.__init__.__name__ == "__init__"
    assert isinstance(encoder, Encoder)
    with pytest.raises(KeyError), tvae_keeping():
        raise KeyError
    assert Encoder.__init__.__name__ == "__init__"
    before = {k: v.clone() for k, v in model.decoder.state_dict().items()}
    state, np_state = torch.random.get_rng_state(), np.random.get_state()[1].copy()
    tvae(model, TABLES, training=TrainSettings(epochs=1))
    assert all(torch.equal(v, before[k]) for k, v in model.decoder.state_dict().items())
    assert all(p.grad is None or p.requires_grad for p in model.decoder.parameters())
    assert torch.equal(torch.random.get_rng_state(), state)
    assert (np.random.get_state()[1] == np_state).all()


def test_draws_have_the_moments_that_p_says(fitted) -> None:
    p = tvae(*fitted[:1], TABLES, encoder=fitted[1]).model.decode(torch.zeros(4000, 4))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        draws = p.sample()
    torch.testing.assert_close(draws.mean(0), p.mean[0], atol=0.04, rtol=0)
    for span in p.spans.choices:
        assert bool((draws[:, span].sum(1) == 1).all())
    at = list(p.spans.numbers)
    torch.testing.assert_close(draws[:, at].std(0), fitted[0].decoder.sigma[at].detach(), atol=0.02, rtol=0.05)


def test_a_refitted_encoder_nearly_reaches_the_elbo_of_the_kept_one(fitted) -> None:
    model, encoder = fitted

    def elbo(mine) -> float:
        p, x = mine.posteriors["heldout"].gather(), mine.rows["heldout"].x
        kl = (0.5 * (p.mean**2 + p.scale**2 - 1) - p.scale.log()).sum(1)
        noise = torch.randn(p.mean.shape, generator=torch.Generator().manual_seed(1))
        with torch.no_grad():
            return float((mine.model.decode(p.mean + p.scale * noise).log_prob(x) - kl).mean())

    again = tvae(model, TABLES, training=SHORT)
    assert "thrown away by fit()" in again.says[1]
    # it is fitted to weight 1, the kept one to weight 2: it may well be better, and an unfitted one is far off
    assert elbo(again) > elbo(tvae(model, TABLES, encoder=encoder)) - 1.0
    assert elbo(tvae(model, TABLES, training=TrainSettings(epochs=1, batch=600, lr=1e-9))) < elbo(again) - 2.0


def test_audited_and_the_winner_drawn_from_by_ctgan_itself(fitted) -> None:
    model, encoder = fitted
    mine = tvae(model, TABLES, encoder=encoder)
    found = audit(
        {"mixture": fit("mixture", **mine.splits)}, mine.posteriors, model=mine.model, rows=mine.rows, settings=SMALL
    )
    assert found.entry("mixture").heldout.likelihood is not None
    # a point mass where one training row lies: everything that is drawn is like that row
    row = mine.posteriors["train"].gather().mean[0]
    point = Gaussian(row, torch.full((4,), 1e-3))
    original = model.decoder
    with tvae_drawing(model, point, seed=1):
        drawn = model.sample(50)
    assert model.decoder is original
    assert set(drawn["kind"]) == {TABLES["train"]["kind"][0]}
    assert len(set(model.sample(200)["kind"])) == 3
    with (
        pytest.raises(UsageError, match="expected 4 dimensions as TVAE has, got 3"),
        tvae_drawing(model, Gaussian(row[:3], row[:3].abs())),
    ):
        pass


def test_the_same_seed_gives_the_same_rows_and_another_does_not(fitted) -> None:
    model, encoder = fitted
    a, b, c = (tvae(model, TABLES, encoder=encoder, seed=s).rows["train"].x for s in (0, 0, 1))
    assert torch.equal(a, b)
    assert not torch.equal(a, c)


def test_what_cannot_be_brought_is_said(fitted) -> None:
    with pytest.raises(UsageError, match=r"expected a fitted TVAE, got TVAE; call its fit\(\) first"):
        tvae(TVAE(), TABLES)
    with pytest.raises(UsageError, match="transformed columns, got one for 5"):
        tvae(fitted[0], TABLES, encoder=torch.nn.Linear(5, 5))


def test_sdv_s_synthesizer() -> None:
    pytest.importorskip("sdv")
    from sdv.metadata import Metadata
    from sdv.single_table import TVAESynthesizer

    named = {s: {"t": x} for s, x in TABLES.items()}
    metadata = Metadata.detect_from_dataframes(named["train"])
    synthesizer = TVAESynthesizer(metadata, embedding_dim=3, epochs=20, compress_dims=(16,), enable_gpu=False)
    with torch.random.fork_rng(), tvae_keeping() as kept, joblib.parallel_config(backend="sequential"):
        torch.manual_seed(0)
        synthesizer.fit(named["train"])
    mine = tvae(synthesizer, named, encoder=kept.encoder)
    with tvae_drawing(synthesizer, fit("gaussian", **mine.splits).distribution):
        drawn = synthesizer.sample(30)["t"]
    assert list(drawn.columns) == ["a", "b", "kind"]
    assert len(drawn) == 30


class Second(torch.nn.Module):
    """The kept encoder, its second answer written otherwise."""

    def __init__(self, encoder: torch.nn.Module, write) -> None:
        super().__init__()
        self.encoder, self.write = encoder, write

    def forward(self, x):
        mean, std, _ = self.encoder(x)
        return mean, self.write(std)


def test_an_encoder_of_ones_own_has_to_give_standard_deviations(fitted) -> None:
    model, encoder = fitted
    own = tvae(model, TABLES, encoder=Second(encoder, lambda std: std))
    kept = tvae(model, TABLES, encoder=encoder)
    torch.testing.assert_close(own.posteriors["train"].gather().scale, kept.posteriors["train"].gather().scale)
    with pytest.raises(
        UsageError, match=r"read as std, the ELBO .* lower than read as variance.*instead of a variance"
    ):
        tvae(model, TABLES, encoder=Second(encoder, torch.square))
    tvae(model, TABLES, encoder=Second(encoder, torch.square), check=False)
    with pytest.raises(ArrayError, match="is it a log-variance"):
        tvae(model, TABLES, encoder=Second(encoder, lambda std: 2 * std.log()))


def test_without_ctgan_the_extra_is_named(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "ctgan.synthesizers.tvae", None)
    with pytest.raises(UsageError, match=r"pip install 'zprime\[tvae\]'"), tvae_keeping():
        pass


def test_the_page_runs() -> None:
    model = TVAE(embedding_dim=2, compress_dims=(8,), decompress_dims=(8,), epochs=2, batch_size=50, enable_gpu=False)
    numbers = {s: t[["a", "b"]] for s, t in TABLES.items()}
    with joblib.parallel_config(backend="sequential"):
        found = run_page("bring/tvae.md", synthesizer=model, table=numbers["train"], heldout=numbers["heldout"])
    assert found["mine"].posteriors["train"].d == 2
