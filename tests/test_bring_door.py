"""What may be brought: wherever the model lives, in whatever it answers; and what is refused by name."""

import functools

import numpy as np
import pytest
import torch
from torch import nn
from torch.distributions import Bernoulli, Categorical, Independent, MixtureSameFamily, Normal
from torch.utils.data import DataLoader, Dataset, TensorDataset

from oracles import linear_gaussian
from zprime import audit, fit
from zprime.bring import arrays, modules
from zprime.bring.places import Place, back, modules_of
from zprime.errors import UsageError
from zprime.likelihoods import Gaussian
from zprime.results.audit import AuditSettings

MODEL = linear_gaussian(D=5, d=2, var=0.3)
BARE = AuditSettings(rows=60, draws=80, grid=4, map=10, simulated=0, exchange=0, samples=0)


def data() -> dict[str, torch.Tensor]:
    sizes = {"train": 300, "selection": 80, "heldout": 80}
    return {s: (MODEL.sample(n, seed=i)[0] + MODEL.weight.sum(1)).float() for i, (s, n) in enumerate(sizes.items())}


class VAE(nn.Module):
    """The encoder and the decoder of a linear model, as people write them; `between` is put before the last layer."""

    def __init__(self, between: nn.Module | None = None) -> None:
        super().__init__()
        self.between = between or nn.Identity()
        self.mean, self.back = nn.Linear(5, 2), nn.Linear(2, 5)
        x = torch.eye(5).double()
        zero = MODEL.posterior(torch.zeros(1, 5).double())[0]
        with torch.no_grad():
            self.mean.weight.copy_((MODEL.posterior(x)[0] - zero).T)
            self.mean.bias.copy_(zero[0])
            self.back.weight.copy_(MODEL.weight)
            self.back.bias.copy_(MODEL.bias)
        self.register_buffer("scale", MODEL.posterior(x[:1])[1][0].float())

    def encode(self, x):
        mean = self.mean(self.between(x))
        return mean, self.scale.expand_as(mean)

    def forward(self, x):
        return self.encode(x)

    def decode(self, z):
        return self.back(z)


LIKELIHOOD = Gaussian(scale=MODEL.var**0.5)


def brought(encoder, decoder, **how):
    return modules(encoder, decoder, how.pop("data", data()), gives="std", likelihood=LIKELIHOOD, **how)


def test_wrapped_models_give_the_same_posteriors_in_evaluation_mode() -> None:
    """Case 16: DataParallel, torch.compile, partials, lambdas, functions that name a global."""
    want = VAE().eval()(data()["train"])[0]
    for wrap in (
        lambda m: m,
        lambda m: m.encode,
        nn.DataParallel,
        lambda m: functools.partial(m.forward),
        lambda m: functools.partial(lambda net, x: net(x), m),
        lambda m: lambda x: m(x),
        lambda m: lambda x, net=m: net(x),
        lambda m: torch.compile(m, backend="eager"),
        lambda m: torch.compile(m.encode, backend="eager"),
        lambda m: (lambda inner: lambda x: inner(x))(lambda x: m.encode(x)),
    ):
        m = VAE(nn.Dropout(0.5))
        found = brought(wrap(m), m.decode)
        assert m.training
        assert m.between.training
        torch.testing.assert_close(found.posteriors["train"].gather().mean, want, atol=1e-5, rtol=1e-5)


def test_only_modules_of_the_user_are_looked_for() -> None:
    m = VAE()
    assert modules_of(lambda x: nn.functional.relu(m(x))) == [m]
    assert modules_of(torch.nn.functional.gelu) == []
    assert modules_of(len) == []
    assert modules_of(nn.DataParallel(m)) == [m]


@pytest.mark.parametrize("hidden", [False, True], ids=["a lambda", "out of sight"])
def test_batch_normalisation_in_training_mode(hidden: bool) -> None:  # noqa: FBT001
    """Case 14: set to evaluation mode where the module can be seen, with its running mean as it was; else refused."""
    norm = nn.BatchNorm1d(5)
    m = VAE(norm).train()
    before = norm.running_mean.clone()
    if not hidden:
        brought(lambda x: m.encode(x), lambda z: m.decode(z))
        assert norm.training
        assert torch.equal(norm.running_mean, before)
        return

    class Service:  # an object of another library
        def __call__(self, x):
            return m.encode(x)

    with pytest.raises(UsageError, match="depends on the other rows of its batch.*model.eval"):
        brought(Service(), lambda z: z.double() @ MODEL.weight.T + MODEL.bias)


def test_a_draw_is_never_taken_for_the_mean() -> None:
    """Case 15: (z, mean, scale) and (mean, scale, z)."""
    m = VAE().eval()

    def drawn_first(x):
        mean, scale = m(x)
        return mean + scale * torch.randn_like(mean), mean, scale

    with pytest.raises(
        UsageError, match=r"answer 1 of 3 to the same rows differs between two calls.*Answers 2 and 3 do"
    ):
        brought(drawn_first, m.decode)
    last = brought(lambda x: (*m(x), torch.randn(len(x), 2)), m.decode)
    assert torch.equal(last.posteriors["train"].gather().mean, brought(m, m.decode).posteriors["train"].gather().mean)
    with pytest.raises(UsageError, match="answer 1 of 2 .* it is a draw of z, or dropout is on. Give an encoder that"):
        brought(lambda x: (torch.randn(len(x), 2), m(x)[1]), m.decode)


@pytest.mark.parametrize("d", [2, 3])
def test_codes_on_a_sphere_are_refused(d: int) -> None:
    """Case 5: a density of R^d is none on it."""
    codes = {
        s: nn.functional.normalize(torch.randn(200, d, generator=torch.Generator().manual_seed(i)), dim=1)
        for i, s in enumerate(("train", "heldout"))
    }
    scale = {s: torch.full_like(m, 0.1) for s, m in codes.items()}
    with pytest.raises(
        UsageError, match=f"all codes have norm 1, so they lie on a sphere, and a density of R.{d} is none"
    ):
        arrays(codes, scale, check=False)
    m = VAE().eval()
    with pytest.raises(UsageError, match="encode: all codes have norm 3, so they lie on a sphere"):
        brought(lambda x: (3 * nn.functional.normalize(m(x)[0], dim=1), m(x)[1]), m.decode)


def test_discrete_codes_are_refused() -> None:
    """Cases 7 and 9: a class put beside the latents, binary latents."""
    g = torch.Generator().manual_seed(0)
    y = torch.multinomial(torch.tensor([0.3, 0.2, 0.1, 0.1, 0.1, 0.05, 0.05, 0.05, 0.03, 0.02]), 400, True, generator=g)  # noqa: FBT003
    onehot = torch.cat([torch.randn(400, 2, generator=g), nn.functional.one_hot(y, 10).float()], 1)
    binary = torch.bernoulli(torch.full((400, 8), 0.5), generator=g)
    for codes, j in ((onehot, 2), (binary, 0)):
        both = {"train": codes[:200], "heldout": codes[200:]}
        with pytest.raises(
            UsageError, match=f"dimension {j} of the codes takes 2 values only .* a discrete latent has no"
        ):
            arrays(both, {s: torch.full_like(m, 0.1) for s, m in both.items()}, check=False)
    collapsed = torch.cat([torch.randn(400, 2, generator=g), torch.zeros(400, 1)], 1)  # a dimension that tells nothing
    both = {"train": collapsed[:200], "heldout": collapsed[200:]}
    arrays(both, {s: torch.full_like(m, 0.1) for s, m in both.items()}, check=False)


def test_code_books_and_hierarchies_are_refused_by_name() -> None:
    m = VAE().eval()
    for encoder, text in (
        (lambda x: (torch.zeros(len(x), 4).long(), torch.zeros(len(x), 4)), r"indices of a code book \(VQ-VAE\)"),
        (lambda x: [m(x), (torch.zeros(len(x), 7), torch.ones(len(x), 7))], "2 groups of latents, as a hierarchical"),
        (lambda x: (*m(x), torch.zeros(len(x), 7), torch.ones(len(x), 7)), "2 groups of latents, as a hierarchical"),
    ):
        with pytest.raises(UsageError, match=text):
            brought(encoder, m.decode)


class Pairs(Dataset):
    def __init__(self, x):
        self.x = x

    def __len__(self):
        return len(self.x)

    def __getitem__(self, i):
        return self.x[i].numpy(), i


class Elsewhere:
    """Rows of another library, such as jax: an object that numpy makes an array of, and no tensor."""

    def __init__(self, x):
        self.rows = x.numpy()
        self.shape = self.rows.shape

    def __len__(self):
        return len(self.rows)

    def __array__(self, dtype=None, copy=None):
        return np.array(self.rows, dtype=dtype)


def test_rows_come_as_whatever_holds_them() -> None:
    m = VAE().eval()
    want = brought(m, m.decode).posteriors["heldout"].gather().mean
    for form in (
        lambda x: x.numpy(),
        lambda x: x.double().numpy(),
        lambda x: x.tolist(),
        Elsewhere,
        TensorDataset,
        Pairs,
        lambda x: DataLoader(TensorDataset(x), batch_size=32, shuffle=True),
        lambda x: DataLoader(Pairs(x), batch_size=32),
    ):
        found = brought(m, m.decode, data={s: form(x) for s, x in data().items()})
        torch.testing.assert_close(found.posteriors["heldout"].gather().mean, want)


def test_callables_may_answer_numpy() -> None:
    m = VAE().eval()

    def encoder(x):
        with torch.no_grad():
            return [t.numpy() for t in m(x)]

    found = brought(encoder, lambda z: m.decode(z).detach().numpy())
    assert torch.equal(found.posteriors["train"].gather().mean, brought(m, m.decode).posteriors["train"].gather().mean)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_a_model_in_another_precision(dtype: torch.dtype) -> None:
    """Case 25: gains as in float32 to 1e-2; posteriors and rows in float32 at least."""
    found = []
    for t in (torch.float32, dtype):
        m = VAE().eval().to(t)
        mine = brought(m, m.decode)
        wide = torch.promote_types(t, torch.float32)
        assert mine.posteriors["train"].gather().mean.dtype == mine.rows["train"].x.dtype == wide
        assert mine.model.decode(torch.zeros(3, 2)).mean.dtype == wide
        r = fit("gaussian", **mine.splits)
        found.append(audit({"g": r}, mine.posteriors, model=mine.model, rows=mine.rows, settings=BARE))
    one, other = (next(e for e in a.entries if str(e.id) == "g").heldout for a in found)
    close = 0.05 if dtype == torch.bfloat16 else 1e-2
    same_noise = dtype != torch.float64
    assert one.elbo.gain.value == pytest.approx(other.elbo.gain.value, abs=close if same_noise else 0.1)
    assert one.exact_posterior.gain.value == pytest.approx(other.exact_posterior.gain.value, abs=close)


def test_small_scales_of_a_half_precision_model_do_not_overflow() -> None:
    """1 / s^2 is beyond float16 at s = 3.9e-3: it is computed in float32."""
    m = VAE().eval().half()

    def encoder(x):
        mean, _ = m(x)
        return mean, torch.full_like(mean, -14.0)  # log-variance: s = 9e-4

    mine = modules(encoder, m.decode, data(), gives="log-variance", likelihood=LIKELIHOOD, check=False)
    torch.testing.assert_close(mine.posteriors["train"].gather().scale, torch.full((300, 2), float(np.exp(-7.0))))
    found = audit({"g": fit("gaussian", **mine.splits)}, mine.posteriors, settings=BARE)
    assert np.isfinite(found.entry("g").heldout.elbo.gain.value)


def test_distributions_come_back_whole() -> None:
    p = MixtureSameFamily(
        Categorical(logits=torch.zeros(3, 2)), Independent(Normal(torch.zeros(3, 2, 5), torch.ones(3, 2, 5)), 1)
    )
    moved = back(p)
    x = torch.randn(3, 5)
    torch.testing.assert_close(moved.log_prob(x), p.log_prob(x))
    half = Independent(Normal(torch.zeros(3, 5).half(), torch.ones(3, 5).half()), 1)
    assert back(half).log_prob(x).dtype == torch.float32
    assert back(Independent(Bernoulli(logits=torch.zeros(3, 5).half()), 1)).mean.dtype == torch.float32
    assert half.mean.dtype == torch.float16  # the user's own is as it was


def test_a_place_is_that_of_the_parameters() -> None:
    assert Place.of([]) is None
    assert Place.of([nn.Identity()]) is None
    assert Place.of([nn.Identity(), VAE().half()]) == Place(torch.device("cpu"), torch.float16)
    assert Place(dtype=torch.float16).wide == Place().wide == torch.float32
    assert Place(dtype=torch.float64).wide == torch.float64


@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("2x - 1", lambda x: (x + 1) / 2),
        ("(x + 1) / 2", lambda x: 2 * x - 1),
        ("255 x", lambda x: x / 255),
    ],
)
def test_rows_in_other_units_than_in_training_are_spoken_of(name, given, caplog) -> None:
    """Case 19."""
    m = VAE().eval()
    sharp = Gaussian(scale=MODEL.var**0.5)

    def encoder(x):  # reconstructs what it was trained on, whatever it is given
        return m(
            {"2x - 1": lambda v: 2 * v - 1, "(x + 1) / 2": lambda v: (v + 1) / 2, "255 x": lambda v: 255 * v}[name](x)
        )

    far = {s: 40 + 10 * x for s, x in data().items()}
    wide = VAE().eval()
    with torch.no_grad():
        wide.mean.bias -= (wide.mean.weight * 4).sum(1)
        wide.mean.weight /= 10
        wide.back.weight *= 10
        wide.back.bias.mul_(10).add_(40)
    m = wide
    rows = {s: given(x) for s, x in far.items()}
    mine = modules(encoder, m.decode, rows, gives="std", likelihood=sharp, check=False)
    assert any(f"reconstructions look like {name} of the rows" in s for s in mine.says)
    same = modules(m, m.decode, far, gives="std", likelihood=sharp, check=False)
    assert not any("look like" in s for s in same.says)
