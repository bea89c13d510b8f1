"""An audit in ArviZ's forms: its numbers, and the ranks that arviz-stats gives them. Skipped where that is missing."""

import importlib
import logging
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from oracles import linear_gaussian
from zprime.auditing import audit
from zprime.data import Rows
from zprime.errors import UsageError
from zprime.latent import Gaussian
from zprime.posteriors import MemoryPosteriors
from zprime.results import to_arviz
from zprime.results.audit import Audit, AuditSettings, load
from zprime.results.names import Gain

MODEL = linear_gaussian(D=5, d=2, var=0.5)
N = 40
SETTINGS = AuditSettings(rows=N, draws=80, grid=4, map=10, samples=0, simulated=0, exchange=50)


def extra() -> None:
    """Skip where the extra is not installed: `pip install 'zprime[arviz]'`."""
    pytest.importorskip("xarray", reason="the extra arviz is not installed: no xarray")
    pytest.importorskip("arviz_stats.utils", reason="the extra arviz is not installed: no arviz-stats with xarray")


def shifted(by: float, scale: float = 1.0) -> Gaussian:
    return Gaussian(torch.full((2,), by).double(), torch.full((2,), scale).double())


def made(*, model: bool = True, groups: int = 0, weights: bool = False) -> Audit:
    posteriors, rows, together = {}, {}, {}
    for i, name in enumerate(("train", "selection", "heldout")):
        x = MODEL.sample(N, seed=i)[0] + MODEL.weight.sum(1)  # as if z had been drawn about 1
        ids = 1000 * i + torch.arange(N)
        w = (1 + torch.arange(N).double()) / (N * (N + 1) / 2) if weights else None
        posteriors[name] = MemoryPosteriors(*MODEL.posterior(x), row_ids=ids, weights=w)
        rows[name] = Rows(name, x, ids)
        together[name] = (torch.arange(N) // groups if groups else torch.arange(N)) + 1000 * i
    return audit(
        {"good": shifted(1.0), "half": shifted(0.5), "narrow": shifted(1.0, 0.2), "bad": shifted(-1.0)},
        posteriors,
        model=MODEL.vae() if model else None,
        rows=rows if model else None,
        groups=together if groups else None,
        settings=SETTINGS,
    )


@pytest.fixture(scope="module")
def whole() -> Audit:
    return made()


@pytest.mark.parametrize("over_prior", [False, True])
def test_compare_ranks_the_candidates_of_an_audit_as_the_audit_does(whole: Audit, over_prior: bool) -> None:
    """On the split where a verdict ranks them: the order, the distances from the best, and their errors."""
    extra()
    from arviz_stats import compare

    table = compare(dict(whole.to_elpd("selection", over_prior=over_prior)))
    chosen = whole.verdict.chosen
    assert chosen is not None
    assert chosen.gain is Gain.LIKELIHOOD
    ranking = {r.name: r for r in chosen.ranking}
    assert list(table.index) == sorted(ranking, key=lambda name: ranking[name].behind)
    assert list(table.index)[0].startswith("good")
    assert list(table.index)[-1].startswith("bad")
    for name, r in ranking.items():
        assert table.loc[name, "elpd_diff"] / N == pytest.approx(r.behind, abs=1e-9)
        expected = r.behind_stderr * (1 - 1 / N) ** 0.5  # ArviZ divides by n, an audit by n - 1
        assert table.loc[name, "dse"] / N == pytest.approx(expected, abs=1e-9)
    assert table["weight"].sum() == pytest.approx(1, abs=1e-6)


def test_elpd_is_the_sum_of_the_log_likelihoods_of_the_audit(whole: Audit) -> None:
    extra()
    assert whole.likelihood is not None
    found = whole.to_elpd()
    assert set(found) == {e.name for e in whole.entries if e.eligible}
    for name, elpd in found.items():
        e = next(v for k, v in whole.likelihood.log_prob.items() if str(k) == name)
        assert elpd.elpd == pytest.approx(N * e.value)
        assert elpd.se == pytest.approx(N * e.stderr * (1 - 1 / N) ** 0.5)
        assert (elpd.n_data_points, elpd.n_samples, elpd.kind) == (N, 80, "heldout")
        assert elpd.warning == (not whole.entry(name).heldout.likelihood.gain.stable)  # type: ignore[union-attr]
        assert elpd.elpd_i.row.values.tolist() == whole.tensors["row_ids.heldout"].tolist()
        assert "elpd_heldout" in str(elpd)
    assert list(whole.to_elpd(names=["good", "prior"])) == ["good", "prior"]


def test_rows_in_groups_are_data_points_together() -> None:
    extra()
    grouped = made(groups=4)
    elpd = grouped.to_elpd()["prior"]
    assert elpd.n_data_points == N // 4
    log_p = grouped.log_prob("prior")
    groups = grouped.tensors["groups.heldout"]
    right = [float(log_p[groups == g].sum()) for g in groups.unique()]
    torch.testing.assert_close(torch.tensor(elpd.elpd_i.values), torch.tensor(right).double(), rtol=1e-6, atol=1e-6)
    assert "groups" in grouped.to_datatree()["gain"].coords


def test_a_datatree_has_every_row_and_candidate_and_says_whose_they_are(whole: Audit) -> None:
    extra()
    tree = whole.to_datatree()
    x = tree["log_likelihood"]["x"]
    assert x.dims == ("candidate", "row")
    for e in whole.entries:
        held = x.sel(candidate=e.name).where(x.split == "heldout", drop=True)
        assert held.row.values.tolist() == whole.tensors["row_ids.heldout"].tolist()
        torch.testing.assert_close(torch.tensor(held.values), whole.log_prob(e.name))
        for gain in e.heldout.measured:
            mean = tree["gain"][gain].sel(candidate=e.name).where(x.split == "heldout", drop=True).mean()
            assert float(mean) == pytest.approx(e.heldout.of(gain).gain.value)  # type: ignore[union-attr]
    assert sorted(set(x.split.values.tolist())) == ["heldout", "selection"]
    assert set(x.row.values[x.split.values == "selection"] // 1000) == {1}
    for group in (tree, tree["gain"], tree["log_likelihood"]):
        assert (group.attrs["seed"], group.attrs["unit"]) == (0, "nats per row")
        assert all(isinstance(v, str | int) for v in group.attrs.values())  # what netCDF holds
    shares = {e.name: e.id.epsilon for e in whole.entries}
    assert dict(zip(x.candidate.values.tolist(), x.share_of_prior.values.tolist(), strict=True)) == shares


def test_without_a_decoder_there_are_gains_and_no_likelihoods() -> None:
    extra()
    bare = made(model=False)
    assert list(bare.to_datatree().children) == ["gain"]
    assert "likelihood" not in bare.to_datatree()["gain"]
    with pytest.raises(UsageError, match=r"prior: log p\(x\) was not measured"):
        bare.to_elpd()


def test_weights_are_told_and_not_left_out_in_silence() -> None:
    extra()
    weighted = made(weights=True)
    with pytest.raises(UsageError, match="ArviZ knows no weights of rows"):
        weighted.to_elpd()
    found = weighted.to_datatree()["gain"].weights
    assert float(found.max() / found.min()) == pytest.approx(N)


def moved(audit: Audit, by: float) -> Audit:
    """The audit with log p(x) of all rows moved."""

    def more(name: str, t: Tensor) -> Tensor:
        return t + by if name.startswith("log_prior") else t

    return replace(audit, tensors={k: more(k, t) for k, t in audit.tensors.items()})


@pytest.mark.parametrize("by", [-5000.0, 5000.0])
def test_weights_that_would_mean_nothing_are_warned_of(
    whole: Audit, by: float, caplog: pytest.LogCaptureFixture
) -> None:
    """Images have log p(x) of thousands of nats: exp is 0 or infinite, and `compare` says nothing of it."""
    extra()
    from arviz_stats import compare

    with caplog.at_level(logging.WARNING, "zprime"):
        moved(whole, by).to_elpd(over_prior=True)
        assert "over_prior" not in caplog.text
        moved(whole, by).to_elpd()
    assert "with over_prior=True ranks and differences are the same" in caplog.text
    right, far = compare(whole.to_elpd()), compare(moved(whole, by).to_elpd(over_prior=True))
    assert list(right.index) == list(far.index)
    torch.testing.assert_close(
        torch.tensor(right["weight"].to_numpy()), torch.tensor(far["weight"].to_numpy()), rtol=0, atol=1e-3
    )


def test_what_is_missing_is_said(whole: Audit, monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    with pytest.raises(UsageError, match="split: expected selection or heldout, got 'train'"):
        whole.to_elpd("train")
    without = replace(whole, tensors={k: v for k, v in whole.tensors.items() if not k.startswith("row_ids")})

    def missing(name: str) -> None:
        raise ModuleNotFoundError("No module named 'xarray'")

    monkeypatch.setattr(importlib, "import_module", missing)
    for ask in (whole.to_elpd, whole.to_datatree):
        with pytest.raises(UsageError, match=r"expected xarray and arviz-stats .*; run: pip install 'zprime.arviz.'"):
            ask()
    monkeypatch.setattr(to_arviz, "_library", lambda module: None)
    with pytest.raises(UsageError, match=r"row_ids.selection: expected an audit with row ids"):
        without.to_datatree()
    whole.save(tmp_path / "audit")
    for split in ("selection", "heldout"):
        assert torch.equal(load(tmp_path / "audit").tensors[f"row_ids.{split}"], whole.tensors[f"row_ids.{split}"])
