"""Models without Gaussian posteriors, brought: codes of an autoencoder, draws of a flow posterior."""

import pytest
import torch
from torch import nn
from torch.distributions import Independent, Normal

import zprime
from zprime import bring
from zprime.bring.brought import Brought
from zprime.bring.splits import closed
from zprime.data import Rows
from zprime.errors import ArrayError, UsageError
from zprime.latent import Gaussian
from zprime.measure.prior import prior_kl
from zprime.posteriors import MemoryPosteriors
from zprime.reporting.explain import explain
from zprime.reporting.page import html
from zprime.reporting.terminal import show
from zprime.results.audit import AuditSettings, load
from zprime.rng import stream

QUICK = AuditSettings(rows=100, samples=100, draws=0, members=50, map=50, grid=4)


def digits() -> dict[str, torch.Tensor]:
    from sklearn.datasets import load_digits

    x = torch.as_tensor(load_digits().data, dtype=torch.float32) / 16
    x = x[torch.randperm(len(x), generator=stream(0, "digits"))]
    return {"train": x[:1200], "selection": x[1200:1500], "heldout": x[1500:]}


def test_an_autoencoder_trained_and_audited(tmp_path) -> None:
    """Without posteriors there is no KL, surgery, or likelihood gain, and the page says why; samples are compared."""
    data = digits()
    torch.manual_seed(0)
    encoder = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 4))
    decoder = nn.Sequential(nn.Linear(4, 64), nn.ReLU(), nn.Linear(64, 64))
    adam = torch.optim.Adam([*encoder.parameters(), *decoder.parameters()], 3e-3)
    for _ in range(300):
        loss = (decoder(encoder(data["train"])) - data["train"]).square().sum(1).mean()
        adam.zero_grad()
        loss.backward()
        adam.step()
    mine = bring.codes(encoder, data, decoder)
    assert mine.prior is not None
    assert any("codes without posteriors" in s for s in mine.says)
    fits = {k: zprime.fit(k, **mine.splits) for k in ("mixture", "gaussian")}
    audit = zprime.audit(fits, mine.posteriors, model=mine.model, rows=mine.rows, prior=mine.prior, settings=QUICK)
    assert audit.surgery == {}
    assert audit.model.posterior == "none"
    assert audit.averages is None
    assert audit.rows == 1200
    assert len(audit.variance) == 4
    mixture = next(e for e in audit.leading if e.id.name == "mixture").heldout  # with the share that was chosen
    assert mixture.elbo.gain.low > 0
    assert mixture.exact_posterior is None
    assert mixture.likelihood is None
    assert audit.entry("gaussian").heldout.elbo.gain.value == pytest.approx(0, abs=1e-6)
    assert audit.samples is not None
    for text in (explain(audit), html(audit)):
        assert "The encoder gives one code a row and no posterior" in text
    show(audit)
    audit.save(tmp_path / "audit")
    assert load(tmp_path / "audit").model == audit.model


@pytest.mark.parametrize("kind", ["gaussian", "mixture"])
def test_a_made_up_variance_changes_the_exact_mixture_alone(
    kind: str,
) -> None:
    """`log r(code)` of Gaussian and mixture agree over all small s; the aggregated posterior's falls without bound."""
    rng = stream(0, "codes")
    code = torch.randn(600, 2, generator=rng, dtype=torch.float64) @ torch.tensor([[1.0, 0.5], [0.0, 0.8]]).double()
    held = torch.randn(300, 2, generator=rng, dtype=torch.float64) @ torch.tensor([[1.0, 0.5], [0.0, 0.8]]).double()
    mine = bring.codes(None, {"train": code, "selection": held[:150], "heldout": held[150:]})
    want = zprime.fit(kind, **mine.splits).distribution.log_prob(held[150:]).mean()
    exact = []
    for s in (1e-2, 1e-3, 1e-4, 1e-5):
        p, q = (MemoryPosteriors(c, torch.full_like(c, s)) for c in (code, held[:150]))
        r = zprime.fit(kind, p, selection=q, keep_duplicates=True).distribution
        assert float(r.log_prob(held[150:]).mean()) == pytest.approx(float(want), abs=1e-2)
        exact.append(float(p.log_prob(held[150:]).mean()))
    assert exact[-1] < exact[-2] < exact[-3] < exact[0] - 100


def flow_model() -> tuple[dict[str, torch.Tensor], torch.Tensor, torch.Tensor, Brought]:
    """q0 = N(m0, s0^2), z_K = A z0 + b for all rows; z_K ~ N(0, I) is the prior."""
    a = torch.tensor([[1.0, 0.6], [-0.3, 0.9]], dtype=torch.float64)
    b = torch.tensor([0.2, -0.1], dtype=torch.float64)
    rng = stream(5, "flow")
    data = {s: torch.randn(n, 2, generator=rng, dtype=torch.float64) for s, n in (("train", 800), ("heldout", 800))}

    def encoder(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        z0 = 0.8 * x + 0.4 * torch.randn_like(x)
        log_q0 = Independent(Normal(0.8 * x, 0.4), 1).log_prob(z0)
        return z0 @ a.T + b, log_q0 - torch.linalg.slogdet(a)[1]

    return data, a, b, bring.draws(encoder, data, draws=16, seed=3)


def test_an_audit_of_a_flow_posterior_is_that_of_its_base_with_the_prior_taken_back() -> None:
    """Audit of z_K by draws beside full-covariance posteriors of z_K, and z0 under N(-A^-1 b, (A'A)^-1)."""
    data, a, b, mine = flow_model()
    fitted = zprime.fit("gaussian", **mine.splits).distribution
    audit = zprime.audit({"gaussian": fitted}, mine.posteriors, settings=QUICK)
    gain = audit.entry("gaussian").heldout
    scale = torch.linalg.cholesky(0.16 * a @ a.T)
    means = {s: (0.8 * x @ a.T + b) for s, x in data.items()}
    whole = bring.arrays(means, scale_tril={s: scale.expand(len(x), 2, 2).clone() for s, x in means.items()}, seed=3)
    other = zprime.audit({"gaussian": fitted}, whole.posteriors, settings=QUICK).entry("gaussian").heldout
    assert gain.elbo.gain.value == pytest.approx(other.elbo.gain.value, abs=0.05)
    assert gain.exact_posterior is not None
    assert other.exact_posterior is not None
    assert gain.exact_posterior.gain.value == pytest.approx(other.exact_posterior.gain.value, abs=0.05)
    assert audit.surgery == {}
    assert audit.model.posterior == "draws"
    assert audit.rows == 800
    back = torch.linalg.inv(a)
    base = torch.distributions.MultivariateNormal(-back @ b, covariance_matrix=torch.linalg.inv(a.T @ a))
    zero = bring.arrays(
        {s: 0.8 * x for s, x in data.items()},
        {s: torch.full_like(x, 0.4) for s, x in data.items()},
        prior=base,
        seed=3,
        check=False,
    )
    spread = back @ (fitted.scale_tril @ fitted.scale_tril.T) @ back.T
    moved = Gaussian(back @ (fitted.mean - b), torch.linalg.cholesky(spread))
    assert zero.prior is None
    last = zprime.audit({"gaussian": zero.inside(moved)}, zero.posteriors, settings=QUICK)
    third = last.entry("gaussian").heldout
    assert third.elbo.gain.value == pytest.approx(other.elbo.gain.value, abs=0.05)
    # whitened, z0 is z_K but for a rotation: closed forms are the same to rounding
    assert third.exact_posterior is not None
    assert third.exact_posterior.gain.value == pytest.approx(other.exact_posterior.gain.value, abs=1e-8)
    kl, wanted = (prior_kl(None, m.posteriors["train"].gather(), rng=stream(0)) for m in (zero, whole))
    torch.testing.assert_close(kl, wanted, rtol=1e-9, atol=1e-9)


def test_the_kl_of_draws_is_said_with_its_error() -> None:
    _, a, b, mine = flow_model()
    said = next(s for s in mine.says if s.startswith("mean KL(q||p)"))
    spread = 0.16 * a @ a.T
    second = 0.64 * a @ a.T + torch.outer(b, b)
    want = 0.5 * float(spread.trace() + second.trace() - 2 - torch.logdet(spread))
    assert float(said.split(": ")[1].split(" ")[0]) == pytest.approx(want, abs=0.15)


def test_draws_of_one_row_are_one_datum() -> None:
    _, _, _, mine = flow_model()
    p = mine.posteriors["train"].gather()
    assert p.n == 800 * 16
    assert p.effective_rows == pytest.approx(800)
    audit = zprime.audit({"gaussian": zprime.fit("gaussian", **mine.splits)}, mine.posteriors, settings=QUICK)
    e = audit.entry("gaussian").heldout.elbo.gain
    assert e.groups is not None
    assert e.groups < e.n


def test_rows_that_add_up_to_1_are_noticed() -> None:
    """Case 26 of the public questions: 700 rows on a simplex, two latents."""
    log_share = torch.rand(700, 3, generator=stream(2, "simplex"), dtype=torch.float64).add(0.1).log()
    x = log_share.softmax(1)
    one_hot = nn.functional.one_hot(x.argmax(1), 3).double()

    def noticed(x: torch.Tensor) -> bool:
        rows = {"train": Rows("train", x, torch.arange(700))}
        return any(
            s.startswith("all 700 training rows add up to 1, as shares do: 3 entries hold 2") for s in closed(rows)
        )

    assert noticed(x)
    assert not any(
        noticed(other) for other in (2 * x, x - x.mean(0), log_share, one_hot, x[:, :2] / x[:, :2].sum(1, True))
    )
    mine = bring.codes(lambda x: x[:, :2], {"train": x[:400], "heldout": x[400:]})
    assert any("add up to 1, as shares do" in s for s in mine.says)
    mine = bring.modules(
        lambda x: (x[:, :2], torch.full_like(x[:, :2], 0.1)),
        lambda z: torch.cat([z, 1 - z.sum(1, keepdim=True)], 1),
        {"train": x[:400], "heldout": x[400:]},
        gives="std",
        likelihood="gaussian",
        check=False,
    )
    assert any("add up to 1, as shares do" in s for s in mine.says)


def test_wae_codes_held_out_difference_of_mixture_and_normal_with_its_error() -> None:
    """Two latents, codes only: a ring of three clusters."""
    rng = stream(1, "wae")
    centre = torch.tensor([[1.5, 0.0], [-0.75, 1.3], [-0.75, -1.3]], dtype=torch.float64)
    z = centre[torch.randint(3, (700,), generator=rng)] + 0.3 * torch.randn(700, 2, generator=rng, dtype=torch.float64)
    mine = bring.codes(None, {"train": z[:400], "selection": z[400:550], "heldout": z[550:]})
    audit = zprime.audit(
        {"mixture": zprime.fit("mixture", **mine.splits)}, mine.posteriors, prior=mine.prior, settings=QUICK
    )
    mixture, normal = (audit.entry(k).heldout.elbo.gain for k in ("mixture+p1", "standard-normal"))
    assert mixture.low > 0.3
    assert mixture.stderr is not None
    assert mixture.n == 100
    assert normal.value < 0.1


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda d: bring.draws(None, d), r"draws: expected \[n, draws, d\] with at least 2 draws"),
        (lambda d: bring.codes(None, d, nn.Linear(2, 2)), "encoder: expected one beside a decoder"),
        (lambda d: bring.codes(nn.Linear(2, 2), d, nn.Linear(2, 3)), r"decode: expected rows of shape \[20, 2\], got"),
        (lambda d: bring.codes(lambda x: x[None], d), r"encode: expected codes of shape \[20, d\]"),
        (lambda d: bring.codes(lambda x: x + torch.rand_like(x), d), "differs between two calls"),
        (
            lambda d: bring.codes(nn.Linear(2, 2), d, nn.Linear(3, 2)),
            r"decoder: it fails when it is given \[20, 2\] float32 .*mat1",
        ),
        (
            lambda d: bring.codes(nn.Linear(2, 2), d, nn.Linear(2, 2), likelihood="laplace"),
            "give 'laplace' with its scale",
        ),
        (lambda d: bring.codes(nn.Linear(2, 2), d, nn.Linear(2, 2), likelihood="normal"), "likelihood: expected one"),
    ],
)
def test_what_cannot_be_brought_is_said(make, text: str) -> None:
    x = torch.randn(20, 2, generator=stream(0, "x"))
    with pytest.raises((UsageError, ArrayError), match=text):
        make({"train": x, "heldout": x})


def test_images_may_be_decoded_flat_and_likelihoods_have_names() -> None:
    x = torch.rand(60, 1, 2, 2, generator=stream(0, "x"))
    data = {"train": x[:40], "heldout": x[40:]}
    z = torch.randn(5, 2, generator=stream(0, "z"))
    flat = lambda z: z.repeat(1, 2)  # noqa: E731
    made = {
        name: bring.codes(lambda x: x.flatten(1)[:, :2], data, flat, likelihood=name).model.decode(z)
        for name in (None, "gaussian", "bernoulli")
    }
    for name, p in made.items():
        wanted = flat(z).reshape(5, 1, 2, 2)
        torch.testing.assert_close(p.mean, wanted.sigmoid() if name == "bernoulli" else wanted)
    torch.testing.assert_close(made[None].variance, made["gaussian"].variance)


def test_an_encoder_that_draws_nothing_is_refused() -> None:
    x = torch.randn(20, 2, generator=stream(0, "x"))
    with pytest.raises(UsageError, match="all draws of a row are equal, so the encoder draws nothing"):
        bring.draws(nn.Identity(), {"train": x, "heldout": x})


def test_the_error_of_the_kl_of_draws_is_by_group() -> None:
    rng = stream(2, "groups")
    shift = torch.randn(20, 1, generator=rng, dtype=torch.float64).repeat_interleave(10, 0)
    z = {
        s: shift[:, None] + 0.1 * torch.randn(200, 4, 1, generator=rng, dtype=torch.float64)
        for s in ("train", "heldout")
    }
    log_q = {s: torch.zeros(200, 4) for s in z}
    groups = {s: [f"{s} {i // 10}" for i in range(200)] for s in z}
    alone, grouped = (bring.draws(None, z, log_q=log_q, groups=g) for g in (None, groups))
    errors = [float(m.says[1].split("± ")[1].split(" ")[0]) for m in (alone, grouped)]
    assert errors[1] > 2 * errors[0]
