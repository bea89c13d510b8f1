"""Adapter: TVAE of ctgan and SDV (Xu et al. 2019; written against ctgan 0.12 and SDV 2.0).

`fit` keeps the decoder and throws the encoder away. It is kept here (`keeping`), or another one is fitted to the
decoder as it is.
"""

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.distributions import Distribution, Normal, constraints

from zprime.bring.brought import Brought
from zprime.bring.encoded import bring
from zprime.bring.refitting import refit
from zprime.bring.splits import split
from zprime.bring.trial import Answers, Loss, plausible, some_of
from zprime.calls import called, theirs
from zprime.distribution import LatentDistribution
from zprime.errors import UsageError
from zprime.rng import fork, stream
from zprime.train_settings import TrainSettings

REMEDY = "Let your encoder return (mean, standard deviation) instead of a {other}, or say check=False if you are sure"
REFIT = TrainSettings(epochs=60, batch=500, warmup=0.0, patience=10)


@dataclass(frozen=True)
class Spans:
    """Which columns of the transformed table are numbers, and which runs of columns are one-hot."""

    numbers: tuple[int, ...]
    choices: tuple[slice, ...]

    @classmethod
    def of(cls, transformer: Any) -> "Spans":
        """As ctgan's transformer laid them out."""
        numbers: list[int] = []
        choices: list[slice] = []
        start = 0
        for column in transformer.output_info_list:
            for span in column:
                if span.activation_fn == "softmax":
                    choices.append(slice(start, start + span.dim))
                else:
                    numbers += range(start, start + span.dim)
                start += span.dim
        return cls(tuple(numbers), tuple(choices))


class Table(Distribution):
    """p(x|z) of TVAE's loss: N(tanh(output), sigma^2) for numbers, a categorical for each one-hot run."""

    arg_constraints: dict[str, constraints.Constraint] = {}  # noqa: RUF012 (torch's contract)
    support = constraints.real_vector

    def __init__(self, output: Float[Tensor, "n c"], sigma: Float[Tensor, " c"], spans: Spans) -> None:
        self.output, self.spans = output, spans
        at = list(spans.numbers)
        self.numbers = Normal(output[:, at].tanh(), sigma[at], validate_args=False)
        super().__init__(output.shape[:1], output.shape[1:], validate_args=False)

    def log_prob(self, value: Float[Tensor, "n c"]) -> Float[Tensor, " n"]:
        """Nats a row; a density in the numbers, a probability in the choices."""
        numbers = value[:, list(self.spans.numbers)]
        log_density: Tensor = self.numbers.log_prob(numbers).sum(1)  # type: ignore[no-untyped-call]
        for span in self.spans.choices:
            log_density = log_density + (self.output[:, span].log_softmax(1) * value[:, span]).sum(1)
        return log_density

    @property
    def mean(self) -> Float[Tensor, "n c"]:
        """Means of the numbers, probabilities of the choices."""
        return self._filled(self.numbers.mean, lambda p: p)

    def sample(self, sample_shape: Any = torch.Size()) -> Float[Tensor, "n c"]:
        """One draw for each row."""

        def one(p: Tensor) -> Tensor:
            return nn.functional.one_hot(torch.multinomial(p, 1)[:, 0], p.shape[1]).to(p.dtype)

        with torch.no_grad():
            return self._filled(self.numbers.sample(), one)  # type: ignore[no-untyped-call]

    def _filled(self, numbers: Tensor, choose: Any) -> Tensor:
        rows = torch.empty_like(self.output)
        rows[:, list(self.spans.numbers)] = numbers
        for span in self.spans.choices:
            rows[:, span] = choose(self.output[:, span].softmax(1))
        return rows


@dataclass(frozen=True)
class TableModel:
    """An encoder and TVAE's decoder."""

    encoder: nn.Module
    decoder: nn.Module
    spans: Spans

    def encode(self, x: Float[Tensor, "n c"]) -> tuple[Float[Tensor, "n d"], Float[Tensor, "n d"]]:
        """Mean and standard deviation of q(z|x)."""
        mean, scale = self.encoder(x)[:2]
        return mean, scale

    def decode(self, z: Float[Tensor, "n d"]) -> Distribution:
        """p(x|z) of the transformed table."""
        output, sigma = self.decoder(z.float())
        return Table(output, sigma, self.spans)


class Kept:
    """Holds the encoder that `fit` made, once it has."""

    encoder: nn.Module | None = None


@contextmanager
def keeping() -> Iterator[Kept]:
    """Keep the encoder of a `fit` inside this context, which ctgan would throw away.

    `with keeping() as kept: synthesizer.fit(table)`, then `tvae(synthesizer, tables, encoder=kept.encoder)`. Inside
    the context ctgan's class of encoders remembers the last encoder made.

    Raises:
        UsageError: ctgan is not installed.
    """
    try:
        from ctgan.synthesizers.tvae import Encoder
    except ImportError as error:
        raise UsageError("tvae_keeping: needs ctgan, which is not installed; pip install 'zprime[tvae]'") from error

    kept, initial = Kept(), Encoder.__init__

    def remember(self: nn.Module, *args: Any, **kwargs: Any) -> None:
        initial(self, *args, **kwargs)
        kept.encoder = self

    Encoder.__init__ = remember
    try:
        yield kept
    finally:
        Encoder.__init__ = initial


@called("bring.tvae", types={"tables": Mapping, "encoder": nn.Module | None})
def tvae(
    synthesizer: Any,
    tables: Mapping[str, Any],
    *,
    encoder: nn.Module | None = None,
    training: TrainSettings = REFIT,
    labels: Mapping[str, Any] | None = None,
    groups: Mapping[str, Any] | None = None,
    check: bool = True,
    seed: int = 0,
) -> Brought:
    """Bring ctgan's TVAE, or SDV's TVAESynthesizer (one without constraints).

    Rows are the transformed table, as the networks see it; its transformer draws the component of every number at
    random, here once and by `seed`. A public facade: it takes as many arguments as a user may choose.

    Args:
        synthesizer: fitted.
        tables: split -> table, as `fit` takes it (see `modules` for the splits).
        encoder: what `keeping` kept, or one of your own: x -> (mean, standard deviation). Without one, an encoder is
            fitted to the decoder as it is.
        training: of that encoder.
        labels: split -> integers, for conditional kinds.
        groups: split -> one name a row (see `modules`).
        check: whether to check, by what TVAE's training raises, that an encoder of your own gives standard deviations.
        seed: decides the selection split, the components, and the encoder's fit.

    Raises:
        UsageError: not fitted, an encoder of another table, or one whose scales that training contradicts.
        ArrayError: an encoder whose scales are not above 0.
    """
    model = getattr(synthesizer, "_model", None) or synthesizer
    if not hasattr(model, "decoder") or not hasattr(model, "transformer"):
        raise UsageError(f"synthesizer: expected a fitted TVAE, got {type(synthesizer).__name__}; call its fit() first")
    processor = getattr(synthesizer, "_data_processor", None)
    data = {}
    for name, table in tables.items():
        # SDV 2 names its only table
        one = next(iter(table.values())) if isinstance(table, Mapping) else table
        with theirs(partial(_unfit, name, one)):
            ready = one if processor is None else processor.transform(one)
            data[name] = _transform(model.transformer, ready, stream(seed, "components", name))
    rows = split(data, labels, groups, seed=seed, dtype=torch.float32)
    decoder = copy.deepcopy(model.decoder).cpu().eval().requires_grad_(requires_grad=False)
    spans = Spans.of(model.transformer)
    says = [
        "p(x|z) is that of TVAE's loss, numbers and choices drawn with their own noise; TVAE's sample() draws the "
        "numbers, but takes the likeliest choice"
    ]
    if encoder is None:
        widths, d = tuple(model.compress_dims), int(model.embedding_dim)
        bare = TableModel(nn.Identity(), decoder, spans)
        encoder = refit(bare.decode, rows, d, hidden=widths, settings=training, seed=seed)
        says.append(
            "the encoder of the training was thrown away by fit(); q(z|x) is that of another one, fitted to this "
            "decoder by the ELBO with p(x|z) as it is"
        )
    else:
        width = next(encoder.parameters()).shape[-1]
        if width != rows["train"].x.shape[1]:
            raise UsageError(
                f"encoder: expected one for {rows['train'].x.shape[1]} transformed columns, got one for {width}; was "
                "it kept from the fit of another table?"
            )
        encoder = copy.deepcopy(encoder).cpu().eval().requires_grad_(requires_grad=False)
        factor = float(model.loss_factor)
        if check and not type(encoder).__module__.startswith("ctgan."):
            x = some_of(rows["train"].x, seed)
            with torch.no_grad():
                mean, scale = encoder(x)[:2]
            decode = TableModel(encoder, decoder, spans).decode
            plausible(decode, x, Answers(mean, scale, "std"), Loss(factor), seed=seed, remedy=REMEDY)
        says.append(
            "q(z|x) is that of the encoder in training, kept"
            + (
                f", where log p(x|z) had the weight {factor:g}: narrower than the posterior under this p(x|z), so the "
                "exact-posterior gain is neither bound nor estimate"
                if factor != 1
                else ""
            )
        )
    return bring(TableModel(encoder, decoder, spans), rows, says=tuple(says))


def _unfit(split: str, table: object, error: BaseException) -> str:
    return (
        f"tables: the synthesizer cannot transform {split}, {type(table).__name__} ({type(error).__name__}: {error}); "
        "give tables with the columns that it was fitted to"
    )


@contextmanager
def drawing(synthesizer: Any, latent: LatentDistribution, *, seed: int = 0) -> Iterator[None]:
    """Let the synthesizer's own `sample` draw z' from `latent`: nothing else of it changes.

    Raises:
        UsageError: of another latent dimension.
    """
    model = getattr(synthesizer, "_model", None) or synthesizer
    if latent.d != model.embedding_dim:
        raise UsageError(f"latent: expected {model.embedding_dim} dimensions as TVAE has, got {latent.d}")
    original = model.decoder
    model.decoder = _Drawing(original, latent, stream(seed, "drawing"))
    try:
        yield
    finally:
        model.decoder = original


class _Drawing(nn.Module):
    """A decoder that decodes draws of a latent distribution in place of the z that it is given."""

    def __init__(self, decoder: nn.Module, latent: LatentDistribution, rng: torch.Generator) -> None:
        super().__init__()
        self.decoder, self.latent, self.rng, self.calls = decoder, latent, rng, 0

    def forward(self, noise: Tensor) -> Any:
        self.calls += 1
        z = self.latent.sample(len(noise), rng=fork(self.rng, self.calls))
        return self.decoder(z.to(noise))


def _transform(transformer: Any, table: Any, rng: torch.Generator) -> NDArray[np.float64]:
    """What the networks see of a table; the transformer's own random state stays where it is."""
    from joblib import parallel_config

    ours = copy.deepcopy(transformer)
    for i, column in enumerate(ours._column_transform_info_list):
        seed = fork(rng, i).initial_seed() % 2**32
        column.transform.set_random_state(np.random.RandomState(seed), "transform")
    with parallel_config(backend="sequential"):  # workers cost more than they save here
        columns: NDArray[np.float64] = ours.transform(table)
    return columns
