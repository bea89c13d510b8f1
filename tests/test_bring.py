"""Bring a trained VAE: modules, callables, bare arrays; what is wrong is said."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.distributions import Independent, Normal

from oracles import linear_gaussian
from zprime import audit, fit, load_generator, load_latent, sample
from zprime.bring import READINGS, arrays, modules
from zprime.errors import ArrayError, ArtifactError, UsageError
from zprime.latent import Defensive, Prior
from zprime.likelihoods import Gaussian
from zprime.results.audit import AuditSettings
from zprime.rng import stream

MODEL = linear_gaussian(D=5, d=2, var=0.3)
BACK = {"std": lambda s: s, "variance": lambda s: s**2, "log-variance": lambda s: 2 * s.log(), "log-std": torch.log}
SMALL = AuditSettings(rows=50, draws=80, grid=4, map=10, simulated=0)


def data(shift: float = 1.0) -> dict[str, torch.Tensor]:
    return {
        s: MODEL.sample(n, seed=i)[0] + shift * MODEL.weight.sum(1)
        for i, (s, n) in enumerate({"train": 300, "heldout": 200}.items())
    }


class Encoder(nn.Module):
    def __init__(self, gives: str) -> None:
        super().__init__()
        self.gives = gives

    def forward(self, x):
        mean, scale = MODEL.posterior(x)
        return mean, BACK[self.gives](scale), "and more"


def decode(z):
    return Independent(Normal(z @ MODEL.weight.T + MODEL.bias, MODEL.var**0.5), 1)


@pytest.mark.parametrize("gives", READINGS)
def test_every_reading_gives_the_same_posteriors(gives: str) -> None:
    b = modules(Encoder(gives), decode, data(), gives=gives)
    torch.testing.assert_close(b.posteriors["train"].gather().scale, MODEL.posterior(data()["train"])[1])


@pytest.mark.parametrize("claimed", READINGS)
@pytest.mark.parametrize("true", READINGS)
def test_a_wrong_claim_is_caught_by_the_elbo(true: str, claimed: str) -> None:
    if true == claimed:
        return
    with pytest.raises((UsageError, ArrayError), match="gives: "):
        modules(Encoder(true), decode, data(), gives=claimed)


def test_the_whole_job_in_five_lines_finds_the_planted_shift() -> None:
    b = modules(Encoder("std"), decode, data(), gives="std")
    fits = {k: fit(k, **b.splits) for k in ("gaussian", "aggregated")}
    found = audit(fits, b.posteriors, model=b.model, rows=b.rows, settings=SMALL)
    assert (found.verdict.decision, found.verdict.choice) == ("leave the prior", "gaussian+p1")


def test_a_plain_tensor_and_a_likelihood_are_a_distribution() -> None:
    b = modules(
        Encoder("std"), lambda z: z @ MODEL.weight.T + MODEL.bias, data(), gives="std", likelihood=Gaussian(scale=0.5)
    )
    assert b.model.decode(torch.zeros(3, 2).double()).log_prob(data()["train"][:3]).shape == (3,)


@pytest.mark.parametrize("factor", [0.2, 1.0, 5.0])
def test_a_scale_far_from_what_reconstructions_miss_by_is_spoken_of(
    factor: float, caplog: pytest.LogCaptureFixture
) -> None:
    likelihood = Gaussian(scale=factor * MODEL.var**0.5)
    b = modules(
        Encoder("std"),
        lambda z: z @ MODEL.weight.T + MODEL.bias,
        data(),
        gives="std",
        likelihood=likelihood,
        check=factor == 1,
    )
    told = [s for s in b.says if f"standard deviation of {factor * MODEL.var**0.5:.3g}" in s]
    assert len(told) == (factor != 1)
    assert [r.message for r in caplog.records if "reconstructions" in r.message] == told


def test_what_is_brought_can_be_shown_saved_and_read_again(tmp_path: Path) -> None:
    b = modules(Encoder("std"), decode, data(), gives="std")
    r = fit("gaussian", **b.splits).distribution
    found = audit({"gaussian": r}, b.posteriors, model=b.model, rows=b.rows, settings=SMALL)
    for part in (found.verdict.sentence, found.samples.verdict.sentence, "gaussian", "50 held-out rows, seed 0"):
        assert part in str(found)
    assert found.verdict.sentence in repr(found)
    assert len(repr(found)) < 1000
    with pytest.raises(UsageError, match=r"latent.save\(path\); zprime.load_latent\(path\)"):
        b.generator(r).save(tmp_path / "generator")
    r.save(str(tmp_path / "r"))
    again = load_latent(str(tmp_path / "r"))
    z, x = sample(b.generator(again), 5)
    torch.testing.assert_close((z, x), sample(b.generator(r), 5))
    with pytest.raises(ArtifactError, match="zprime.load_latent"):
        load_generator(tmp_path / "r")
    shown = b.generator(r)
    object.__setattr__(shown, "decoder", "decoder.pt")
    with pytest.raises(UsageError, match=r"decode\(z\).*got str.*mine.generator"):
        shown.__post_init__()


def test_what_an_audit_ships_is_one_call(monkeypatch: pytest.MonkeyPatch) -> None:
    """The share of the prior is that of the verdict, a Defensive is taken as it is, and the prior may be the answer."""
    b = modules(Encoder("std"), decode, data(), gives="std")
    r = fit("gaussian", **b.splits)
    own = Defensive(r.distribution, 0.3)
    candidates = {"gaussian": r, "bare": r.distribution, "own": own}
    found = audit(candidates, b.posteriors, model=b.model, rows=b.rows, settings=SMALL)
    assert b.shipped(found, candidates).copying == found.copying(found.shipped)
    z = torch.randn(20, 2, generator=stream(0, "z")).double()
    share = lambda e: Defensive(r.distribution, e).log_prob(z)  # noqa: E731
    wanted = {
        "gaussian+p5": share(0.05),
        "bare+p1": share(0.01),
        "own+p30": share(0.3),
        "bare": r.distribution.log_prob(z),
        "prior": Prior(2).log_prob(z),
        "standard-normal": Prior(2).log_prob(z),
    }
    for name, log_r in wanted.items():
        monkeypatch.setattr(type(found), "shipped", property(lambda self, name=name: name))  # noqa: ARG005
        torch.testing.assert_close(b.shipped(found, candidates).latent.log_prob(z), log_r)
    monkeypatch.setattr(type(found), "shipped", property(lambda self: "mixture+p1"))  # noqa: ARG005
    with pytest.raises(UsageError, match="with 'mixture', which it ships, got gaussian, bare, own"):
        b.shipped(found, candidates)


def test_bare_arrays_serve_all_that_needs_no_decoder() -> None:
    both = {s: MODEL.posterior(x) for s, x in data().items()}
    b = arrays({s: m.numpy() for s, (m, _) in both.items()}, {s: v.numpy() for s, (_, v) in both.items()})
    found = audit({"gaussian": fit("gaussian", **b.splits)}, b.posteriors, settings=SMALL)
    scores = found.entry("gaussian").heldout
    assert scores.exact_posterior.gain.value > 0.3
    assert "read as std, codes have variance" in b.says[0]
    assert scores.likelihood is None
    assert b.context is None


def test_without_a_selection_split_half_of_the_heldout_rows_make_one() -> None:
    b = modules(
        Encoder("std"), decode, data(), gives="std", labels={"heldout": np.arange(200), "train": np.arange(300)}
    )
    sizes = {s: p.n for s, p in b.posteriors.items()}
    assert sizes == {"train": 300, "selection": 100, "heldout": 100}
    ids = torch.cat([b.rows[s].ids for s in ("selection", "heldout")])
    assert sorted(ids.tolist()) == list(range(300, 500))
    assert torch.equal(b.rows["selection"].labels, b.rows["selection"].ids - 300)
    assert torch.equal(b.rows["heldout"].x, data()["heldout"][b.rows["heldout"].ids - 300])
    mine = {**data(), "selection": data()["heldout"][:20]}
    assert modules(Encoder("std"), decode, mine, gives="std").posteriors["heldout"].n == 200


class Whole(nn.Module):
    """One module with methods, in single precision, with dropout: as people write them."""

    def __init__(self) -> None:
        super().__init__()
        self.back, self.drop = nn.Linear(2, 5), nn.Dropout(0.5)
        with torch.no_grad():
            self.back.weight.copy_(MODEL.weight)
            self.back.bias.copy_(MODEL.bias)

    def encode(self, x):
        mean, scale = MODEL.posterior(x.double())
        return self.drop(mean.float()), scale.float()

    def decode(self, z):
        return self.back(z)


def test_methods_of_a_module_are_evaluated_in_its_precision_whatever_the_data_come_in() -> None:
    whole = Whole()
    for kind in (np.float64, np.float32):
        rows = {s: x.numpy().astype(kind) for s, x in data().items()}
        b = modules(whole.encode, whole.decode, rows, gives="std", likelihood=Gaussian(scale=MODEL.var**0.5))
        assert whole.training
        assert whole.drop.training  # as it was: in evaluation mode while it computes
        assert b.rows["train"].x.dtype == torch.float32
        want = MODEL.posterior(data()["train"])[0].float()
        torch.testing.assert_close(b.posteriors["train"].gather().mean, want, atol=1e-5, rtol=1e-5)


def test_sampling_from_a_brought_model_is_in_the_units_of_its_rows() -> None:
    b = modules(Encoder("std"), decode, data(), gives="std")
    z, x = sample(b.generator(fit("gaussian", **b.splits).distribution), 500, noise="draw")
    torch.testing.assert_close(x.mean(0), data()["train"].mean(0), atol=0.4, rtol=0)
    assert z.shape == (500, 2)
    bare = arrays({s: torch.randn(50, 2) for s in data()}, {s: torch.full((50, 2), 0.1) for s in data()})
    with pytest.raises(UsageError, match="bare arrays have no decoder"):
        bare.generator(fit("gaussian", **bare.splits).distribution)


def test_arrays_whose_variance_cannot_be_right() -> None:
    rng = np.random.default_rng(0)
    mean = {"train": rng.normal(size=(500, 3)), "heldout": rng.normal(size=(100, 3))}
    log_variance = {s: np.full_like(m, -4.0) for s, m in mean.items()}
    arrays(mean, log_variance, gives="log-variance")
    # collapsed dimensions, given as log-variances of 1 and read as if they were deviations of e: a factor 7 too wide
    wide = {s: np.full_like(m, 1.0) + 1.0 for s, m in mean.items()}
    with pytest.raises(UsageError, match="a factor 7.* away from the prior's"):
        arrays({s: 0.1 * m for s, m in mean.items()}, {s: v - 1.0 for s, v in wide.items()}, gives="log-std")


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        (
            {"gives": "precision"},
            UsageError,
            "gives: expected one of std, variance, log-variance, log-std, scale_tril, covariance, got 'precision'",
        ),
        ({"data": {"train": torch.zeros(5, 5)}}, UsageError, "expected train and heldout"),
        ({"data": {"train": torch.full((5, 5), torch.nan), "heldout": torch.zeros(9, 5)}}, ArrayError, "finite"),
        ({"data": {"train": torch.zeros(5, 5), "heldout": torch.zeros(3, 5)}}, ArrayError, "at least 4 held-out"),
        ({"data": {"train": torch.zeros(5, 5), "heldout": torch.zeros(9, 4)}}, ArrayError, "rows of one shape"),
        ({"encoder": lambda x: x}, ArrayError, "encode: expected two matrices"),
        ({"encoder": lambda x: (x, x[:, :1])}, ArrayError, "encode: expected two matrices"),
        ({"decoder": lambda z: z}, ArrayError, "decode: expected a torch Distribution"),
        ({"decoder": lambda z: Normal(z, 1.0)}, ArrayError, "got batch shape"),
        ({"decoder": lambda z: decode(z).expand((len(z),)).base_dist}, ArrayError, "got batch shape"),
        (
            {"decoder": lambda z: Independent(Normal(torch.zeros(len(z), 5, 1), 1.0), 2)},
            ArrayError,
            r"of shape \[5\], as the rows are, got \[5, 1\]",
        ),
        ({"labels": {"train": torch.zeros(3)}}, ArrayError, "labels: expected 300 integers for train"),
    ],
)
def test_what_is_wrong_is_said(change, error, text) -> None:
    given = {"encoder": Encoder("std"), "decoder": decode, "data": data(), "gives": "std"} | change
    with pytest.raises(error, match=text):
        modules(**given)
