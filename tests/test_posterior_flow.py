"""Posteriors that are flows: log q against the Jacobian, the start, what a flow closes of the gap, and its draws."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from oracles import linear_gaussian
from zprime import encoding, objectives
from zprime.data import Rows
from zprime.encoding import Reencoded, encode
from zprime.errors import ArrayError, NumericalError, UsageError
from zprime.heads import Ends
from zprime.latent import Mixture, Prior
from zprime.likelihoods import Gaussian
from zprime.measure.candidates import Candidates
from zprime.measure.likelihood.finer import Measured
from zprime.measure.likelihood.gains import measure_gains
from zprime.measure.likelihood.inference import inference_gap
from zprime.measure.study import Split
from zprime.networks import MLPEncoder
from zprime.objectives import IWAE, Elbo
from zprime.posterior_flow import STRETCH, FlowEncoder
from zprime.posteriors import MemoryPosteriors
from zprime.rng import stream
from zprime.semi_amortised import semi_amortised
from zprime.train_settings import TrainSettings
from zprime.vae import VAE, VAESettings, describe, rebuild
from zprime.vae_settings import FLOW_STEPS

ROUNDED = {"rtol": 1e-5, "atol": 1e-5}
FLOW = VAESettings(latents=3, hidden=(8,), posterior="flow")


def rows(n: int = 12, width: int = 4) -> Tensor:
    return torch.randn(n, width, generator=stream(0, "rows"), dtype=torch.float64)


def stirred(flow: FlowEncoder, size: float = 0.4) -> None:
    """Let the steps be no identity."""
    rng = stream(7, "stirred")
    with torch.no_grad():
        for step in flow.steps:
            for p in step.last.parameters():
                p.copy_(size * torch.randn(p.shape, generator=rng))


def built(settings: VAESettings = FLOW, *, stir: bool = True, **more) -> VAE:
    vae = VAE.build((4,), settings, seed=1, **more).double()
    if stir:
        stirred(vae.encoder)
    return vae


@pytest.mark.parametrize("d", [1, 2, 3])
@pytest.mark.parametrize("steps", [1, 3])
def test_log_q_is_that_of_the_jacobian(d: int, steps: int) -> None:
    """Log N(noise) less the log-determinant of dz/dnoise, by differentiation."""
    vae, x = built(replace(FLOW, latents=d, flow_steps=steps)), rows(5)
    noise = torch.randn(5, d, generator=stream(1), dtype=torch.float64)
    drawn = vae.draw(x, noise=noise)
    for i in range(5):
        jacobian = torch.func.jacrev(lambda e, i=i: vae.draw(x[i : i + 1], noise=e[None]).z[0])(noise[i])
        log_det = torch.linalg.slogdet(jacobian).logabsdet
        base = -0.5 * (d * math.log(2 * math.pi) + noise[i].square().sum())
        assert float(drawn.log_q[i]) == pytest.approx(float(base - log_det), abs=1e-9)
    if d > 1:  # and it is no diagonal Gaussian
        assert float(jacobian.tril(-1).abs().max() + jacobian.triu(1).abs().max()) > 0.01


def test_a_density_integrates_to_one() -> None:
    """In one dimension: the mean over a wide proposal of q / proposal, with q by interpolation of its draws."""
    vae, x = built(replace(FLOW, latents=1, flow_steps=2)), rows(1)
    e = torch.linspace(-9, 9, 20_001, dtype=torch.float64)[:, None]
    drawn = vae.draw(x.expand(len(e), -1), noise=e)
    z, order = drawn.z[:, 0].sort()
    assert float(torch.trapezoid(drawn.log_q[order].exp(), z)) == pytest.approx(1, abs=1e-6)


def test_several_draws_a_row_are_those_one_by_one() -> None:
    vae, x = built(), rows(6)
    noise = torch.randn(6, 5, 3, generator=stream(1), dtype=torch.float64)
    together = vae.draw(x, noise=noise)
    for k in range(5):
        one = vae.draw(x, noise=noise[:, k])
        torch.testing.assert_close(together.z[:, k], one.z)
        torch.testing.assert_close(together.log_q[:, k], one.log_q)


def test_a_flow_begins_as_the_diagonal_gaussian() -> None:
    vae, plain, x = built(stir=False), VAE.build((4,), replace(FLOW, posterior="diagonal"), seed=5).double(), rows()
    base = {k.removeprefix("base.").replace("head.diagonal", "head"): v for k, v in vae.encoder.state_dict().items()}
    plain.encoder.load_state_dict({k: base[k] for k in plain.encoder.state_dict()})
    plain.decoder.load_state_dict(vae.decoder.state_dict())
    noise = torch.randn(12, 3, generator=stream(1), dtype=torch.float64)
    a, b = vae.draw(x, noise=noise), plain.draw(x, noise=noise)
    torch.testing.assert_close(a.z, b.z)
    torch.testing.assert_close(a.log_q, b.log_q)
    loss = [IWAE(1).rows(v, x, noise[:, None], beta=1.0) for v in (vae, plain)]
    torch.testing.assert_close(*loss)
    many = [Elbo().drawn(v, x[:1].expand(40_000, -1), stream(2), beta=1.0).mean() for v in (vae, plain)]
    assert float(many[0]) == pytest.approx(float(many[1]), abs=0.03)  # the KL of one is by draws


def test_iwae_of_one_draw_is_the_elbo_of_that_draw() -> None:
    prior = Mixture(torch.tensor([0.3, 0.7]).log(), torch.tensor([[-1.0, 0.5, 0.0], [1.0, 0.0, 0.3]]), torch.ones(2, 3))
    for own in (None, prior):
        vae, x = built(prior=own), rows()
        noise = torch.randn(12, 1, 3, generator=stream(1), dtype=torch.float64)
        one, elbo = (o.rows(vae, x, noise, beta=0.7) for o in (IWAE(1), Elbo()))
        torch.testing.assert_close(one, elbo)


def test_codes_of_no_noise_come_with_a_scale_of_0_which_no_gaussian_has() -> None:
    vae, x = built(), rows()
    mean, scale = vae.encode(x)
    torch.testing.assert_close(mean, vae.draw(x, noise=torch.zeros(12, 3, dtype=torch.float64)).z)
    assert not scale.any()
    with pytest.raises(ArrayError, match="scale: expected standard deviations above 0"):
        MemoryPosteriors(mean.detach(), scale)
    assert vae.form == "flow"


def test_no_step_stretches_without_bound() -> None:
    vae = built()
    stirred(vae.encoder, 1e4)
    noise = torch.randn(12, 3, generator=stream(1), dtype=torch.float64)
    z, log_scale = vae.encoder.steps[0](noise, torch.zeros(12, 64, dtype=torch.float64))
    assert bool(torch.isfinite(z).all())
    assert float(log_scale.abs().max()) <= 3 * STRETCH
    assert len(vae.encoder.steps) == FLOW_STEPS


def test_masks_are_in_no_artefact_and_the_model_is_the_same_again() -> None:
    vae, x = VAE.build((4,), replace(FLOW, flow_steps=2), seed=1), rows().float()
    stirred(vae.encoder)
    assert not [name for name in vae.state_dict() if "mask" in name]
    again = rebuild(describe(vae), vae.state_dict())
    assert again.form == "flow"
    noise = torch.randn(12, 3, generator=stream(1))
    assert torch.equal(again.draw(x, noise=noise).log_q, vae.draw(x, noise=noise).log_q)


# -- what it is for ----------------------------------------------------------------------------------------------------


class Banana(nn.Module):
    """One number of two latents: `z_2 + z_1^2 / 2`, so that the posterior lies along a curve."""

    def forward(self, z: Tensor) -> Tensor:
        """The number."""
        return z[:, 1:] + 0.5 * z[:, :1].square()


def log_evidence(x: Tensor) -> Tensor:
    """Log p(x) of the banana with noise 0.2: z_2 is integrated by its closed form, z_1 on a grid."""
    z = torch.linspace(-7, 7, 4001, dtype=torch.float64)
    p = torch.distributions.Normal(0.5 * z.square()[None], math.sqrt(1 + 0.2**2))
    prior = torch.distributions.Normal(0.0, 1.0).log_prob(z)
    return torch.logsumexp(p.log_prob(x.double()) + prior, 1) + math.log(float(z[1] - z[0]))


def closed_gap(posterior: str) -> float:
    """KL(q || posterior) after some training of the encoder alone, nats a row, mean over rows."""
    torch.manual_seed(0)
    base = MLPEncoder((1,), 2, (32,), Ends(posterior=posterior))
    encoder = FlowEncoder(base, 2, 4) if posterior == "flow" else base
    vae = VAE(encoder, Banana(), Gaussian(scale=0.2).requires_grad_(requires_grad=False), latents=2)
    rng = stream(0, "banana")
    optimiser = torch.optim.Adam(vae.parameters(), lr=0.01)
    for step in range(200):
        optimiser.param_groups[0]["lr"] = 0.01 * (1 - step / 200)
        x = Banana()(torch.randn(128, 2, generator=rng)) + 0.2 * torch.randn(128, 1, generator=rng)
        loss = Elbo().drawn(vae, x, rng, beta=1.0).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    x = Banana()(torch.randn(400, 2, generator=rng)) + 0.2 * torch.randn(400, 1, generator=rng)
    with torch.no_grad():
        elbo = -Elbo().drawn(vae, x.repeat_interleave(50, 0), rng, beta=1.0).double().mean()
    return float(log_evidence(x).mean() - elbo)


def test_a_curved_posterior_is_nearer_to_a_flow_than_to_any_gaussian() -> None:
    gaps = {form: closed_gap(form) for form in ("diagonal", "full", "flow")}
    assert gaps["diagonal"] > 0.5, gaps
    assert gaps["full"] > 0.5, gaps
    assert -0.02 < gaps["flow"] < 0.5 * gaps["full"], gaps


def test_log_p_by_draws_of_a_flow_is_that_of_a_linear_model() -> None:
    """A flow that is not the posterior: importance sampling with it as proposal, and the gap, against closed forms."""
    truth = linear_gaussian(4, 2)
    x, _ = truth.sample(60)
    model = truth.vae(widen=1.3)
    exact = model.encoder

    class Told(nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            return *exact(x), torch.zeros(len(x), 64, dtype=torch.float64)

    flow = FlowEncoder(Told(), 2, 3).double()
    stirred(flow, 0.03)
    vae = VAE(flow, model.decoder, model.likelihood, latents=2)
    q = encode(vae, Rows("heldout", x, torch.arange(60)), draws=600)
    split = Split("heldout", q, Rows("heldout", x, torch.arange(60)).take(q.row_of), q.datum)
    gains = measure_gains(Candidates({"r": Prior(2, 0.9)}), split, rng=stream(0, "g"), model=vae)
    assert gains.log_prior is not None
    evidence = truth.log_evidence(x)
    assert float((gains.log_prior - evidence).mean()) == pytest.approx(0, abs=0.01)
    found = inference_gap(Measured(gains), seed=0)
    assert found.elbo.value < float(evidence.mean()) - 0.05
    assert found.gap.value == pytest.approx(float(evidence.mean()) - found.elbo.value, abs=0.01)


# -- encoding ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def some() -> Rows:
    x = torch.randn(37, 4, generator=stream(0, "rows"))
    return Rows("heldout", x, torch.arange(37) * 3 + 1, labels=torch.arange(37) % 5)


@pytest.fixture
def model() -> VAE:
    vae = VAE.build((4,), FLOW, seed=1).eval()
    stirred(vae.encoder)
    return vae


def test_draws_of_a_row_are_a_function_of_the_row(model: VAE, some: Rows, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = encode(model, some, draws=6)
    assert (whole.n, whole.data, whole.form) == (37 * 6, 37, "points")
    assert torch.equal(whole.row_ids, some.ids.repeat_interleave(6))
    assert torch.equal(whole.row_of, torch.arange(37).repeat_interleave(6))
    at = torch.tensor([20, 3, 11])
    few = encode(model, some.take(at), draws=6)
    for i, row in enumerate(at.tolist()):
        torch.testing.assert_close(few.mean[6 * i : 6 * i + 6], whole.mean[6 * row : 6 * row + 6], **ROUNDED)
        torch.testing.assert_close(few.log_q[6 * i : 6 * i + 6], whole.log_q[6 * row : 6 * row + 6], **ROUNDED)
    assert len(torch.unique(whole.mean[:, 0])) == 37 * 6
    monkeypatch.setattr(encoding, "BATCH", 8)
    one_by_one = encode(model, some, draws=6)
    torch.testing.assert_close(one_by_one.mean, whole.mean, **ROUNDED)
    torch.testing.assert_close(one_by_one.log_q, whole.log_q, **ROUNDED)


def test_equal_rows_have_draws_of_their_own(model: VAE, some: Rows) -> None:
    """Else their errors are the same, do not average, and no standard error over rows tells of them."""
    equal = Rows("heldout", some.x[:1].expand(200, -1).contiguous(), torch.arange(200) + 5)
    q = encode(model, equal, draws=8)
    assert len(torch.unique(q.mean[:, 0])) == 200 * 8
    of_row = q.log_q.reshape(200, 8).mean(1)
    spread = float(of_row.std()) / float(q.log_q.std() / 8**0.5)
    assert spread == pytest.approx(1, abs=0.2)  # means of 8 independent draws
    kept = encode(model, Rows("train", some.x[:1], torch.tensor([900])), draws=64)  # a duplicate in training
    assert not torch.isin(kept.mean, q.mean).any()


def test_draws_have_the_moments_and_log_q_of_q(model: VAE, some: Rows) -> None:
    q = encode(model, some.head(2), draws=20_000)
    drawn = model.draw(some.x[:1].expand(20_000, -1), rng=stream(9))
    torch.testing.assert_close(q.mean[:20_000].mean(0), drawn.z.mean(0), rtol=0, atol=0.05)
    torch.testing.assert_close(q.mean[:20_000].std(0), drawn.z.std(0), rtol=0.05, atol=0.01)
    assert float(q.log_q[:20_000].mean()) == pytest.approx(float(drawn.log_q.mean()), abs=0.05)


def test_a_training_row_has_fewer_draws(model: VAE, some: Rows) -> None:
    assert encode(model, some).n == 37 * 64
    assert encode(model, replace(some, name="train")).n == 37 * 8
    assert encode(model, replace(some, name="train"), draws=4).n == 37 * 2
    assert encoding.shard_count(model, some, 64) == 1


@pytest.mark.parametrize("draws", [3, 2, 0, True])
def test_numbers_of_draws_that_are_none_are_refused(model: VAE, some: Rows, draws: int) -> None:
    with pytest.raises(UsageError, match="draws: expected a whole number from 4 on, got"):
        encode(model, some, draws=draws)


def test_an_encoder_that_is_not_usable_on_a_row_is_named(model: VAE, some: Rows) -> None:
    some.x[5] = torch.nan
    with pytest.raises(NumericalError, match="encode: draw 0 of row 16 of heldout has log q nan; expected finite"):
        encode(model, some)


# -- what it is refused for --------------------------------------------------------------------------------------------


def test_draws_of_what_is_no_flow_are_refused(some: Rows) -> None:
    with pytest.raises(UsageError, match="draws: expected a VAE of zprime with --posterior flow, got draws=8 for"):
        encode(VAE.build((4,), replace(FLOW, posterior="full"), seed=1), some, draws=8)


def test_steps_on_gaussians_and_rows_encoded_again_are_refused(model: VAE, some: Rows) -> None:
    with pytest.raises(UsageError, match="steps: expected posteriors that are diagonal Gaussians, got flow"):
        semi_amortised(model, 3)
    with pytest.raises(UsageError, match="posteriors: flows are known by their draws, which are stored"):
        Reencoded(model, some)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"log_variance": (-6.0, 2.0)}, "log_variance: the steps of a flow stretch the Gaussian that they begin at"),
        ({"flow_steps": 0}, "flow_steps: expected at least 1, got 0"),
        (
            {"flow_steps": 2, "posterior": "full"},
            "flow_steps: they are of --posterior flow, got 2 with --posterior full; leave them out",
        ),
    ],
)
def test_settings_that_cannot_be_used_are_refused(changes: dict, text: str) -> None:
    with pytest.raises(UsageError, match=text):
        replace(FLOW, **changes).resolve((4,))


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"free_bits": 0.1}, "posterior: free_bits takes diagonal, got flow; give --posterior diagonal"),
        ({"objective": "rae"}, "posterior: objective rae takes points, got flow; give --posterior points"),
    ],
)
def test_objectives_without_draws_are_refused(settings: dict, text: str) -> None:
    with pytest.raises(UsageError, match=text):
        objectives.check_form(TrainSettings(**settings), "flow")


def test_a_prior_that_is_learned_is_refused() -> None:
    with pytest.raises(UsageError, match="posterior: a prior is learned with diagonal posteriors, got flow"):
        objectives.check_learned(TrainSettings(), "flow", "vamp")
