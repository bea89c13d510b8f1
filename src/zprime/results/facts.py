"""What an audit tells of data, model, storage and fits, beside its measurements."""

from dataclasses import dataclass, field

from zprime.statistics.estimate import Estimate

Setting = bool | int | float | str | list[int] | list[float] | list[str] | None
"""A value of a setting, as JSON has it."""


@dataclass(frozen=True)
class CurvePoint:
    """A value of a setting that a fit tried, and what came of it on the selection split.

    Attributes:
        setting: its name, e.g. `components`.
        value: what was tried.
        bytes: what the latent distribution then stores.
        epsilon: the share of the prior that went with it.
        gain: ELBO gain over the prior, mean over rows, nats.
        stderr: standard error of that; None of one row.
    """

    setting: str
    value: int | float
    bytes: int
    epsilon: float
    gain: float
    stderr: float | None


@dataclass(frozen=True)
class Chosen:
    """What a fit decided on the selection split.

    Attributes:
        epsilon: share of the prior that the candidate mixes in; None where there is no candidate.
        gain: mean ELBO gain of the candidate over the prior on the selection split, nats a row; None likewise.
        active: the latent dimensions, from 0, that the kind was fitted to; None for all of them.
        weights: column of the data that rows are weighed by; empty for equal weights.
        settings: name -> value of what the kind itself decided, e.g. {"components": 64}.
    """

    epsilon: float | None = None
    gain: float | None = None
    active: list[int] | None = None
    weights: str = ""
    settings: dict[str, Setting] = field(default_factory=dict)


@dataclass(frozen=True)
class Duplicates:
    """Rows of a split that equal a training row, or one of another split, in every entry.

    Attributes:
        count: how many.
        rows: of how many rows of the split.
        ids: row ids of the first ten.
        kept: whether they are among the rows that were measured; otherwise they were left out.
    """

    count: int
    rows: int
    ids: list[int] = field(default_factory=list)
    kept: bool = False

    def named(self) -> str:
        """The row ids, e.g. `rows 3, 14, ..`."""
        some = ", ".join(map(str, self.ids))
        return f"row{'s' if self.count > 1 else ''} {some}{', ..' if self.count > len(self.ids) else ''}"


@dataclass(frozen=True)
class NearDuplicates:
    """Held-out rows next to a training row.

    Attributes:
        share: proportion of held-out rows that are nearer to a training row than `distance`; about 1 % of rows of the
            same distribution are.
        distance: the 1 % quantile of the distance between a training row and the nearest other one, in the units of
            the rows as the model sees them.
    """

    share: Estimate
    distance: float


@dataclass(frozen=True)
class DataInfo:
    """The data set, as it describes itself.

    Attributes:
        name: what the data are called; empty if nobody named them.
        shape: of a row.
        sizes: split -> rows.
        content: SHA-256 of the stored rows; empty if not known.
        duplicates: split -> rows that equal a training row exactly, where there are any; None if nobody has looked.
        shared: selection rows that equal a held-out row exactly; None where there are none, or rows are not known.
        near: held-out rows next to a training row; None where the training rows are not known, or few.
        groups: split -> number of groups that its rows come in; empty where rows are independent.
        weights: column that the rows of the audit are weighed by; empty for equal weights.
        bytes: what the training rows take as they are stored; None if not known.
        columns: names of a table's columns, where they have names.
        log_scale: sum of log scale over the entries of a row, `stored = scaled * scale + shift`; None if not known.
        used: hash of all that decides which rows models see, and how: content, splits, scaling, drawn pixels; empty if
            not known.
    """

    name: str = ""
    shape: list[int] = field(default_factory=list)
    sizes: dict[str, int] = field(default_factory=dict)
    content: str = ""
    duplicates: dict[str, Duplicates] | None = None
    shared: Duplicates | None = None
    near: NearDuplicates | None = None
    groups: dict[str, int] = field(default_factory=dict)
    weights: str = ""
    bytes: int | None = None
    columns: list[str] = field(default_factory=list)
    log_scale: float | None = None
    used: str = ""


@dataclass(frozen=True)
class ModelInfo:
    """The model, and how it was trained; what is not known of a brought one is None or empty.

    Attributes:
        latents: latent dimension d.
        settings: name -> value, of the architecture.
        training: name -> value, of the training.
        epoch: the epoch whose parameters were kept.
        epochs: epochs trained.
        stopped: why training ended, in words.
        beta: weight of the KL term in training.
        elbo: on the selection split at that epoch, nats a row.
        posterior: what is known of q(z|x): its `density`; `draws` of it alone; `none`, where the encoder gives codes.
        codes: training rows, with `draws` and `none`, where no ELBO surgery counts them.
        variance: of the training codes in every dimension, there too.
        kl: mean KL(q||p) of training rows, with `draws` where log q is known at them: the mean of log q - log p.
        prior: where p(z) comes from: `given`; `learned` together with encoder and decoder; `refined`, where these were
            trained on with a distribution that was fitted before.
        seconds: CPU time of its training, with all that it went on from; None if it was not measured.
    """

    latents: int
    settings: dict[str, Setting] = field(default_factory=dict)
    training: dict[str, Setting] = field(default_factory=dict)
    epoch: int | None = None
    epochs: int | None = None
    stopped: str = ""
    beta: float | None = None
    elbo: float | None = None
    posterior: str = "density"
    codes: int = 0
    variance: list[float] = field(default_factory=list)
    kl: Estimate | None = None
    prior: str = "given"
    seconds: float | None = None


@dataclass(frozen=True)
class Storage:
    """The two ways to keep the aggregated posterior: as means and standard deviations, and as the data.

    Attributes:
        posteriors: bytes of the training posteriors, of draws with log q there, where it is known.
        posteriors_draws: draws z' per CPU second from them.
        data: bytes of the training rows as stored; None if not known.
        data_draws: draws z' per CPU second, each datum encoded when it is drawn; None without encoder or rows.
    """

    posteriors: int
    posteriors_draws: int
    data: int | None = None
    data_draws: int | None = None
