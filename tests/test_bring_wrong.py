"""Wrong ways to bring a model: none passes without a word, and each message names the remedy."""

import ast
import math
import re
from collections import OrderedDict, namedtuple
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Independent, MultivariateNormal, Normal, Poisson, RelaxedBernoulli, StudentT

import zprime
from oracles import linear_gaussian
from zprime import bring, likelihoods
from zprime.bring.named import distribution_of, need_callable
from zprime.bring.splits import need_mapping
from zprime.decoders import evaluating
from zprime.errors import UsageError, ZprimeError

MODEL = linear_gaussian(D=6, d=2, var=0.05)
BASE = torch.full((6,), 0.5, dtype=torch.float64)
SIGMA = MODEL.var**0.5


def rows(n: int, seed: int) -> Tensor:
    """Rows about 1/2, most of them between 0 and 1."""
    return (0.12 * MODEL.sample(n, seed=seed)[0] + BASE).float()


DATA = {"train": rows(400, 1), "selection": rows(100, 2), "heldout": rows(100, 3)}


def inner(x: Tensor) -> Tensor:
    return (x.double() - BASE) / 0.12


def posterior(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and log-variance."""
    mean, scale = MODEL.posterior(inner(x))
    return mean.float(), 2 * scale.float().log()


def decoder(z: Tensor) -> Tensor:
    return (0.12 * (z.double() @ MODEL.weight.T + MODEL.bias) + BASE).float()


RIGHT = {"gives": "log-variance", "likelihood": likelihoods.Gaussian(scale=0.12 * SIGMA)}


def brought(encoder: Callable = posterior, decode: Callable = decoder, **how: object) -> bring.Brought:
    return bring.modules(encoder, decode, how.pop("data", DATA), **{**RIGHT, **how})


def scaled(f: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
    return {s: f(x) for s, x in DATA.items()}


def images(x: Tensor) -> dict[str, Tensor]:
    return {"train": x, "selection": x[:20], "heldout": x[20:60] + 1e-3}


def logits(z: Tensor) -> Tensor:
    return 6 * (decoder(z) - 0.5)


BITS = {s: (x > 0.5).float() for s, x in DATA.items()}
CODES = {s: torch.randn(60, 2, generator=torch.Generator().manual_seed(i)) for i, s in enumerate(("train", "heldout"))}
BERNOULLI = {"data": BITS, "likelihood": "bernoulli"}


COUNTS = {s: (9 * x).round().clamp(min=0) for s, x in DATA.items()}


def shares(z: Tensor) -> Tensor:
    return decoder(z).softmax(1)


ELSEWHERE = ("auditing", "calls", "sampling", "leaks", "likelihoods", "decoders")


class Stub:
    def __init__(self, **parts: object) -> None:
        self.__dict__.update(parts)


WRONG: dict[str, tuple[Callable[[], object], str]] = {
    "normalised images under a Bernoulli": (
        lambda: brought(decode=logits, data=scaled(lambda x: 4 * x - 2), likelihood="bernoulli"),
        r"lie outside the support of p\(x\|z\), Bernoulli on 0 and 1: values go from -.* Give the rows as they were",
    ),
    "rows of 0 to 255 for 0 to 1": (
        lambda: brought(data=scaled(lambda x: 255 * x)),
        r"do not belong together.*rows scaled as in training",
    ),
    "rows of -1 to 1 for 0 to 1": (
        lambda: brought(data=scaled(lambda x: 2 * x - 1)),
        "do not belong together.*rows scaled as in training",
    ),
    "a decoder of -1 to 1 for rows of 0 to 1": (
        lambda: brought(decode=lambda z: 2 * decoder(z) - 1),
        "They look like 2x - 1 of the rows: if the networks were trained on 2x - 1, give the rows so",
    ),
    "inverted images": (
        lambda: brought(data=scaled(lambda x: 1 - x)),
        "do not belong together",
    ),
    "mean and log-variance swapped": (
        lambda: brought(lambda x: posterior(x)[::-1]),
        r"mean and log-variance are in the wrong order.*do not belong together.*Swap them.*\(mean, log-variance\)",
    ),
    "probabilities taken for logits": (
        lambda: brought(decode=lambda z: 1 + torch.sigmoid(logits(z)), **BERNOULLI),
        "do not belong together.*decoder's output what the likelihood takes",
    ),
    "logits taken for probabilities": (
        lambda: brought(decode=logits, data=BITS, likelihood="bernoulli-probs"),
        "expected probabilities from 0 to 1, got .*likelihood='bernoulli'",
    ),
    "a decoder for other latents": (
        lambda: brought(decode=lambda z: decoder(z.flip(1) * 3)),
        "do not belong together",
    ),
    "a decoder that draws": (
        lambda: brought(decode=lambda z: decoder(z) + 0.01 * torch.randn(len(z), 6)),
        r"log p\(x\|z\) of the same rows at the same z differs between two calls: dropout is on, or the decoder draws",
    ),
    "negative rows under a Poisson": (
        lambda: brought(data=scaled(lambda x: x - 1), likelihood="poisson"),
        "outside the support.*Poisson on whole numbers from 0 up",
    ),
    "the name of an encoder for the encoder": (
        lambda: need_callable("encoder", "encoder"),
        "encoder: expected a module or a function, got str",
    ),
    "no decoder": (lambda: need_callable("decoder", None), "decoder: expected a module or a function, got NoneType"),
    "(z, mean, logvar) where z is the mean in evaluation": (
        lambda: brought(lambda x: (posterior(x)[0], *posterior(x))),
        "got 3 matrices of one shape, none of which differs.*which are the mean and the scale.*or .1, 2. where",
    ),
    "latents with a shape": (
        lambda: brought(lambda x: [t.reshape(len(t), 2, 1, 1) for t in posterior(x)]),
        r"two matrices .*got \[2, 2, 1, 1\] and \[2, 2, 1, 1\]; latents with a shape go to bring.diffusers; or flatten",
    ),
    "mean and scale side by side": (
        lambda: brought(lambda x: torch.cat(posterior(x), 1)),
        r"two matrices .*got one tensor of shape \[2, 4\]; if mean and scale stand .*chunk\(2, 1\).*bring.codes",
    ),
    "one scale for all rows": (
        lambda: brought(lambda x: (posterior(x)[0], posterior(x)[1][0])),
        r"two matrices .*got \[2, 2\] and \[2\]; where rows .*torch.broadcast_tensors\(\*encoder\(x\)\)",
    ),
    "two matrices of other rows": (
        lambda: brought(lambda x: [t[:1] for t in posterior(x)]),
        r"two matrices .*got \[1, 2\] and \[1, 2\]; give an encoder that answers \(mean, scale\)",
    ),
    "the name of an encoder of codes": (
        lambda: bring.codes("ae.pt", DATA, decoder),
        "encoder: expected a module or a function, got str",
    ),
    "an encoder of codes that fails": (
        lambda: bring.codes(lambda x: x @ torch.zeros(3, 2), DATA, decoder),
        r"encoder: it fails when it is given \[256, 6\] float32 .*give rows as it had them in training",
    ),
    "an encoder of draws that fails": (
        lambda: bring.draws(lambda x: x @ torch.zeros(3, 2), DATA),
        r"encoder: it fails when it is given \[400, 6\] float32 .*give rows as it had them in training",
    ),
    "no reading": (lambda: brought(gives=None), "gives: expected what the encoder's second answer is.*got None"),
    "an unknown reading": (lambda: brought(gives="precision"), "gives: expected one of std, .*got 'precision'"),
    "names that contradict the reading": (
        lambda: brought(lambda x: dict(zip(("mu", "logvar"), posterior(x), strict=True)), gives="std"),
        "the encoder's own names say log-variance, got std; leave gives out",
    ),
    "a dict without a spread": (
        lambda: brought(lambda x: {"mu": posterior(x)[0], "hidden": x}, gives=None),
        "expected an answer with a mean .* and a spread .*got one with mu, hidden",
    ),
    "an unknown likelihood": (
        lambda: brought(likelihood="normal-ish"),
        "likelihood: expected one of bernoulli, .*got 'normal-ish'",
    ),
    "the name of a loss for the likelihood": (
        lambda: brought(likelihood="BCE"),
        r"likelihood: expected one of .*got 'BCE'; for that loss give 'bernoulli' \(logits\) or 'bernoulli-probs'",
    ),
    "a class for the likelihood": (
        lambda: brought(likelihood=likelihoods.Gaussian),
        r"likelihood: expected what makes .*got the class Gaussian; give an object of it: .*Gaussian\(scale=...\)",
    ),
    "a loss function for the likelihood": (
        lambda: brought(likelihood=nn.functional.mse_loss),
        r"likelihood: it fails when it is given the decoder's output, \[2, 6\] .*target.*give a function",
    ),
    "a decoder that answers several things under a likelihood": (
        lambda: brought(decode=lambda z: (decoder(z), z)),
        r"likelihood: it fails when it is given the .* output, 2 things in a tuple .*lambda z: decoder\(z\)\[0\]",
    ),
    "a number for the likelihood": (lambda: distribution_of(0.1), "likelihood: expected a name .*got float"),
    "data that is one array": (
        lambda: need_mapping("data", DATA["train"]),
        "data: expected a mapping.*train.*got Tensor",
    ),
    "no held-out rows": (lambda: brought(data={"train": DATA["train"]}), "data: expected train and heldout"),
    "labels that are one array": (
        lambda: brought(labels=torch.zeros(400)),
        "labels: expected a mapping of splits to labels, .*got Tensor; give those of each split.*labels={'train'",
    ),
    "labels in words": (
        lambda: brought(labels={"train": ["cat"] * 400}),
        "labels: expected 400 integers for train, got list .*number the names, the same in all splits",
    ),
    "groups that are one array": (
        lambda: brought(groups=torch.zeros(400)),
        "groups: expected a mapping of splits to groups, .*got Tensor; give those of each split.*groups={'train'",
    ),
    "conditions that are one array": (
        lambda: brought(conditions=torch.zeros(400)),
        "conditions: expected a mapping of splits to conditions, .*got Tensor; give those of each split",
    ),
    "conditions in words": (
        lambda: brought(conditions={s: ["cat"] * len(x) for s, x in DATA.items()}),
        "conditions: expected numbers in train, got list .*number the names, the same in all splits",
    ),
    "arrays that are not given by split": (
        lambda: bring.arrays(torch.zeros(9, 2), torch.ones(9, 2)),
        "mean: expected a mapping of splits to arrays, .*got Tensor; give those of each split.*mean={'train'",
    ),
    "a scale that is not given by split": (
        lambda: bring.arrays(CODES, torch.ones(60, 2)),
        "scale: expected a mapping of splits to arrays, .*got Tensor; give those of each split.*scale={'train'",
    ),
    "the reading of factors for standard deviations": (
        lambda: bring.arrays(CODES, CODES, gives="scale_tril"),
        "gives: expected one of std, .*got 'scale_tril'; give Cholesky factors as scale_tril= in place of scale",
    ),
    "a seed that is none": (lambda: brought(seed=None), "seed: expected a whole number, got None"),
    "a seed with a fraction": (lambda: brought(seed=0.5), "seed: expected a whole number, got 0.5"),
    "a weight in words": (lambda: brought(beta="1"), "beta: expected a number above 0, got '1'"),
    "a path for rows": (
        lambda: brought(data={"train": "train.npy", "heldout": "test.npy"}),
        "data: expected rows of numbers in train, got str",
    ),
    "rows of text": (
        lambda: brought(data={"train": np.array([["a"], ["b"]]), "heldout": np.array([["a"], ["b"]])}),
        "data: expected rows of numbers in train, got",
    ),
    "None among the splits": (
        lambda: brought(data={**DATA, "heldout": None}),
        "data: expected rows of numbers in heldout, got NoneType",
    ),
    "a variance of the loss as sigma": (
        lambda: brought(likelihood=likelihoods.Gaussian(scale=(0.12 * SIGMA) ** 2 / 3)),
        "First look at p.x.z.: its standard deviation is .*from_loss.*beta= is the weight.*log-variance is right",
    ),
    "std taken for a variance": (
        lambda: brought(lambda x: (posterior(x)[0], (0.5 * posterior(x)[1]).exp()), gives="variance"),
        "gives: read as variance, the ELBO of .* lower than read as std.*Say gives='std'",
    ),
    "a likelihood without a mean": (
        lambda: brought(
            decode=lambda z: Independent(RelaxedBernoulli(torch.tensor(0.5), logits=logits(z)), 1),
            data=scaled(lambda x: x.clamp(0.01, 0.99)),
            likelihood=None,
        ),
        r"a p\(x\|z\) with mean, and that of \w+ fails \(NotImplementedError.*give another torch Distribution",
    ),
    "pixels as a batch": (
        lambda: brought(decode=lambda z: Normal(decoder(z), 0.1), likelihood=None),
        r"decode: expected a torch Distribution with batch shape \[2\].*Independent, or give likelihood=",
    ),
    "a plain tensor and no likelihood": (
        lambda: brought(likelihood=None),
        "decode: expected a torch Distribution.*got Tensor.*give likelihood=",
    ),
    "weights that are NaN": (
        lambda: brought(decode=lambda z: decoder(z) * math.nan),
        r"decode: log p\(x\|z\) is nan at training rows.*weights are finite",
    ),
    "a brought model for candidates": (
        lambda: zprime.audit(brought(), brought().posteriors),
        r"candidates: expected a mapping, got Brought; .*audit\(fits, mine.posteriors, model=mine.model",
    ),
    "a brought model for posteriors": (
        lambda: zprime.audit({}, brought()),
        "posteriors: expected a mapping, got Brought; .*mine.posteriors",
    ),
    "the name of a kind for a candidate": (
        lambda: zprime.audit({"m": "mixture"}, brought().posteriors),
        "candidates: expected what fit.*under 'm', got str; give e.g. {'mixture': zprime.fit",
    ),
    "a brought model for a generator": (
        lambda: zprime.sample(brought(), 3),
        r"model: expected a generative model, got Brought; .*mine.generator\(r\) or mine.shipped\(audit, fits\)",
    ),
    "the name of a kind for a distribution": (
        lambda: brought().generator("mixture"),
        r"latent: expected a latent distribution, got str; fit\(...\) makes one",
    ),
    "a fit for a distribution": (
        lambda: zprime.GenerativeModel(zprime.fit("gaussian", **brought().splits), decoder),
        r"latent: expected a latent distribution, got Fit; give its distribution: fit\(...\).distribution",
    ),
    "beta of zero": (lambda: brought(beta=0.0), "beta: expected a number above 0, got 0"),
    "a posterior that is no Gaussian": (
        lambda: brought(lambda x: StudentT(3.0, posterior(x)[0], 1.0), gives=None),
        "expected q.z.x. as a Normal or MultivariateNormal, got StudentT; bring.draws takes",
    ),
    "a model without a decoder": (
        lambda: bring.model(Stub(encode=posterior), DATA, **RIGHT),
        "vae: expected an object with decode.z., got Stub with none of decode, decoder",
    ),
    "a model that answers one tensor": (
        lambda: bring.model(Stub(encode=lambda x: posterior(x)[0], decode=decoder), DATA, **RIGHT),
        r"to answer the mean and the spread.*got encode: one tensor \[2, 2\]; bring.modules takes",
    ),
    "a misspelled argument": (
        lambda: bring.model(Stub(encode=posterior, decode=decoder), DATA, gives="logvar", likelyhood="gaussian"),
        "^bring.model: likelyhood: expected one of the arguments vae, data, gives, .*; write likelihood=$",
    ),
    "an argument that is like none": (
        lambda: brought(zzz=1),
        "^bring.modules: zzz: expected one of the arguments .*, got this name; a VAE in one object goes to bring.model",
    ),
    "no data": (
        lambda: bring.modules(posterior, decoder),
        r"^bring.modules: .*missing .* 'data'; write bring.modules\(encoder, decoder, data, ...\); a VAE in one object",
    ),
    "encoder and decoder for a whole model": (
        lambda: bring.model(posterior, decoder, DATA),
        "^bring.model: .*too many positional arguments; .*; encoder and decoder one by one go to bring.modules",
    ),
    "a number for a prior": (
        lambda: brought(prior=3),
        "prior: expected a torch Distribution or a latent distribution of zprime, got int; leave it out for N.0, I.",
    ),
    "mean and spread for codes": (
        lambda: bring.codes(posterior, DATA, decoder),
        r"^bring.codes: encode: .*got two of shape \[256, 2\], as mean and scale .*goes to bring.modules, with gives=.*"
        r"give the code alone, `lambda x: encoder\(x\)\[0\]`",
    ),
    "a whole autoencoder for its encoder": (
        lambda: bring.codes(lambda x: (decoder(posterior(x)[0]), posterior(x)[0]), DATA, decoder),
        r"encode: .*got \[256, 6\] before \[256, 2\]: .*as a reconstruction has; give .*encoder\(x\)\[1\]`",
    ),
    "parts with names for codes": (
        lambda: bring.codes(lambda x: {"z": posterior(x)[0]}, DATA, decoder),
        "encode: expected codes, one matrix, got dict with z; .*give the code alone",
    ),
    "parts with names for draws": (
        lambda: bring.draws(lambda x: {"z": posterior(x)[0]}, DATA),
        "^bring.draws: encode: expected a draw z, or .*got dict with z; give a function that answers these",
    ),
    "a softmax for log-rates": (
        lambda: brought(decode=shares, data=COUNTS, likelihood="poisson"),
        r"the log-rates of p\(x\|z\), Poisson, add up to 1 .*as behind a softmax, .*conditions={split: x.sum\(1\)}, ",
    ),
    "a softmax for log-rates, with rows of one total": (
        lambda: brought(
            decode=shares,
            data={s: 5 * nn.functional.one_hot(x.long().argmax(1), 6) for s, x in BITS.items()},
            likelihood="poisson",
        ),
        r"log-rates .*and the rows add up to 5 to 5: these are shares; give .*Multinomial\(5, probs=p\)\. check=False",
    ),
    "a softmax for logits": (
        lambda: brought(decode=shares, **BERNOULLI),
        r"the logits of p\(x\|z\), Bernoulli, add up to 1 in each of 256 rows, as behind a softmax",
    ),
    "a softmax for probabilities that are none of shares": (
        lambda: brought(decode=shares, data=BITS, likelihood="bernoulli-probs"),
        r"the means of p\(x\|z\), Bernoulli, add up to 1 in each of 256 rows, as behind a softmax",
    ),
    "a softmax for rows of other sums": (
        lambda: brought(decode=shares),
        r"the means of p\(x\|z\), Normal, add up to 1 .*these are shares; give the rows divided by their sums",
    ),
    "a brought model for what is fitted": (
        lambda: zprime.fit("gaussian", brought()),
        r"^fit: .*missing a required argument: 'selection'; .*of a brought model write fit\(kind, \*\*mine.splits\)",
    ),
    "a brought model for posteriors to fit": (
        lambda: zprime.fit("gaussian", brought(), selection=brought()),
        r"^train: expected Posteriors, got Brought; of a brought model write fit\(kind, \*\*mine.splits\)",
    ),
    "rows for posteriors": (
        lambda: zprime.audit({}, brought().rows),
        "^posteriors: expected Posteriors under 'train', got Rows; .*mine.posteriors",
    ),
    "a brought model for its model": (
        lambda: zprime.audit({"m": zprime.latent.Prior(2)}, brought().posteriors, model=brought(), rows=brought().rows),
        "^model: expected an object with encode and decode, got Brought; .*model=mine.model",
    ),
    "a number of samples in words": (
        lambda: zprime.sample(brought().generator(zprime.latent.Prior(2)), "3"),
        "^n: expected a whole number, got '3'",
    ),
    "a generator of nothing": (
        lambda: brought().generator(),
        r"^generator: .*'latent'; write generator\(latent, ...\); r is fit\(kind, \*\*mine.splits\).distribution",
    ),
    "a model that is a path": (lambda: bring.model("vae.pt", DATA), "vae: expected an object with decode.z., got str"),
}


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("way", WRONG)
def test_a_wrong_way_is_refused_and_the_remedy_is_named(way: str) -> None:
    make, text = WRONG[way]
    with pytest.raises(ZprimeError, match=f"(?s){text}"):
        make()


NOTHING: dict[str, tuple[object, ...]] = {
    "arrays": ({},),
    "codes": (None, {}),
    "diffusers": (None, {}),
    "draws": (None, {}),
    "model": (None, {}),
    "modules": (posterior, decoder, {}),
    "pythae": (None, {}),
    "scvi": (None,),
    "tvae": (None, {}),
}


@pytest.mark.parametrize(
    "name", [n for n in bring.__all__ if n[0].islower() and n not in ("tvae_drawing", "tvae_keeping")]
)
def test_errors_of_a_call_begin_with_its_name(name: str) -> None:
    """Whatever fails behind it, and once, also where one public function calls another."""
    with pytest.raises(ZprimeError, match=f"^bring.{name}: (?!bring)"):
        getattr(bring, name)(*NOTHING[name])
    with pytest.raises(ZprimeError, match=f"^bring.{name}: zzz: expected one of the arguments"):
        getattr(bring, name)(*NOTHING[name], zzz=1)


def test_what_a_model_of_shares_is_told_to_give_is_right() -> None:
    """Poisson rates that are a softmax times the total of the row, as the error says."""
    with_totals = brought(
        lambda x, c: posterior(DATA["train"].mean(0) + 0 * x),
        lambda z, c: Independent(Poisson(c[:, None] * shares(z)), 1),
        data=COUNTS,
        conditions={s: x.sum(1) for s, x in COUNTS.items()},
        likelihood=None,
        check=True,
    )
    x = torch.cat([COUNTS["heldout"], COUNTS["heldout"].sum(1)[:, None]], 1)
    z = torch.zeros(len(x), 2)
    rates = shares(z) * COUNTS["heldout"].sum(1)[:, None]
    expected = torch.distributions.Poisson(rates).log_prob(COUNTS["heldout"]).sum(1)
    torch.testing.assert_close(with_totals.model.decode(z).log_prob(x), expected)


def test_the_page_of_errors_quotes_what_errors_say() -> None:
    root = Path(__file__).parent.parent
    files = [*(root / "src/zprime/bring").glob("*.py"), *(root / f"src/zprime/{n}.py" for n in ELSEWHERE)]
    parts = [
        node for f in files for node in ast.walk(ast.parse(f.read_text("utf-8"))) if isinstance(node, ast.Constant)
    ]
    said = [str(part.value) for part in parts]
    rows = [re.split(r"(?<!\\)\|", line) for line in (root / "docs/bring-errors.md").read_text("utf-8").splitlines()]
    quoted = [q.replace("\\|", "|") for row in rows[7:] if len(row) > 3 for q in re.findall("`([^`]+)`", row[2])]
    assert len(quoted) > 20
    assert [q for q in quoted if not any(q in s for s in said)] == []


Answer = namedtuple("Answer", "z mean scale")


@dataclass
class Posterior:
    mu: Tensor
    log_var: Tensor


class Forward(nn.Module):
    """forward -> (recon, mu, logvar), as most VAEs are written; `encode` gives hidden units."""

    def encode(self, x: Tensor) -> Tensor:
        return x

    def decode(self, z: Tensor) -> Tensor:
        return decoder(z)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return decoder(posterior(x)[0]), *posterior(x)


def _std(x: Tensor) -> Tensor:
    return (0.5 * posterior(x)[1]).exp()


SAME: dict[str, tuple[Callable, str | None]] = {
    "(mean, logvar)": (posterior, "log-variance"),
    "(recon, mean, logvar)": (lambda x: (decoder(posterior(x)[0]), *posterior(x)), "logvar"),
    "a dict": (lambda x: dict(zip(("mu", "logvar"), posterior(x), strict=True)), None),
    "a ModelOutput": (lambda x: OrderedDict(embedding=posterior(x)[0], log_covariance=posterior(x)[1]), None),
    "a dataclass": (lambda x: Posterior(*posterior(x)), None),
    "a named tuple": (lambda x: Answer(x, posterior(x)[0], _std(x)), None),
    "a Normal": (lambda x: Normal(posterior(x)[0], _std(x)), None),
    "an Independent Normal": (lambda x: Independent(Normal(posterior(x)[0], _std(x)), 1), "std"),
}


@pytest.mark.parametrize("way", SAME)
def test_outputs_as_people_write_them_give_the_same_posteriors(way: str) -> None:
    encoder, gives = SAME[way]
    p = brought(encoder, gives=gives).posteriors["train"].gather()
    torch.testing.assert_close(p.mean, posterior(DATA["train"])[0])
    torch.testing.assert_close(p.scale, _std(DATA["train"]))


def test_a_torch_normal_with_full_covariance_is_read_as_its_factor() -> None:
    encoder = lambda x: MultivariateNormal(posterior(x)[0], scale_tril=torch.diag_embed(_std(x)))  # noqa: E731
    p = brought(encoder, gives=None).posteriors["train"].gather()
    assert p.form == "full"
    torch.testing.assert_close(p.scale.diagonal(dim1=1, dim2=2), _std(DATA["train"]))


@pytest.mark.parametrize(
    "vae",
    [
        Forward(),
        Stub(encode=posterior, decode=decoder),
        Stub(encoder=posterior, decoder=decoder),
        Stub(encode=lambda x: posterior(x)[0], encoder=posterior, generate=decoder),
    ],
    ids=["forward", "encode and decode", "encoder and decoder", "encode gives one tensor"],
)
def test_a_whole_model_is_taken_apart(vae: object) -> None:
    p = bring.model(vae, DATA, **RIGHT).posteriors["train"].gather()
    torch.testing.assert_close(p.mean, posterior(DATA["train"])[0])


@pytest.mark.parametrize("spelling", ["logvar", "log_var", "Log Variance", "log-variance", "log_variance"])
def test_a_reading_may_be_spelled_in_the_usual_ways(spelling: str) -> None:
    torch.testing.assert_close(brought(gives=spelling).posteriors["train"].gather().scale, _std(DATA["train"]))


@pytest.mark.parametrize("spelling", ["logvar", "log_var", "Log Variance"])
def test_a_reading_of_arrays_may_be_spelled_so_too(spelling: str) -> None:
    logvar = {s: torch.full_like(m, -3.0) for s, m in CODES.items()}
    p = bring.arrays(CODES, logvar, gives=spelling).posteriors["train"].gather()
    torch.testing.assert_close(p.scale, torch.full((60, 2), math.exp(-1.5)))


def test_a_likelihood_by_name_has_the_scale_of_the_reconstructions_and_says_so() -> None:
    gap = DATA["train"] - decoder(posterior(DATA["train"])[0])
    for name, off in (("gaussian", gap.square().mean().sqrt()), ("laplace", gap.abs().mean())):
        mine = brought(likelihood=name)
        p = mine.model.decode(torch.zeros(1, 2))
        scale = float(p.base_dist.scale.mean())
        assert scale == pytest.approx(float(off), rel=0.05)
        assert any(f"scale {scale:.3g}" in s for s in mine.says)


def test_rows_in_an_order_are_looked_at_at_random() -> None:
    """Of rows sorted by their values, as by a class, the first do not stand for all."""
    x = DATA["train"]
    x = torch.cat([x[:300] * 0.02 + 0.5, x[300:]])
    ordered = {**DATA, "train": x}
    mean = x.mean(0)
    ignores = lambda x: (1e-3 * posterior(x)[0], torch.zeros(len(x), 2))  # noqa: E731
    mine = brought(ignores, lambda z: mean.expand(len(z), 6) + 0 * z[:, :1], data=ordered, likelihood="gaussian")
    scale = float(mine.model.decode(torch.zeros(1, 2)).variance.sqrt().mean())
    assert scale == pytest.approx(float((x - mean).square().mean().sqrt()), rel=0.15)
    assert scale > 2 * float((x[:256] - mean).square().mean().sqrt())


def test_without_the_check_what_cannot_be_is_refused_all_the_same() -> None:
    with pytest.raises(UsageError, match="outside the support"):
        brought(decode=logits, data=scaled(lambda x: 4 * x - 2), likelihood="bernoulli", check=False)
    swapped = lambda x: posterior(x)[::-1]  # noqa: E731
    assert brought(swapped, check=False).posteriors["train"].n == 400


def test_a_decoder_of_medians_is_no_reason_to_refuse() -> None:
    """Of 0s and 1s the median is farther from the rows than the mean, by 1.41 times at most."""
    bits = {s: (x > 0.53).float() for s, x in DATA.items()}
    assert 0.2 < float(bits["train"].mean()) < 0.45
    ignores = lambda x: (1e-3 * posterior(x)[0], torch.zeros(len(x), 2))  # noqa: E731
    mine = brought(ignores, lambda z: torch.zeros(len(z), 6) + 0 * z[:, :1], data=bits, likelihood="laplace")
    assert mine.posteriors["train"].n == 400


def test_probabilities_by_name_are_the_logits_of_the_other_name() -> None:
    z = torch.randn(5, 2, generator=torch.Generator().manual_seed(0))
    x = BITS["train"][:5]
    a = brought(decode=logits, **BERNOULLI).model.decode(z).log_prob(x)
    b = brought(decode=lambda z: logits(z).sigmoid(), data=BITS, likelihood="bernoulli-probs").model.decode(z)
    torch.testing.assert_close(a, b.log_prob(x))


def test_grey_values_under_a_bernoulli_are_let_through() -> None:
    grey = scaled(lambda x: x.clamp(0, 1))
    assert brought(decode=logits, data=grey, likelihood="bernoulli", check=False).posteriors["train"].n == 400


def test_a_decoder_that_ignores_z_is_no_reason_to_refuse() -> None:
    mean = DATA["train"].mean(0)
    prior = lambda x: (1e-3 * posterior(x)[0], torch.zeros(len(x), 2))  # noqa: E731
    mine = brought(prior, lambda z: mean.expand(len(z), 6) + 0 * z[:, :1], likelihood="gaussian")
    assert mine.posteriors["train"].n == 400


def test_a_decoder_without_a_gradient_is_spoken_of() -> None:
    assert not any("no gradient" in s for s in brought().says)
    mine = brought(decode=lambda z: decoder(z).detach().numpy())
    assert any("log p(x|z) has no gradient in z" in s for s in mine.says)


def test_an_encoder_without_a_gradient_is_spoken_of_before_vamp_needs_it() -> None:
    told = "the encoder's mean has no gradient in x: the kind vamp"
    assert not any(told in s for s in brought().says)
    mine = brought(lambda x: [t.detach().numpy() for t in posterior(x)])
    assert any(told in s for s in mine.says)
    with pytest.raises(UsageError, match="kind vamp: the encoder's answer carries no gradient"):
        zprime.fit("vamp", **mine.splits)
    mine = brought(lambda x: [t.numpy() for t in posterior(x)])  # fails where a gradient is asked for
    assert any(told in s for s in mine.says)
    with pytest.raises(UsageError, match=r"encoder: it fails .*requires grad.*numpy has none: give one that computes"):
        zprime.fit("vamp", **mine.splits)


def test_the_weight_of_the_kl_term_is_known_to_the_check_of_the_reading() -> None:
    """Trained with beta = 16 the posteriors are 4 times as wide as those of beta = 1: the ELBO alone would object."""
    gram = MODEL.weight.T @ MODEL.weight / MODEL.var
    eye = torch.eye(2, dtype=torch.float64)
    covariance = torch.linalg.inv(gram / 16 + eye)
    pull = covariance @ MODEL.weight.T / (16 * MODEL.var)
    variance = 1 / torch.linalg.inv(covariance).diagonal()  # the best diagonal

    def wide(x: Tensor) -> tuple[Tensor, Tensor]:
        return ((inner(x) - MODEL.bias) @ pull.T).float(), variance.float().expand(len(x), 2)

    assert brought(wide, gives="variance", beta=16.0).posteriors["train"].n == 400
    with pytest.raises(UsageError, match="gives: read as variance"):
        brought(wide, gives="variance")


def test_modes_are_kept_while_other_threads_compute() -> None:
    """The last thread to leave restores the mode; none computes with a network in training mode."""
    net = nn.Sequential(nn.Dropout(0.5), nn.BatchNorm1d(2)).train()
    net[1].eval()
    first, second = evaluating([net]), evaluating([net])
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert not net[0].training
    second.__exit__(None, None, None)
    assert (net.training, net[0].training, net[1].training) == (True, True, False)


def test_held_out_rows_that_equal_training_rows_are_told(caplog: pytest.LogCaptureFixture) -> None:
    """Few of them are a sentence; more than 1 % of a split are a warning, since fit and audit refuse them."""
    few = {**DATA, "heldout": torch.cat([rows(200, 3), DATA["train"][:1]])}
    mine = brought(data=few)
    told = (
        "1 of 201 held-out rows equal a training row exactly (row 700, counted from 0 over all rows that were given, "
        "train first, heldout last); gains on them flatter whatever memorises; fit and"
    )
    assert any(said.startswith(told) and "leave them out" in said for said in mine.says)
    assert "held-out" not in caplog.text
    mine = brought(data={**DATA, "heldout": DATA["train"][:100]})
    told = "100 of 100 held-out rows equal a training row exactly"
    assert any(said.startswith(told) and "were the held-out rows used in training?" in said for said in mine.says)
    assert told in caplog.text
    caplog.clear()
    mine = brought(data={"train": DATA["train"], "heldout": DATA["train"][:100]})
    told = "50 of 50 selection rows and 50 of 50 held-out rows equal a training row exactly (rows 40"
    assert len([said for said in mine.says if said.startswith(told)]) == 1
    assert caplog.text.count("equal a training row") == 1
    assert not any("equal a training row" in said or "equal a held-out row" in said for said in brought().says)
    twice = {**DATA, "selection": torch.cat([DATA["selection"], DATA["heldout"][:2]])}
    told = "2 of 102 selection rows equal a held-out row exactly; what is chosen on the selection split"
    assert any(said.startswith(told) for said in brought(data=twice).says)
    assert any(said.startswith(told) for said in bring.codes(lambda x: posterior(x)[0], twice).says)
