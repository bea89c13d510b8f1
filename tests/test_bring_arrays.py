"""Posteriors of any form, brought as arrays: one posterior in four forms gives one audit (docs/theory.md, 10)."""

import pytest
import torch

import zprime
from zprime import bring
from zprime.errors import ArrayError, UsageError
from zprime.results.audit import Audit, AuditSettings
from zprime.rng import stream

QUICK = AuditSettings(rows=200)
SIZES = {"train": 300, "selection": 100, "heldout": 100}


def made() -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    rng = stream(0, "arrays")
    mean = {s: 0.9 * torch.randn(n, 2, generator=rng, dtype=torch.float64) for s, n in SIZES.items()}
    scale = {s: 0.3 + 0.3 * torch.rand(n, 2, generator=rng, dtype=torch.float64) for s, n in SIZES.items()}
    return mean, scale


def audited(mine: bring.Brought) -> Audit:
    fits = {k: zprime.fit(k, **mine.splits) for k in ("gaussian", "aggregated")}
    return zprime.audit(fits, mine.posteriors, settings=QUICK)


def test_one_posterior_in_four_forms_gives_one_audit() -> None:
    mean, scale = made()
    full = {s: torch.diag_embed(v) for s, v in scale.items()}
    ids = {s: [f"{s} {i}" for i in range(n)] for s, n in SIZES.items()}
    narrow = {s: (v.square() - 0.04).sqrt() for s, v in scale.items()}
    factor = {s: 0.2 * torch.eye(2, dtype=torch.float64).expand(n, 2, 2) for s, n in SIZES.items()}
    forms = {
        "diagonal": bring.arrays(mean, scale),
        "full": bring.arrays(mean, scale_tril=full),
        "one component": bring.arrays(mean, scale, row_ids=ids),
        "low rank": bring.arrays(mean, narrow, factor=factor),
    }
    audits = {name: audited(mine) for name, mine in forms.items()}
    want = audits.pop("diagonal")
    for name, audit in audits.items():
        for one, other in zip(want.entries, audit.entries, strict=True):
            assert other.heldout.exact_posterior is not None
            assert one.heldout.exact_posterior is not None
            assert other.heldout.exact_posterior.gain.value == pytest.approx(
                one.heldout.exact_posterior.gain.value, abs=1e-8
            ), name
            assert other.heldout.elbo.gain.value == pytest.approx(one.heldout.elbo.gain.value, abs=1e-8), name
        for field in ("mean_kl", "information", "hole", "gaussian_part"):
            assert getattr(audit.surgery["train"], field).value == pytest.approx(
                getattr(want.surgery["train"], field).value, abs=1e-8
            ), (name, field)


def test_components_of_a_datum_are_brought_with_their_weights() -> None:
    """The aggregate is exact with N S weighted components; errors count data; a datum's parts stay in one split."""
    mean, scale = made()
    del mean["selection"], scale["selection"]
    both = {s: torch.cat([m - 0.3, m + 0.1]) for s, m in mean.items()}
    wide = {s: v.repeat(2, 1) for s, v in scale.items()}
    ids = {s: list(range(SIZES[s])) * 2 for s in both}
    ids["heldout"] = [1000 + i for i in ids["heldout"]]
    weights = {s: [0.25] * SIZES[s] + [0.75] * SIZES[s] for s in both}
    mine = bring.arrays(both, wide, row_ids=ids, weights=weights)
    p = mine.posteriors["train"].gather()
    z = p.draw(rng=stream(0, "z"))[:5]
    terms = torch.distributions.Normal(both["train"], wide["train"]).log_prob(z[:, None]).sum(2)
    log_weight = (
        torch.tensor(weights["train"], dtype=torch.float64).log() - torch.tensor(300.0, dtype=torch.float64).log()
    )
    assert torch.allclose(p.log_prob(z), torch.logsumexp(terms + log_weight, 1), atol=1e-8)
    selection, heldout = (mine.posteriors[s].gather() for s in ("selection", "heldout"))
    assert not set(selection.row_ids.tolist()) & set(heldout.row_ids.tolist())
    assert selection.n == heldout.n == 100
    assert selection.effective_rows == pytest.approx(50)
    audit = audited(mine)
    e = audit.entry("gaussian").heldout.elbo.gain
    assert e.groups == 50
    assert any("parts of the posteriors of 300 data" in s for s in mine.says)
    assert audit.latents is not None
    assert audit.latents.hole is not None
    assert audit.latents.leave_one_out


def test_full_covariances_are_taken_to_the_coordinates_of_a_gaussian_prior() -> None:
    mean, scale = made()
    full = {s: torch.diag_embed(2 * v) for s, v in scale.items()}
    prior = torch.distributions.Normal(torch.full((2,), 1.0), torch.full((2,), 2.0))
    moved = bring.arrays({s: 2 * m + 1 for s, m in mean.items()}, scale_tril=full, prior=prior)
    want, found = bring.arrays(mean, scale).posteriors["train"].gather(), moved.posteriors["train"].gather()
    assert found.form == "full"
    assert torch.allclose(found.mean, want.mean)
    assert torch.allclose(found.deviation, want.scale)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"scale": None}, "scale: expected scale, scale_tril, or scale and factor, got none of them"),
        ({"scale_tril": {}}, "scale: expected .* got scale and scale_tril"),
        ({"weights": {"train": [1.0] * 300}}, "weights: expected those of the selection rows"),
        (
            {"row_ids": {"train": list(range(300)), "selection": list(range(100)), "heldout": list(range(100))}},
            "row_ids: expected each datum in one split, got 0 in train and selection",
        ),
        (
            {"row_ids": {"train": [1], "selection": [2], "heldout": [3]}},
            "row_ids: expected 300 for train, one a row, got 1",
        ),
    ],
)
def test_arrays_that_do_not_fit_are_refused(change: dict, text: str) -> None:
    mean, scale = made()
    with pytest.raises((UsageError, ArrayError), match=text):
        bring.arrays(**{"mean": mean, "scale": scale, **change})


def test_data_with_more_parts_count_no_more_than_others() -> None:
    mean, scale = made()
    ids = {s: [*range(n // 2), *[n // 2 + i // 5 for i in range(n - n // 2)]] for s, n in SIZES.items()}
    ids = {s: [f"{s} {i}" for i in v] for s, v in ids.items()}
    p = bring.arrays(mean, scale, row_ids=ids).posteriors["train"].gather()
    totals = torch.bincount(p.datum, p.log_weights.exp())
    assert torch.allclose(totals, torch.full_like(totals, 1 / 180))


def test_groups_that_part_a_datum_are_refused() -> None:
    mean, scale = made()
    del mean["selection"], scale["selection"]
    ids = {s: [f"{s} {i // 2}" for i in range(SIZES[s])] for s in mean}
    groups = {s: [f"{s} {i}" for i in range(SIZES[s])] for s in mean}
    with pytest.raises(ArrayError, match="expected all parts of a datum .* in one group"):
        bring.arrays(mean, scale, row_ids=ids, groups=groups)
