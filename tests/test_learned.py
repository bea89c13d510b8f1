"""Priors that are learned: gradients, sums without the own row, and what they are when they are frozen."""

import math

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import MultivariateNormal, Normal

from learning import SETTINGS, D, N, Small, begun, rows
from zprime import learned
from zprime.arrays import gaussian_log_prob
from zprime.errors import UsageError
from zprime.latent import Aggregated, Exemplars, Gaussian, Mixture, Vamp
from zprime.leaks import check_rows
from zprime.learned import AggregatedPrior, ExemplarsPrior, FlowPrior, MixturePrior, VampPrior
from zprime.likelihoods import Gaussian as GaussianLikelihood
from zprime.low_rank import LowRank
from zprime.per_entry import OneHot
from zprime.posteriors import MemoryPosteriors
from zprime.rng import stream
from zprime.vae import VAE

Z = torch.randn(N, D, generator=stream(0, "z"), dtype=torch.float64)


def slope(f, p: Tensor, at: int, step: float = 1e-5) -> float:
    """Central difference of f() in one entry of p."""
    with torch.no_grad():
        flat, values = p.view(-1), []
        for sign in (1, -1):
            flat[at] += sign * step
            values.append(float(f()))
            flat[at] -= sign * step
    return (values[0] - values[1]) / (2 * step)


@pytest.mark.parametrize("kind", SETTINGS)
def test_gradients_are_those_of_finite_differences(kind: str) -> None:
    encoder = Small()
    prior, z, own = begun(SETTINGS[kind], encoder), Z.clone().requires_grad_(), torch.arange(N)

    def value() -> Tensor:
        with torch.enable_grad():
            return prior.log_prob(z, own).sum()

    through = {"vamp", "exemplars", "aggregated", "coreset"}
    kept = ("free", "logits") if kind == "coreset" else ()  # from these its density has no gradient: test_coreset.py
    own_parameters = [p for name, p in prior.named_parameters() if name not in kept]
    inputs = [z, *own_parameters, *(encoder.parameters() if kind in through else ())]
    got = torch.autograd.grad(value(), inputs, allow_unused=True)
    for p, gradient in zip(inputs, got, strict=True):
        for at in range(0, p.numel(), max(1, p.numel() // 6)):
            want = slope(value, p.detach(), at)
            found = 0.0 if gradient is None else float(gradient.reshape(-1)[at])
            assert found == pytest.approx(want, rel=1e-5, abs=1e-6), (kind, at)


@pytest.mark.parametrize("kind", SETTINGS)
def test_frozen_it_has_the_same_density_and_does_not_move(kind: str) -> None:
    prior = begun(SETTINGS[kind], Small())
    prior.refresh()
    r = prior.frozen()
    assert r.kind == SETTINGS[kind].kind
    before = r.log_prob(Z)
    torch.testing.assert_close(prior.log_prob(Z).double(), before, rtol=0, atol=1e-8)
    with torch.no_grad():
        torch.testing.assert_close(prior.log_prob(Z).double(), before, rtol=0, atol=1e-8)
        for p in prior.parameters():
            p.add_(1)
    assert torch.equal(r.log_prob(Z), before)


def direct(z: Tensor, mean: Tensor, scale: Tensor, own: int) -> float:
    """Log of the mean density at one z of all rows but its own, summed one by one."""
    terms = [Normal(mean[j], scale[j]).log_prob(z).sum() for j in range(len(mean)) if j != own]
    return float(torch.logsumexp(torch.stack(terms), 0)) - math.log(len(terms))


@pytest.mark.parametrize(("near", "again"), [(0, 0), (0, 3), (N, 5)])
@pytest.mark.parametrize("kind", ["exemplars", "aggregated"])
def test_the_elbo_without_the_own_row_is_that_of_a_direct_sum(kind: str, near: int, again: int) -> None:
    encoder = Small()
    model = VAE(encoder, nn.Linear(D, 3).double(), GaussianLikelihood(scale=1.0), latents=D)
    settings = (ExemplarsPrior if kind == "exemplars" else AggregatedPrior)(near, again)
    model.learn(settings.make(D), rows(), rng=stream(0, "prior"))
    own, noise = torch.tensor([7, 0, 3, 7]), torch.randn(4, D, generator=stream(1), dtype=torch.float64)
    model.prior.before_batch(own, stream(0))
    _, kl = model.elbo_terms(rows()[own], noise=noise, rows=own)
    mean, scale = (t.detach() for t in encoder(rows()))
    width = scale if kind == "aggregated" else scale.square().mean().sqrt().expand_as(scale)
    z = mean[own] + scale[own] * noise
    want = [direct(z[b], mean, width, int(own[b])) for b in range(4)]
    got = gaussian_log_prob(z, mean[own], scale[own]) - kl
    torch.testing.assert_close(got.detach(), torch.tensor(want, dtype=torch.float64), rtol=0, atol=1e-9)
    everything = model.prior.log_prob(z)
    whole = MemoryPosteriors(mean.detach(), width.detach()).log_prob(z.detach())
    torch.testing.assert_close(everything.detach(), whole, rtol=0, atol=1e-9)


def test_a_step_encodes_again_the_rows_nearest_to_its_batch_and_keeps_their_codes() -> None:
    encoder = Small()
    prior = ExemplarsPrior(again=3).make(D)
    prior.begin(encoder, rows(), stream(0))
    prior.before_batch(torch.tensor([5]), stream(0))
    distance = (encoder(rows())[0] - encoder(rows())[0][5]).norm(dim=1).detach()
    assert set(prior._chosen.tolist()) == set(distance.argsort()[1:4].tolist())  # itself is left out
    with torch.no_grad():
        encoder.a.add_(0.1)
    before = prior._mean.clone()
    prior.log_prob(Z, torch.full((N,), 5))
    moved = (prior._mean != before).any(1).nonzero().flatten()
    assert moved.tolist() == prior._chosen.tolist()
    assert torch.equal(prior._mean[moved], encoder(rows())[0][moved].detach())


def test_what_a_step_leaves_out_of_its_sum_is_what_counts_least() -> None:
    """A lower bound of the density, which is near where the rows in the sum are those near the code."""
    prior, whole = ExemplarsPrior(near=6, again=2).make(D), ExemplarsPrior(0, 0).make(D)
    for p in (prior, whole):
        p.begin(Small(), rows(), stream(0))
        with torch.no_grad():
            p.log_width.fill_(-0.7)
    own = torch.tensor([5])
    prior.before_batch(own, stream(0))
    assert set(prior._chosen.tolist()) < set(prior._near.tolist())
    z = Small()(rows())[0][own].detach()
    distance = (Small()(rows())[0].detach() - z).norm(dim=1)
    assert set(prior._near.tolist()) == set(distance.argsort()[1:7].tolist())
    less, all_ = prior.log_prob(z, own).detach(), whole.log_prob(z, own).detach()
    assert float(less) <= float(all_) < float(less) + 0.05


def test_vamp_with_all_rows_as_pseudo_inputs_is_the_aggregated_posterior() -> None:
    encoder = Small()
    prior = VampPrior(components=50).make(D)
    prior.begin(encoder, rows(), stream(0))
    prior.double()
    assert len(prior.free) == N
    mean, scale = (t.detach() for t in encoder(rows()))
    want = Aggregated(mean, scale).log_prob(Z)
    torch.testing.assert_close(prior.frozen().log_prob(Z), want, rtol=0, atol=1e-9)
    torch.testing.assert_close(prior.log_prob(Z).detach(), want, rtol=0, atol=1e-9)
    assert prior.frozen().least_rows == 1  # they have not moved from the rows
    with torch.no_grad():
        prior.free[1:] = 0.5
    assert prior.frozen().holds_rows  # one is where it was
    with torch.no_grad():
        prior.free[0] = 0.5
    assert prior.frozen().least_rows is None  # learned ones are no rows


def test_pseudo_inputs_stay_in_the_box_of_the_data() -> None:
    prior = VampPrior(components=4).make(D)
    prior.begin(Small(), rows(), stream(0))
    with torch.no_grad():
        prior.free.add_(torch.tensor([3.0, -3.0, 0.0]))
    mean = prior.frozen().mean
    prior.before_batch(torch.arange(2), stream(0))
    assert float(prior.free.min()) >= 0
    assert float(prior.free.max()) <= 1
    assert torch.equal(prior.frozen().mean, mean)


def test_a_flow_begins_as_the_standard_normal_and_going_on_begins_where_the_fit_is() -> None:
    flow = FlowPrior(hidden=(8,)).make(D)
    flow.begin(Small(), rows(), stream(0))
    torch.testing.assert_close(
        flow.log_prob(Z).detach(), Normal(0, 1).log_prob(Z).sum(1), rtol=0, atol=1e-5, check_dtype=False
    )
    mean, scale = (t.detach() for t in Small()(rows()))
    fits = [Aggregated(mean, scale)]
    fits += [begun(SETTINGS[kind], Small()).frozen() for kind in ("flow", "flow, nsf", "mixture", "mixture, full")]
    for r in fits:
        prior = learned.going_on_from(r).make(D)
        prior.begin(Small(), rows(), stream(0))
        torch.testing.assert_close(prior.frozen().log_prob(Z), r.log_prob(Z), rtol=0, atol=1e-6)


class Full(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x[:, :D], torch.eye(D).to(x).expand(len(x), D, D)


def test_vamp_takes_full_covariances() -> None:
    prior = VampPrior(components=3).make(D)
    prior.begin(Full(), rows(), stream(0))
    prior.double()
    torch.testing.assert_close(prior.log_prob(Z).detach(), prior.frozen().log_prob(Z), rtol=0, atol=1e-9)


@pytest.mark.parametrize("covariance", ["diagonal", "full"])
def test_a_learned_mixture_counts_the_rows_behind_its_components(covariance: str) -> None:
    mean, scale = (t.detach() for t in Small()(rows()))
    r = begun(MixturePrior(3, covariance), Small()).frozen()
    assert isinstance(r, Mixture)
    S = r.scale_tril @ r.scale_tril.mT if covariance == "full" else r.scale_tril.square().diag_embed()
    share = torch.zeros(N, 3, dtype=torch.float64)
    for i in range(N):
        for k in range(3):
            trace = torch.trace(torch.linalg.solve(S[k], scale[i].square().diag()))
            share[i, k] = r.log_weight[k] + MultivariateNormal(r.mean[k], S[k]).log_prob(mean[i]) - 0.5 * trace
    share = share.softmax(1)
    want = float((share.sum(0).square() / share.square().sum(0)).min())
    assert r.least_rows == pytest.approx(want, rel=1e-6)
    assert not r.holds_rows
    check_rows(r, allow_rows=False)


@pytest.mark.parametrize("on", [False, True])
def test_a_mixture_with_a_component_for_every_row_holds_rows(on: bool) -> None:  # noqa: FBT001
    mean, _ = (t.detach() for t in Small()(rows()))
    at_rows = Mixture(torch.full((N,), -math.log(N)), mean, torch.full_like(mean, 1e-3))
    prior = learned.going_on_from(at_rows).make(D) if on else MixturePrior(components=N).make(D)
    prior.begin(Small(), rows(), stream(0))
    with torch.no_grad():
        prior.mean.copy_(mean)
        prior.log_scale.fill_(math.log(1e-3))
    assert prior.frozen().holds_rows
    with pytest.raises(UsageError, match="mixture"):
        check_rows(prior.frozen(), allow_rows=False)


def hot(x: Tensor) -> tuple[Tensor, Tensor]:
    """An encoder of one-hot codes."""
    mean, scale = Small()(OneHot(1)(x))
    return mean, scale


def without_gradients(x: Tensor) -> tuple[Tensor, Tensor]:
    with torch.no_grad():
        mean, scale = Small()(x)
        return mean, scale


def low_rank() -> Mixture:
    one = torch.zeros(1)
    r = Mixture(one, torch.zeros(1, D), torch.ones(1, D), factor=torch.ones(1, D, 1))
    assert isinstance(r.components, LowRank)
    return r


ONE = torch.ones(1, D)


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: learned.settings_of("vampp"), "one of vamp, mixture, flow, exemplars, aggregated.*did you mean vamp"),
        (lambda: learned.settings_of(VampPrior(components=0)), "components: expected at least 1, got 0"),
        (
            lambda: learned.settings_of(MixturePrior(covariance="low")),
            "covariance: expected diagonal or full, got 'low'",
        ),
        (lambda: learned.settings_of(FlowPrior("glow")), "flow: expected nsf or maf, got 'glow'"),
        (lambda: learned.settings_of(FlowPrior(hidden=())), "hidden: expected the width of one hidden layer"),
        (lambda: learned.settings_of(ExemplarsPrior(again=-1)), "again: expected at least 0, got -1"),
        (lambda: learned.settings_of(ExemplarsPrior(near=8)), "near: expected 0 for all rows, or 2 at least.*, got 8"),
        (
            lambda: learned.settings_of(AggregatedPrior(again=0)),
            "near: expected 0 with again 0, .*, got 1024; set both to 0",
        ),
        (lambda: AggregatedPrior().make(D).begin(Small(), rows()[:1], stream(0)), "expected two at least, got 1"),
        (lambda: AggregatedPrior().make(D).begin(Full(), rows(), stream(0)), "full covariances; take vamp"),
        (lambda: VampPrior(4).make(D).begin(hot, rows(), stream(0)), "no gradient in its input.*take mixture or flow"),
        (lambda: VampPrior(4).make(D).begin(without_gradients, rows(), stream(0)), "no gradient in its input"),
        (lambda: learned.going_on_from(Gaussian(ONE[0], ONE[0])), "which can be learned, got 'gaussian'"),
        (lambda: learned.going_on_from(Vamp(torch.zeros(1), ONE, ONE)).make(D), "keeps no pseudo-inputs"),
        (lambda: learned.going_on_from(Exemplars(ONE, ONE, ONE[0], ONE[0], 0.5)).make(D), "smoothed in another way"),
        (lambda: learned.going_on_from(low_rank()).make(D), "of low rank is not learned on yet"),
        (
            lambda: learned.going_on_from(
                Aggregated(ONE.repeat(2, 1), ONE.repeat(2, 1), torch.tensor([0.3, 0.7]))
            ).make(D),
            "fitted to weighted rows",
        ),
    ],
)
def test_what_cannot_be_learned_is_refused_in_words(call, text: str) -> None:
    with pytest.raises(UsageError, match=text):
        call()
