"""product-of-experts: the product of experts against the linear model's exact posterior of one latent for all rows."""

import pytest
import torch
from torch.distributions import Independent, MultivariateNormal, Normal

from oracles import linear_gaussian
from tasks import task
from zprime.arrays import standard_log_prob
from zprime.distribution import rebuild
from zprime.errors import UsageError
from zprime.latent.prior import Prior
from zprime.latent.product_of_experts import ProductOfExperts, ProductOfExpertsSettings
from zprime.posteriors import MemoryPosteriors
from zprime.rng import stream


def fit(data: MemoryPosteriors, **settings):
    return ProductOfExpertsSettings(**settings).fit(task(data, selection=data, rng=stream(0, "fit")))


def group(n: int, seed: int = 0):
    """The model, `n` rows that share one z, and their posteriors."""
    model = linear_gaussian(6, 3, seed=seed)
    rng = stream(seed, "shared", n)
    z = torch.randn(3, generator=rng, dtype=torch.float64)
    x = model.weight @ z + model.bias + model.var**0.5 * torch.randn(n, 6, generator=rng, dtype=torch.float64)
    mean, scale = model.posterior(x)
    labels = torch.arange(n) % 2
    return model, x, MemoryPosteriors(mean, scale, row_ids=torch.arange(n) * 3 + 7, labels=labels)


def exact(model, x) -> MultivariateNormal:
    """p(z | x_1, ..., x_n), one z for all: precision I + n W^T W / var."""
    precision = torch.eye(3, dtype=torch.float64) + len(x) * model.weight.T @ model.weight / model.var
    shift = model.weight.T @ (x - model.bias).sum(0) / model.var
    return MultivariateNormal(torch.linalg.solve(precision, shift), precision_matrix=precision)


@pytest.mark.parametrize("n", [1, 2, 50, 3000])
def test_is_the_exact_posterior_of_the_linear_model(n):
    model, x, q = group(n)
    done = fit(q)
    truth = exact(model, x)
    assert done.outcome.ok
    torch.testing.assert_close(done.distribution.mean, truth.mean, atol=1e-9, rtol=0)
    torch.testing.assert_close(done.distribution.scale.square(), truth.variance, atol=0, rtol=1e-9)
    z = truth.mean + truth.stddev * torch.randn(20, 3, generator=stream(0, "z"), dtype=torch.float64)
    torch.testing.assert_close(done.distribution.log_prob(z), truth.log_prob(z), atol=1e-6, rtol=0)


def test_concentrates_like_one_over_n():
    _, _, q = group(4000)
    variance = [fit(q.take(torch.arange(n))).distribution.scale.square() for n in (1000, 2000, 4000)]
    for a, b in zip(variance, variance[1:], strict=False):
        torch.testing.assert_close(a / b, torch.full((3,), 2.0, dtype=torch.float64), atol=0.01, rtol=0)
    # with 4,000 rows it is 50 times narrower than a single posterior: its draws make one average row
    assert float((q.scale[0] / variance[-1].sqrt()).min()) > 49


def test_density_is_the_product_of_experts_up_to_a_constant():
    _, _, q = group(5)
    r = fit(q).distribution
    z = torch.randn(30, 3, generator=stream(0, "z"), dtype=torch.float64)
    experts = Independent(Normal(q.mean[:, None], q.scale[:, None]), 1).log_prob(z) - standard_log_prob(z)
    constant = r.log_prob(z) - standard_log_prob(z) - experts.sum(0)
    torch.testing.assert_close(constant, constant[:1].expand(30), atol=1e-8, rtol=0)


def test_groups_by_row_ids_and_by_label():
    model, x, q = group(20)
    take = torch.tensor([4, 1, 11])
    by_ids = fit(q, group=tuple(q.row_ids[take].tolist())).distribution
    torch.testing.assert_close(by_ids.mean, exact(model, x[take]).mean, atol=1e-9, rtol=0)
    by_label = fit(q, label=1).distribution
    torch.testing.assert_close(by_label.mean, exact(model, x[1::2]).mean, atol=1e-9, rtol=0)
    assert [by_ids.label, by_label.label] == ["product-of-experts(3)", "product-of-experts(10)"]
    torch.testing.assert_close(fit(q, group=tuple(q.row_ids.tolist())).distribution.mean, fit(q).distribution.mean)


def test_sums_over_shards():
    _, _, q = group(20)

    class Pieces(MemoryPosteriors):
        def shards(self):
            from zprime.posteriors import Shard

            for start in range(0, 20, 6):
                yield Shard(start, self.mean[start : start + 6], self.scale[start : start + 6])

    pieces = Pieces(q.mean, q.scale, row_ids=q.row_ids, labels=q.labels)
    ids = tuple(q.row_ids[[0, 7, 13, 19]].tolist())
    for settings in ({}, {"group": ids}, {"label": 0}):
        torch.testing.assert_close(fit(pieces, **settings).distribution.scale, fit(q, **settings).distribution.scale)
        torch.testing.assert_close(fit(pieces, **settings).distribution.mean, fit(q, **settings).distribution.mean)


def test_a_product_that_is_no_density_says_so_and_gives_the_prior():
    q = MemoryPosteriors(
        torch.zeros(3, 2, dtype=torch.float64), torch.tensor([[0.5, 1.5]], dtype=torch.float64).expand(3, 2).clone()
    )
    done = fit(q)
    assert not done.outcome.ok
    assert done.distribution == Prior(2)
    # 3 / 1.5^2 - 2
    assert "precision in 1 of 2 dimensions (1) is -0.667" in done.outcome.message
    assert "the prior is returned in its place" in done.outcome.message
    # one posterior alone is always a density: the product is itself
    one = fit(q.take(torch.tensor([0])))
    assert one.outcome.ok
    torch.testing.assert_close(one.distribution.scale, q.scale[0])


def test_posteriors_that_say_nothing_give_the_prior():
    q = MemoryPosteriors(torch.zeros(1000, 2), torch.ones(1000, 2))
    done = fit(q)
    assert done.outcome.ok
    torch.testing.assert_close(done.distribution.scale, torch.ones(2))


def test_weights_do_not_count():
    _, _, q = group(4)
    weighted = MemoryPosteriors(q.mean, q.scale, weights=torch.tensor([0.7, 0.1, 0.1, 0.1], dtype=torch.float64))
    torch.testing.assert_close(fit(weighted).distribution.mean, fit(q).distribution.mean)


def test_rebuilds():
    _, _, q = group(4)
    r = fit(q).distribution
    again = rebuild("product-of-experts", r.config(), r.tensors())
    assert isinstance(again, ProductOfExperts)
    assert again.rows == 4
    z = torch.zeros(1, 3, dtype=torch.float64)
    assert bool(again.log_prob(z) == r.log_prob(z))


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"group": (7, 8)}, r"group: expected row ids of the training split, got 1 others \(first: 8\)"),
        ({"group": (7, 7)}, "group: expected every row id once"),
        ({"label": 9}, r"label: expected a label of the training rows \(0, 1\), got 9"),
        ({"label": 0, "group": (7,)}, "group and label: expected one of them, got 1 row ids and label 0"),
    ],
)
def test_groups_that_do_not_exist(settings, text):
    _, _, q = group(4)
    with pytest.raises(UsageError, match=text):
        fit(q, **settings)


def test_ten_labels_are_told():
    q = MemoryPosteriors(torch.zeros(12, 3), torch.ones(12, 3), labels=torch.arange(12))
    with pytest.raises(UsageError, match=r"\(0, 1, 2, 3, 4, 5, 6, 7, 8, 9\), got 99"):
        fit(q, label=99)


def test_label_without_labels():
    _, _, q = group(4)
    with pytest.raises(UsageError, match="label: expected labelled rows, got label 1 and data without labels"):
        fit(MemoryPosteriors(q.mean, q.scale), label=1)
