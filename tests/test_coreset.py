"""The coreset of pseudo-data: two trainings that share no gradients, and what a small mixture of them stands for."""

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from learning import D, N, Small, begun, rows
from test_cli import QUICK, call
from test_learned import Full, Z, slope, without_gradients
from zprime import learned
from zprime.data_parallel import BatchLoss
from zprime.errors import UsageError
from zprime.latent import Coreset
from zprime.leaks import check_rows
from zprime.learned import CoresetPrior, ExemplarsPrior, MixturePrior, VampPrior
from zprime.learned.coreset import TrainableCoreset
from zprime.likelihoods import Gaussian as GaussianLikelihood
from zprime.loading import load as load_generator
from zprime.results.audit import load as load_audit
from zprime.rng import stream
from zprime.run_folder import RunFolder
from zprime.running import Run
from zprime.trainable_prior import Encode
from zprime.vae import VAE

OWN = {"free", "logits"}
EVERY = torch.arange(N)


def test_gradients_of_its_own_loss_are_those_of_finite_differences() -> None:
    prior = begun(CoresetPrior(components=4), Small())

    @torch.enable_grad()
    def own_loss() -> Tensor:
        return prior.own_loss(rows(), EVERY)

    loss = own_loss()
    moved = [p for name, p in prior.named_parameters() if name in OWN]
    for p, gradient in zip(moved, torch.autograd.grad(loss, moved), strict=True):
        for at in range(p.numel()):
            want = slope(own_loss, p.detach(), at)
            assert float(gradient.reshape(-1)[at]) == pytest.approx(want, rel=1e-5, abs=1e-6)
            assert abs(want) > 1e-4  # there is something to compare


def test_its_own_loss_is_the_density_at_draws_of_exemplars_and_is_shared_out_by_rows() -> None:
    encoder = Small()
    prior = begun(CoresetPrior(components=4), encoder)
    prior.before_batch(EVERY, stream(5))
    noise = torch.randn(N, D, generator=stream(5), dtype=torch.float64)
    z = encoder(rows())[0] + prior.log_width.exp() * noise
    whole = prior.own_loss(rows(), EVERY)
    torch.testing.assert_close(whole, -prior.frozen().log_prob(z.detach()).sum(), rtol=1e-12, atol=0)
    some = torch.tensor([7, 0, 3]), torch.tensor([i for i in range(N) if i not in (7, 0, 3)])
    torch.testing.assert_close(sum(prior.own_loss(rows()[at], at) for at in some), whole, rtol=1e-12, atol=0)


def model_with(prior: TrainableCoreset) -> VAE:
    decoder = nn.Linear(D, 3).double()
    with torch.no_grad():
        for p in decoder.parameters():
            p.copy_(torch.randn(p.shape, generator=stream(3)))
    vae = VAE(Small(), decoder, GaussianLikelihood(scale=1.0), latents=D)
    vae.learn(prior, rows(), rng=stream(0, "prior"))
    vae.double()
    with torch.no_grad():
        prior.free.mul_(0.8).add_(0.1)  # off the training rows
    return vae


def gradients(prior: TrainableCoreset) -> tuple[dict[str, Tensor], float]:
    """Of every parameter of a VAE, by the loss of a batch; and the loss that is told."""
    vae = model_with(prior)
    loss, told = BatchLoss(vae)(rows(), EVERY, beta=0.5, rng=stream(2))
    loss.backward()
    return {name: p.grad for name, p in vae.named_parameters() if p.grad is not None}, told


class WithoutOwnLoss(TrainableCoreset):  # type: ignore[misc]
    def own_loss(self, x: Tensor, rows: Tensor) -> None:
        return None


class OwnLossOnly(TrainableCoreset):  # type: ignore[misc]
    def log_prob(self, z: Tensor, rows: Tensor | None = None) -> Tensor:
        return super().log_prob(z, rows).detach()


def check_apart(kind: Callable[[int], TrainableCoreset]) -> None:
    """Raise unless pseudo-data and weights get their gradients from its own loss alone, all others none of it."""
    got, told = gradients(kind(4))
    elbo, told_without = gradients(WithoutOwnLoss(4))
    own, _ = gradients(OwnLossOnly(4))
    assert {f"prior.{name}" for name in OWN}.isdisjoint(elbo)
    assert told == told_without
    for name, gradient in got.items():
        of = own if name.removeprefix("prior.") in OWN else elbo
        torch.testing.assert_close(gradient, of[name], rtol=1e-12, atol=1e-14)


class MovedByTheElbo(TrainableCoreset):  # type: ignore[misc]
    def log_prob(self, z: Tensor, rows: Tensor | None = None) -> Tensor:
        return self._density(z, (self.free, self.logits), self.log_width)


class MovesTheEncoder(TrainableCoreset):  # type: ignore[misc]
    def own_loss(self, x: Tensor, rows: Tensor) -> Tensor:
        z = self.encode(x)[0].detach() + self.log_width.detach().exp() * self._noise[self._place[rows]]
        return -self._density(z, (self.free, self.logits), self.log_width.detach()).sum()


class MovesTheWidth(TrainableCoreset):  # type: ignore[misc]
    def own_loss(self, x: Tensor, rows: Tensor) -> Tensor:
        return super().own_loss(x, rows) + 0.1 * self.log_width


def test_the_elbo_moves_no_pseudo_data_and_its_own_loss_nothing_else() -> None:
    check_apart(TrainableCoreset)


@pytest.mark.parametrize("fault", [MovedByTheElbo, MovesTheEncoder, MovesTheWidth])
def test_a_gradient_that_goes_elsewhere_is_found(fault: Callable[[int], TrainableCoreset]) -> None:
    with pytest.raises(AssertionError):
        check_apart(fault)


def test_other_priors_have_no_loss_of_their_own() -> None:
    assert begun(MixturePrior(3), Small()).own_loss(rows(), EVERY) is None


def test_all_rows_as_pseudo_data_with_equal_weights_are_the_exemplar_prior() -> None:
    found = []
    for settings in (CoresetPrior(components=50), ExemplarsPrior(0, 0)):
        prior = settings.make(D)
        prior.begin(Small(), rows(), stream(0))
        prior.double()
        found.append((prior.log_prob(Z).detach(), prior.frozen().log_prob(Z)))
    for ours, exemplars in zip(*found, strict=True):
        torch.testing.assert_close(ours, exemplars, rtol=0, atol=1e-9)


SHARES, CENTRES = torch.tensor([0.5, 0.3, 0.2]), torch.tensor([[-2.0, 0.0], [1.0, 2.0], [2.0, -1.5]])


def encode(x: Tensor) -> tuple[Tensor, Tensor]:
    return 2 * x, torch.full_like(x, 0.3)


def with_covariances(x: Tensor) -> tuple[Tensor, Tensor]:
    factor = torch.tensor([[0.3, 0.0], [0.2, 0.1]]).to(x)
    return 2 * x, factor.expand(len(x), 2, 2)


def test_in_clusters_it_finds_their_shares_and_means_and_costs_what_the_exemplars_cost() -> None:
    n = 200
    cluster = torch.repeat_interleave(torch.arange(3), (n * SHARES).round().long())
    x = CENTRES[cluster] + 0.05 * torch.randn(n, 2, generator=stream(0, "x"))
    prior, at = CoresetPrior(components=3).make(2), torch.arange(n)
    prior.begin(encode, x, stream(0))
    adam, losses = torch.optim.Adam([prior.free, prior.logits], 0.02), []
    for step in range(150):
        prior.before_batch(at, stream(1, str(step)))
        loss = prior.own_loss(x, at) / n
        adam.zero_grad()
        loss.backward()
        adam.step()
        losses.append(float(loss))
    r = prior.frozen()
    order = r.mean[:, 0].argsort()
    means = torch.stack([2 * x[cluster == k].mean(0) for k in range(3)])
    torch.testing.assert_close(r.log_weight.exp()[order], SHARES, rtol=0, atol=0.03)
    torch.testing.assert_close(r.mean[order], means, rtol=0, atol=0.1)
    exemplars = ExemplarsPrior(0, 0).make(2)
    exemplars.begin(encode, x, stream(0))
    z = 2 * x.repeat(50, 1) + 0.3 * torch.randn(50 * n, 2, generator=stream(2))
    least, after = (float(-p.log_prob(z).mean()) for p in (exemplars.frozen(), r))
    assert least < after < least + 0.08  # a cluster of exemplars is a little wider than one of them
    assert losses[0] > after + 0.03
    assert sum(losses[-10:]) / 10 == pytest.approx(after, abs=0.1)


def test_the_rows_behind_a_component_are_counted_and_one_that_has_not_moved_is_a_row() -> None:
    encoder = Small()
    prior = begun(CoresetPrior(components=4), encoder)
    with torch.no_grad():
        prior.free.copy_(prior.inputs.free.roll(1, 0))  # each far from where it began
    r, codes = prior.frozen(), encoder(rows())[0].detach()
    share = torch.stack([r.log_weight[k] - (codes - r.mean[k]).square().sum(1) / (2 * r.width**2) for k in range(4)], 1)
    share = share.softmax(1)
    want = float((share.sum(0).square() / share.square().sum(0)).min())
    assert r.least_rows == pytest.approx(want, rel=1e-6)
    with torch.no_grad():
        prior.free[2] = prior.inputs.free[2]
    assert prior.frozen().least_rows <= 1
    assert prior.frozen().holds_rows
    with torch.no_grad():
        prior.free[2] = 0.5
        prior.log_width.fill_(math.log(1e-3))  # every row is nearest to one component alone, some to none
    assert prior.frozen().holds_rows
    with pytest.raises(UsageError, match=r"coreset\(4\): it stores functions of single training rows"):
        check_rows(prior.frozen(), allow_rows=False)


@pytest.mark.parametrize("kind", [CoresetPrior, VampPrior])
@pytest.mark.parametrize("form", [encode, with_covariances])
@pytest.mark.parametrize(
    ("by", "holds"), [(0.0, True), (1e-6, True), (0.4, True), (0.6, False), (-0.4, True), (-0.6, False)]
)
def test_a_pseudo_datum_is_its_row_up_to_half_way_to_the_nearest_other_code(
    kind: type[CoresetPrior] | type[VampPrior], form: Encode, by: float, *, holds: bool
) -> None:
    """Rows on a line, 1 apart; one that is there twice counts once. In both forms codes are twice the rows."""
    x = torch.tensor([0.0, 1, 2, 3, 4, 4]).double()[:, None].expand(-1, 2) / 2**0.5
    for components, wide in ((2, 3.0), (6, 30.0)):
        prior = kind(components).make(2)
        prior.begin(form, x, stream(0))
        prior.double()
        with torch.no_grad():
            at = prior.inputs.free.mean(1)
            inside = torch.where((at > 0) & (at < 1), torch.sign(torch.tensor(by)), torch.where(at > 0, -1.0, 1.0))
            prior.free.add_((abs(by) * inside / 4)[:, None])  # the box is 4 wide, and nothing leaves it
            if hasattr(prior, "log_width"):
                prior.log_width.fill_(math.log(wide))  # each of many rows counts in every component
        assert prior.frozen().holds_rows is holds
        if components > 2:
            with torch.no_grad():
                prior.free[2] = prior.inputs.free[2]  # one of six is enough
            assert prior.frozen().holds_rows


def test_where_all_rows_have_one_code_a_pseudo_datum_is_a_row() -> None:
    prior = VampPrior(1).make(2)
    prior.begin(encode, torch.ones(3, 2), stream(0))
    assert prior.frozen().holds_rows


def test_of_an_encoder_with_full_covariances_it_takes_the_means_and_one_width() -> None:
    prior = CoresetPrior(components=3).make(D)
    prior.begin(Full(), rows(), stream(0))
    assert float(prior.log_width) == pytest.approx(0, abs=1e-9)
    assert prior.frozen().mean.shape == (3, D)


@pytest.mark.parametrize(
    ("refused", "text"),
    [
        (lambda: learned.settings_of(CoresetPrior(components=0)), "components: expected at least 1, got 0"),
        (
            lambda: CoresetPrior(4).make(D).begin(without_gradients, rows(), stream(0)),
            "coreset trains inputs of the encoder, and the encoder's answer has no gradient in its input",
        ),
        (
            lambda: learned.going_on_from(Coreset(torch.zeros(1), torch.ones(1, D), torch.tensor(1.0))).make(D),
            r"coreset\(1\) keeps no pseudo-data",
        ),
    ],
)
def test_what_cannot_be_learned_is_refused_in_words(refused: Callable[[], object], text: str) -> None:
    with pytest.raises(UsageError, match=text):
        refused()


def test_from_the_command_line_it_is_trained_audited_mixed_with_and_shipped(tmp_path: Path) -> None:
    words = ("--prior", "coreset", "--prior-set", "components=7", "--samples", "80", "--kinds", "gaussian", "--quiet")
    assert call("run", "--data", "digits", "--out", tmp_path / "run", *QUICK, *words) == 0
    folder, audit = RunFolder.open(tmp_path / "run"), load_audit(tmp_path / "run" / "audit")
    r = folder.prior
    assert isinstance(r, Coreset)
    assert r.least_rows > 2
    assert audit.prior == "coreset(7)"
    assert {e.name for e in audit.entries} >= {"prior", "standard-normal", "gaussian"}
    assert any(e.id.name == "gaussian" and e.id.percent for e in audit.entries)
    assert "--prior coreset --prior-set components=7" in audit.command
    assert "coreset, learned in training (components 7)" in (tmp_path / "run" / "report.html").read_text()
    z = r.sample(20, rng=stream(0))
    assert load_generator(tmp_path / "run" / "generator").latent.d == 2
    told = Run.open(tmp_path / "run").export("prior", tmp_path / "exported", allow_copies=True)
    assert torch.equal(told.latent.log_prob(z), r.log_prob(z))
