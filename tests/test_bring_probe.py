"""What is tried before a model is brought, rule by rule: each finds its mistake and leaves what is right alone."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.distributions import Bernoulli, Independent, Laplace, Normal, Poisson

from zprime.bring.callables import as_datum, asked, remedy
from zprime.bring.logits import of_tanh
from zprime.bring.named import distribution_of
from zprime.bring.probe import (
    beyond,
    check_abilities,
    check_reconstructions,
    check_same,
    check_shares,
    compare,
    other_prior,
)
from zprime.bring.splits import split
from zprime.errors import ArrayError, UsageError
from zprime.own_code import Guard
from zprime.rng import stream


def rand(*shape: int, name: str = "x") -> Tensor:
    return torch.rand(*shape, generator=stream(0, name))


@pytest.mark.parametrize(
    ("output", "datum", "shape"),
    [
        ((5, 64), (1, 8, 8), (5, 1, 8, 8)),
        ((5, 1, 8, 8), (64,), (5, 64)),
        ((5, 1, 8, 8), (1, 8, 8), (5, 1, 8, 8)),
        ((5, 8, 8, 3), (3, 8, 8), (5, 8, 8, 3)),  # channels may be last: no numbers are moved
        ((5, 63), (1, 8, 8), (5, 63)),
    ],
)
def test_flat_outputs_of_a_decoder_get_the_shape_of_a_datum(
    output: tuple[int, ...], datum: tuple[int, ...], shape: tuple[int, ...]
) -> None:
    made = rand(*output)
    found = as_datum(made, datum)
    assert found.shape == shape
    assert torch.equal(found.flatten(), made.flatten())
    p = Independent(Normal(rand(2, 3), 1.0), 1)
    assert as_datum(p, (3,)) is p


def test_a_failing_encoder_is_spoken_of_and_ours_are_not_wrapped() -> None:
    def ours(x: Tensor) -> Tensor:
        raise ArrayError("as it is")

    with pytest.raises(ArrayError, match="^as it is$"):
        asked("encoder", ours, rand(2, 3))
    with pytest.raises(
        UsageError,
        match=r"^encoder: it fails when it is given \[2, 3\] float32 \(ValueError: no\); give rows as it had them",
    ):
        asked("encoder", lambda x: (_ for _ in ()).throw(ValueError("no")), rand(2, 3))
    assert "one-hot" in remedy("sizes do not match", conditions=True)


class Fails(Normal):
    """A p(x|z) whose mean raises an error."""

    error: Exception

    @property
    def mean(self) -> Tensor:
        raise self.error


class Rows:
    def __init__(self, error: Exception) -> None:
        self.error = error

    def __array__(self, *args: object, **how: object) -> object:
        raise self.error


def failing(error: Exception) -> dict[str, Callable[[], object]]:
    """Every place where code of the user's is called when a model is brought."""

    def fails(*given: object) -> Tensor:
        raise error

    p = Fails(torch.zeros(5, 3), 1.0)
    p.error = error
    rows = {"train": Rows(error), "heldout": Rows(error)}
    return {
        "encoder": lambda: asked("encoder", fails, rand(2, 3)),
        "likelihood": lambda: distribution_of(fails)(rand(2, 3)),
        "p(x|z)": lambda: check_abilities(Independent(p, 1), rand(5, 3), lambda: rand(5)),
        "data": lambda: split(rows, None, seed=0),
        "own": lambda: _own(fails),
    }


def _own(f: Callable[[], object]) -> None:
    with Guard("mymodel.py", Path("mymodel.py"))("build()"):
        f()


@pytest.mark.parametrize("place", failing(ValueError()))
def test_what_code_of_the_users_raises_is_told_but_for_memory_and_ours(place: str) -> None:
    for error in (KeyError("no"), ValueError("no")):
        with pytest.raises(UsageError, match="no") as told:
            failing(error)[place]()
        assert told.value.__cause__ is error
    for error in (MemoryError(), torch.OutOfMemoryError("CUDA out of memory"), ArrayError("ours")):
        with pytest.raises(type(error)) as raised:
            failing(error)[place]()
        assert raised.value is error


def test_a_likelihood_of_ones_own_is_given_all_that_the_decoder_answers() -> None:
    made = distribution_of(lambda out: Independent(Normal(*out), 1))((torch.zeros(2, 3), torch.ones(2, 3)))
    assert made.mean.shape == (2, 3)
    with pytest.raises(UsageError, match="got dict; give e.g."):
        distribution_of("gaussian")({"mean": torch.zeros(2, 3)})


def of_logits(logits: Tensor) -> Independent:
    return Independent(Bernoulli(logits=logits), 1)


def test_probabilities_are_not_taken_for_logits_and_true_logits_are_let_through() -> None:
    probability = 0.9 * rand(400, 6)
    x = torch.bernoulli(probability, generator=stream(0, "bits"))
    with pytest.raises(UsageError, match="the logits of p.x.z. go from .* nats a row more likely if these are prob"):
        compare(of_logits(probability), x)
    compare(of_logits(probability.logit()), x)
    small = rand(400, 6, name="small")  # logits between 0 and 1, as of a decoder that knows hardly anything
    compare(of_logits(small), torch.bernoulli(small.sigmoid(), generator=stream(0, "more")))
    compare(Independent(Normal(probability, 1.0), 1), x)  # no logits at all


def test_outputs_of_a_tanh_are_not_taken_for_logits_and_true_logits_are_let_through() -> None:
    means = 1.98 * rand(400, 6) - 0.99
    x = torch.bernoulli(0.5 * (means + 1), generator=stream(0, "bits"))
    told = of_tanh(of_logits(means), x)
    assert len(told) == 1
    assert "they look like the outputs of a tanh" in told[0]
    assert "give the rows so (2x - 1), with likelihood=Gaussian(scale=...)" in told[0]
    dark = torch.bernoulli(0.3 * (means + 1), generator=stream(0, "dark"))
    assert of_tanh(of_logits(means), dark)
    assert of_tanh(of_logits(means), torch.bernoulli(means.sigmoid(), generator=stream(0, "true"))) == ()
    assert of_tanh(of_logits(2 * means), x) == ()  # beyond -1 and 1
    assert of_tanh(of_logits(means), 0.2 + 0.5 * x) == ()  # grey rows
    assert of_tanh(Independent(Normal(means, 1.0), 1), x) == ()  # no logits at all


def test_shares_are_let_through_where_rows_are_shares_too() -> None:
    p = rand(400, 6).softmax(1)
    one_hot = torch.eye(6)[torch.multinomial(p, 1, generator=stream(0, "names"))[:, 0]]
    check_shares(Independent(Bernoulli(probs=p), 1), one_hot)
    check_shares(Independent(Normal(p, 0.1), 1), p)
    with pytest.raises(UsageError, match="the means of p.x.z., Normal, add up to 1 .* and the rows add up to 2 to 2"):
        check_shares(Independent(Normal(p, 0.1), 1), 2 * p)
    two = rand(400, 2).softmax(1)  # of two numbers that is no softmax: p and 1 - p, say
    check_shares(Independent(Normal(two, 0.1), 1), 2 * two)
    nearly = p.clone()
    nearly[0, 0] += 0.01
    check_shares(Independent(Normal(nearly, 0.1), 1), 2 * p)
    with pytest.raises(UsageError, match="the log-rates of p.x.z., Poisson"):  # whatever the rows are
        check_shares(Independent(Poisson(p.exp()), 1), one_hot)


def test_reconstructions_out_of_the_range_of_the_rows_are_refused() -> None:
    x = torch.bernoulli(rand(300, 8), generator=stream(0, "bits"))
    assert beyond(2 * x - 1, x) == pytest.approx(float((x == 0).double().mean()))
    assert beyond(1.05 * x, x) == 0
    noisy = 0.7 * (2 * x - 1)
    noisy[:, :5] *= -1
    with pytest.raises(UsageError, match="far outside those of the rows: they go from -0.7 to 0.7, and rows from 0 to"):
        check_reconstructions(noisy, x)
    check_reconstructions((x.mean(0) > 0.5).double().expand_as(x), x)  # medians: farther than means, but inside


def test_a_log_density_that_changes_is_refused() -> None:
    p = Laplace(0.0, 1.0)
    values = p.log_prob(rand(50))
    check_same(values, values + 1e-5)
    check_same(torch.cat([values, torch.tensor([-torch.inf])]), torch.cat([values, torch.tensor([-torch.inf])]))
    never = torch.tensor([-torch.inf])
    noisy = values + 0.01 * torch.randn(50, generator=stream(0, "noise"))
    for one, other in (
        (values, noisy),
        (torch.cat([values, never]), torch.cat([noisy, never])),  # beside rows that cannot be
        (values, torch.cat([values[:-1], never])),
    ):
        with pytest.raises(UsageError, match="differs between two calls: dropout is on"):
            check_same(one, other)


@pytest.mark.parametrize(("wide", "spoken"), [(1.0, False), (1.3, False), (2.0, True), (0.4, True)])
def test_codes_of_another_prior_are_spoken_of(wide: float, spoken: bool) -> None:  # noqa: FBT001
    """Means of variance 0.91 w^2 and scales of 0.3 w: the second moment is w^2."""
    mean = 0.91**0.5 * wide * torch.randn(2000, 3, generator=stream(0, "codes"))
    scale = torch.full((2000, 3), 0.3 * wide)
    for form in (scale, torch.diag_embed(scale)):
        said = other_prior(mean, form)
        assert bool(said) == spoken
    if spoken:
        assert float(said[0].split("goes from ")[1].split()[0]) == pytest.approx(wide**2, rel=0.1)
        assert "give it as prior=" in said[0]
    off = other_prior(mean + 3, scale)  # N(3, 1), say
    assert off
