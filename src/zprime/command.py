"""The command that makes a run again, as shell text, from what lies in its folder.

It is one `zprime run` where that can make everything, else one command for each stage, e.g. where a fit has a name of
its own. Only options that differ from the defaults are printed.
"""

import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from zprime import learned as learned_priors
from zprime import own_model
from zprime.artifact import Artifact
from zprime.data import DataSettings
from zprime.encoding import DRAWS
from zprime.errors import ArtifactError, UsageError
from zprime.fit_stage import KINDS
from zprime.latent import ConditionalSettings, settings_for
from zprime.latent.kind import Settings
from zprime.refine_stage import WITH, Origin
from zprime.results.audit import AuditSettings
from zprime.results.names import CandidateId
from zprime.results.refined import REFINED
from zprime.run_folder import RunFolder
from zprime.run_posteriors import draws_of_run, steps_of
from zprime.train_settings import TrainSettings
from zprime.vae_settings import VAESettings

OUT = "runs/again"


@dataclass(frozen=True)
class _Fit:
    """How one latent distribution of a run was fitted."""

    name: str
    settings: Settings
    seed: int
    weights: str

    @property
    def usual(self) -> bool:
        """Whether `zprime run` calls it by this name, and weighs rows equally."""
        return self.name == self.settings.name and not self.weights


def command(folder: RunFolder, names: Sequence[str], settings: AuditSettings, *, seed: int, weights: str = "") -> str:
    """The shell command that makes the same artefacts again, in `runs/again`.

    Args:
        folder: that holds data, model and fits.
        names: the latent distributions that were audited, beside the prior.
        settings: of the audit.
        seed: of the audit.
        weights: column that the audit weighed rows by.

    Returns:
        One command, or several joined by ` && `; empty where a fit is of a kind that the command line does not know, or
        the VAE was trained with another prior than N(0, I), which is given in Python, or was refined from a run that
        is no longer there as it was.
    """
    try:
        begun, fits = _begun(folder), [_fit(folder, name) for name in names]
    except UsageError:
        return ""
    if begun is None:
        return ""
    audit = (["--quick"] if settings.quick else []) + options(
        AuditSettings(quick=settings.quick).resolve(), vars(settings)
    )
    together, first = _kinds(fits), int(folder.model.seed or 0)
    if (
        together is not None
        and begun.plain
        and not weights
        and all(f.usual for f in fits)
        and {seed, *(f.seed for f in fits)} == {first}
    ):
        return _line(["run", *begun.train, "--out", OUT, *together, *audit, *_seed(first)])
    lines = [*begun.lines, *(["fit", begun.place, *words, *begun.own] for words in _calls(fits))]
    columns = {f.weights for f in fits}
    if columns != {weights} and (columns or weights):  # otherwise they are those of the fits
        audit += ["--weights", weights]
    lines += [["audit", begun.place, *audit, *begun.own, *_seed(seed)]]
    return " && \\\n".join(_line(words) for words in lines)


@dataclass(frozen=True)
class _Begun:
    """How model and posteriors of a run are made.

    Attributes:
        place: where.
        lines: the commands, without `zprime`.
        train: options of the training; empty for a run that was refined.
        own: options that name the code of a model of the user's own.
        plain: whether `zprime run` makes them with the options of the training alone.
    """

    place: str
    lines: list[list[str]]
    train: list[str]
    own: list[str]
    plain: bool


def _begun(folder: RunFolder) -> _Begun | None:
    """How model and posteriors are made; None where the command line cannot."""
    refined = folder.model.config.get("refined")
    return _trained(folder) if refined is None else _refined(folder, refined)


def _trained(folder: RunFolder) -> _Begun | None:
    """By training, or with a model of the user's own."""
    data, model = folder.data, folder.model
    learned = model.config.get("learned")
    if model.kind != own_model.KIND and learned is None and _given_prior(model):
        return None
    source, own = DataSettings(**data.config["settings"]), own_options(model)
    train = ["--data", source.data, *options(DataSettings(source.data), data.config["settings"]), *own]
    if not own:
        train += options(VAESettings().resolve(tuple(data.config["shape"])), model.config["vae"]["settings"])
        train += options(TrainSettings(), model.config["training"])
        train += _prior(learned)
    encoded = _encoded(folder)
    lines = [["train", *train, "--out", OUT, *_seed(int(model.seed or 0))], ["encode", OUT, *encoded, *own]]
    return _Begun(OUT, lines, train, own, plain=not encoded)


def _refined(folder: RunFolder, refined: Mapping[str, Any]) -> _Begun | None:
    """By going on from the run in whose folder this one lies, as it was then."""
    parent = RunFolder(folder.path.absolute().parent.parent)
    if not _lies_in(folder, parent, refined):
        return None
    before = _begun(parent)
    if before is None:
        return None
    called, name, training = folder.path.absolute().name, str(refined["name"]), folder.model.config["training"]
    usual = Origin(parent, name, bool(refined["learned"])).settings(epochs=0, lr=0.0, patience=None)
    words = ["refine", before.place, *(["--with", name] if name != WITH else [])]
    words += ["--learn-prior"] if refined["learned"] else []
    words += ["--name", called] if called != name else []
    words += [
        w for f in ("epochs", "lr", "patience") if training[f] != getattr(usual, f) for w in _option(f, training[f])
    ]
    seed = int(folder.model.seed or 0)
    words += ["--seed", str(seed)] if seed != int(parent.model.seed or 0) else []
    fit = [["fit", before.place, *w] for w in _calls([_fit(parent, CandidateId.parse(name).name)])]
    place = f"{before.place}/{REFINED}/{called}"
    encoded = [] if _encoded(folder) == _encoded(parent) else [["encode", place, *_encoded(folder, said=True)]]
    return _Begun(place, [*before.lines, *fit, words, *encoded], [], [], plain=False)


def _lies_in(folder: RunFolder, parent: RunFolder, refined: Mapping[str, Any]) -> bool:
    """Whether a refined run lies where `zprime refine` puts it, and what it goes on from is there as it was."""
    if folder.path.absolute().parent.name != REFINED:
        return False
    try:
        there = {"model": parent.model.hash, "fit": parent.fit(CandidateId.parse(str(refined["name"])).name).hash}
    except (ArtifactError, UsageError):
        return False
    return all(refined[part] == found for part, found in there.items())


def _encoded(folder: RunFolder, *, said: bool = False) -> list[str]:
    """How posteriors were encoded, as options; of what is as `zprime run` does it nothing, unless it is to be said."""
    steps, draws = steps_of(folder.path), draws_of_run(folder.path)
    words = ["--draws", str(draws)] if draws and (said or draws != DRAWS) else []
    return [*words, *(["--steps", str(steps)] if steps or (said and not draws) else [])]


def _prior(learned: Mapping[str, Any] | None) -> list[str]:
    """What says how a prior was learned."""
    if learned is None:
        return []
    usual = asdict(learned_priors.settings_for(learned["kind"]))
    changed = [f"{k}={_value(_tuple(learned[k]))}" for k in usual if _plain(learned[k]) != _plain(usual[k])]
    return ["--prior", learned["kind"], *(["--prior-set", *changed] if changed else [])]


def _given_prior(model: Artifact) -> bool:
    """Whether a VAE of zprime was trained with another prior than N(0, I); that of `rae` is made of its codes."""
    return model.config.get("prior") is not None and model.config["training"].get("objective") != "rae"


def own_options(model: Artifact) -> list[str]:
    """What names the code of a model of the user's own; nothing for a VAE of zprime."""
    if model.kind != own_model.KIND:
        return []
    weights = model.config.get("weights")
    return [
        "--model",
        model.config["code"]["named"],
        *([] if weights is None else ["--model-weights", weights["file"]]),
    ]


def options(
    defaults: DataSettings | VAESettings | TrainSettings | AuditSettings, recorded: Mapping[str, Any]
) -> list[str]:
    """What differs from the defaults, as options of the command line.

    Args:
        defaults: settings with their default values.
        recorded: name -> value, as Python or JSON has them; names that `defaults` does not have are left out.
    """
    words: list[str] = []
    for f in fields(defaults):
        value = recorded.get(f.name, getattr(defaults, f.name))
        if _plain(value) != _plain(getattr(defaults, f.name)):
            words += _option(f.name.replace("_", "-"), value)
    return words


def changes(settings: Settings) -> list[str]:
    """What differs from the defaults of a kind, as `KIND.FIELD=VALUE` of the option `--set`."""
    return list(_changes(settings.kind, settings_for(settings.kind), settings))


def settings_from(recorded: Mapping[str, Any]) -> Settings:
    """Settings of a kind from what the manifest of a fit says of them.

    Raises:
        UsageError: the command line does not know this kind.
    """
    values = {
        name: settings_from(v) if isinstance(v, Mapping) else tuple(v) if isinstance(v, list) else v
        for name, v in recorded.items()
        if name != "kind"
    }
    return replace(settings_for(recorded["kind"]), **values)


def _fit(folder: RunFolder, name: str) -> _Fit:
    fitted = folder.fit(name)
    report = fitted.config["fit"]
    return _Fit(
        name, settings_from(report["settings"]), int(fitted.seed or 0), str(report["chosen"].get("weights", ""))
    )


def _calls(fits: Sequence[_Fit]) -> Iterator[list[str]]:
    """Arguments of `zprime fit` for all fits: as few calls as can be."""
    usual: dict[int, list[_Fit]] = {}
    for f in fits:
        if f.usual:
            usual.setdefault(f.seed, []).append(f)
    for seed, group in usual.items():
        together = _kinds(group)
        calls = [together] if together is not None else [_kinds([f]) or [] for f in group]
        yield from ([*words, *_seed(seed)] for words in calls)
    for f in fits:
        if not f.usual:
            name = ["--name", f.name] if f.name != f.settings.name else []
            weights = ["--weights", f.weights] if f.weights else []
            yield [*(_kinds([f]) or []), *name, *weights, *_seed(f.seed)]


def _kinds(fits: Sequence[_Fit]) -> list[str] | None:
    """Options for fitting exactly these in one call; None if one call cannot."""
    settings = [f.settings for f in fits]
    bases = [s.base for s in settings if isinstance(s, ConditionalSettings)]
    by = ["--by", "label"] if bases and len(bases) == len(settings) else []
    wanted = bases if by else settings
    kinds = [s.kind for s in wanted]
    if len(set(kinds)) < len(kinds):
        return None
    words = [] if tuple(kinds) == KINDS else ["--kinds", *kinds]
    changed = [c for s in wanted for c in changes(s)]
    return [*words, *(["--set", *changed] if changed else []), *by]


def _changes(where: str, default: Settings, settings: Settings) -> Iterator[str]:
    for f in fields(settings):
        before, value = getattr(default, f.name), getattr(settings, f.name)
        if isinstance(value, Settings):
            if value.kind != before.kind:
                yield f"{where}.{f.name}={value.kind}"
                before = settings_for(value.kind)
            yield from _changes(f"{where}.{f.name}", before, value)
        elif value != before:
            yield f"{where}.{f.name}={_value(value)}"


def _value(value: Any) -> str:
    """As `--set` takes it."""
    if isinstance(value, tuple):
        return ",".join(map(_value, value))
    return str(value).lower() if isinstance(value, bool) or value is None else str(value)


def _option(name: str, value: Any) -> list[str]:
    if isinstance(value, bool):
        return [f"--{name}" if value else f"--no-{name}"]
    if isinstance(value, list | tuple):
        return [f"--{name}", *map(str, value)] if value else [f"--empty-{name}"]
    return [f"--{name}", str(value)]


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _plain(value: Any) -> Any:
    """As JSON gives it back."""
    return list(value) if isinstance(value, tuple) else value


def _seed(seed: int) -> list[str]:
    return ["--seed", str(seed)] if seed else []


def _line(words: Sequence[str]) -> str:
    return shlex.join(["zprime", *words])
