"""Audit: every candidate measured on data that no part has seen, with a verdict. It measures; it does not fit."""

import dataclasses
import json
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from zprime import artifact
from zprime.data import Rows
from zprime.distribution import Fit, LatentDistribution, Progress, silent
from zprime.encoding import Reencoded
from zprime.errors import ArrayError, UsageError
from zprime.measure import Estimate, Ladder, Panel, Surgery, climb, mean_estimate, surgery
from zprime.measure.panel import PURE
from zprime.measure.verdict import UNIT, Verdict, decide, likelihood_estimate
from zprime.posteriors import InMemory, Posteriors
from zprime.rng import generator
from zprime.sampling import GenerativeModel
from zprime.vae import Model

BAD = -5.0  # nats: a row that loses more than this is one that a sharp r has missed


@dataclass(frozen=True)
class AuditSettings:
    """How much to measure.

    Attributes:
        rows: rows of the selection and of the held-out split that are scored, at most (drawn at random).
        draws: draws a row for the likelihood gain, a multiple of 4; 0 leaves it out.
        grid: samples of each candidate that are decoded for the pictures.
        map: codes and draws that the picture of the latent space shows.
    """

    rows: int = 1000
    draws: int = 400
    grid: int = 64
    map: int = 2000

    def check(self) -> None:
        """Raise `UsageError` for a value that cannot be used."""
        if self.rows < 2:
            raise UsageError(f"rows: expected at least 2, got {self.rows}")
        if self.draws and (self.draws % 4 or self.draws < 8):
            raise UsageError(f"draws: expected 0, or a multiple of 4 that is at least 8, got {self.draws}")
        if self.grid < 1 or self.map < 1:
            raise UsageError(f"grid and map: expected at least 1, got {self.grid} and {self.map}")


@dataclass(frozen=True)
class Score:
    """One rung of one view on one split.

    Attributes:
        gain: mean over rows, with its error.
        median: median over rows.
        above: share of rows above 0.
        below: share of rows below -5 nats.
        diverged: rows whose value is infinite; they are not in `gain`.
        khat: share of rows with Pareto k-hat above 0.7 (likelihood gain only).
    """

    gain: Estimate
    median: float
    above: float
    below: float
    diverged: int = 0
    khat: float | None = None


@dataclass(frozen=True)
class Entry:
    """One row of the table.

    Attributes:
        name: as the candidate was called; with ` (e = 0)` its base without the prior's share, for information.
        label: what it is.
        eligible: whether the verdict could choose it.
        bytes: stored.
        holds_rows: whether what is stored are functions of single training rows.
        scores: split -> rung (`code`, `evidence`, `likelihood`) -> score.
        outcome: how its fit ended.
        chosen: what the selection split decided in its fit.
        curve: what that was chosen from.
        rate: draws z' per second.
    """

    name: str
    label: str
    eligible: bool
    bytes: int
    holds_rows: bool
    scores: dict[str, dict[str, Score]]
    outcome: str = ""
    chosen: dict[str, Any] = field(default_factory=dict)
    curve: list[dict[str, Any]] = field(default_factory=list)
    rate: float = 0.0


@dataclass(frozen=True)
class Audit:
    """Everything measured, enough to draw every page without a model.

    Attributes:
        data: name, shape, sizes of the splits, as the data set describes itself.
        model: what is told of the model.
        entries: the table.
        surgery: split -> ELBO surgery.
        verdict: by likelihood.
        log_prior: log p(x) of held-out rows under the prior (a lower bound in expectation), or None.
        storage: the two ways to keep the aggregated posterior, as latents and as data: bytes, and draws per CPU second.
        settings, seed: how it was measured.
        tensors: per-row gains, decoded grids, codes and draws for the latent map.
        images: whether the grids are pictures.
    """

    data: dict[str, Any]
    model: dict[str, Any]
    entries: list[Entry]
    surgery: dict[str, Surgery]
    verdict: Verdict
    log_prior: Estimate | None
    storage: dict[str, int]
    settings: AuditSettings
    seed: int
    tensors: dict[str, Tensor]
    images: bool
    warnings: list[str] = field(default_factory=list)

    def entry(self, name: str) -> Entry:
        """The row of the table called `name`.

        Raises:
            UsageError: no such row.
        """
        for e in self.entries:
            if e.name == name:
                return e
        raise UsageError(f"name: expected one of {', '.join(e.name for e in self.entries)}, got {name!r}")

    def to_json(self) -> dict[str, Any]:
        """All but the tensors."""
        out = dataclasses.asdict(dataclasses.replace(self, tensors={}))
        del out["tensors"]
        return out

    def save(self, path: Path, *, key: str = "", **inputs: str) -> artifact.Artifact:
        """Write the artefact folder: `audit.json` and tensors."""
        content = (json.dumps(_plain(self.to_json()), indent=1) + "\n").encode()
        config = {"verdict": self.verdict.decision, "choice": self.verdict.choice}
        return artifact.write(
            path,
            "audit",
            config=config,
            tensors=self.tensors,
            key=key,
            seed=self.seed,
            inputs=inputs,
            extra={"audit.json": content},
        )


def audit(
    candidates: Mapping[str, LatentDistribution | Fit[LatentDistribution]],
    posteriors: Mapping[str, Posteriors],
    *,
    model: Model | None = None,
    rows: Mapping[str, Rows] | None = None,
    data: Mapping[str, Any] | None = None,
    settings: AuditSettings = AuditSettings(),
    seed: int = 0,
    progress: Progress = silent,
) -> Audit:
    """Measure all candidates and the prior, and give the verdict by likelihood.

    Args:
        candidates: name -> fitted latent distribution, or what `fit` returned.
        posteriors: `train`, `selection` and `heldout`.
        model: for the likelihood gain and the sample grids; without it only what needs no decoder is measured.
        rows: `selection` and `heldout` rows, in the order of their posteriors; needed with a model.
        data: a description of the data set, for the report.
        settings: how much to measure.
        seed: of every draw.
        progress: called by the long parts.

    Raises:
        UsageError: a split is missing, or settings that cannot be used.
        ArrayError: rows and posteriors do not belong together.
        NumericalError: a proven bound is broken.
    """
    settings.check()
    for split in ("train", "selection", "heldout"):
        if split not in posteriors:
            raise UsageError(
                f"posteriors: expected train, selection and heldout, got {', '.join(posteriors) or 'none'}"
            )
    if model is not None and rows is None:
        raise UsageError("rows: expected the selection and heldout rows beside the model, got none")
    fits = {k: v if isinstance(v, Fit) else Fit(v) for k, v in candidates.items()}
    panel = Panel({k: v.distribution for k, v in fits.items()})
    ladders = {
        s: _ladder(panel, s, posteriors[s], model, rows, settings, seed, progress) for s in ("selection", "heldout")
    }
    verdict = decide(panel, ladders["selection"], ladders["heldout"], seed=seed)
    cuts: dict[str, Surgery] = {}
    for i, split in enumerate(("train", "selection", "heldout")):
        progress("ELBO surgery", i, 3)
        cuts[split] = surgery(posteriors[split], split=split, rng=generator(seed, "surgery", split))
    progress("ELBO surgery", 3, 3)
    tensors = _rows_tensors(ladders)
    tensors |= _pictures(panel, posteriors["heldout"].gather(), model, rows, settings, seed)
    entries = [_entry(panel, fits, name, ladders, seed) for name in panel.names]
    held = ladders["heldout"]
    log_prior = None
    if held.log_prior is not None:
        log_prior = mean_estimate(held.log_prior, unit=UNIT, split="heldout", seed=seed)
    description = dict(data or {})
    storage = {
        "posteriors": posteriors["train"].bytes,
        "posteriors_rate": round(_rate(posteriors["train"].gather(), seed)),
    }
    if "bytes" in description:
        storage["data"] = int(description["bytes"])
    if model is not None and rows is not None and "train" in rows:
        storage["data_rate"] = round(_rate(Reencoded(model, rows["train"]), seed, n=1000))
    shape = tensors["grid.prior"].shape[1:] if "grid.prior" in tensors else ()
    return Audit(
        data=description,
        model={"latents": posteriors["train"].d},
        entries=entries,
        surgery=cuts,
        verdict=verdict,
        log_prior=log_prior,
        storage=storage,
        settings=settings,
        seed=seed,
        tensors=tensors,
        images=len(shape) == 3 and shape[0] in (1, 3),
        warnings=_warnings(description, posteriors["heldout"].gather()),
    )


def load(path: Path) -> Audit:
    """Read an audit from its artefact folder.

    Raises:
        ArtifactError: missing, altered, or of another kind.
    """
    found = artifact.read(path, "audit")
    file = found.path / "audit.json"
    content = artifact.read_bytes(file)
    artifact.verify(file, content, found.files.get("audit.json"))
    raw = json.loads(content)
    return Audit(
        **{
            **raw,
            "entries": [_read_entry(e) for e in raw["entries"]],
            "surgery": {k: _read_surgery(v) for k, v in raw["surgery"].items()},
            "verdict": Verdict(
                **{**raw["verdict"], "evidence": {k: _read_estimate(v) for k, v in raw["verdict"]["evidence"].items()}}
            ),
            "log_prior": None if raw["log_prior"] is None else _read_estimate(raw["log_prior"]),
            "settings": AuditSettings(**raw["settings"]),
            "tensors": found.tensors(),
        }
    )


def _ladder(
    panel: Panel,
    split: str,
    posteriors: Posteriors,
    model: Model | None,
    rows: Mapping[str, Rows] | None,
    settings: AuditSettings,
    seed: int,
    progress: Progress,
) -> Ladder:
    data = posteriors.gather()
    rng = generator(seed, "audit", split)
    picked = torch.randperm(data.n, generator=rng)[: settings.rows].sort().values
    chosen: Rows | None = None
    if model is not None and rows is not None and settings.draws:
        if not torch.equal(rows[split].ids, data.row_ids):
            raise ArrayError(f"rows: expected the {split} rows in the order of their posteriors, got other row ids")
        r = rows[split]
        chosen = Rows(split, r.x[picked], r.ids[picked])
    return climb(
        panel,
        data.take(picked),
        split=split,
        rng=rng,
        model=model if chosen else None,
        rows=chosen,
        draws=settings.draws,
        progress=progress,
    )


def _score(ladder: Ladder, rung: str, name: str, seed: int) -> Score | None:
    values: Tensor | None = getattr(ladder, rung).get(name)
    if values is None:
        return None
    finite = values[torch.isfinite(values)]
    if rung == "likelihood":
        gain = likelihood_estimate(ladder, name, seed)
    else:
        gain = mean_estimate(finite, unit=UNIT, split=ladder.split, seed=seed if rung == "code" else None)
    diverged = len(values) - len(finite)
    if diverged:
        gain = dataclasses.replace(
            gain, trusted=False, because=f"{diverged} rows diverge: q is wider than the prior there"
        )
    return Score(
        gain,
        float(values.median()),
        float((values > 0).double().mean()),
        float((values < BAD).double().mean()),
        diverged,
        float((ladder.khat[name] > 0.7).double().mean()) if rung == "likelihood" else None,
    )


def _entry(
    panel: Panel, fits: Mapping[str, Fit[LatentDistribution]], name: str, ladders: Mapping[str, Ladder], seed: int
) -> Entry:
    pure = name.endswith(PURE)
    owner = name.removesuffix(PURE)
    r = panel.bases[owner] if pure else panel.candidates[owner]
    fit = fits.get(owner)
    scores: dict[str, dict[str, Score]] = {}
    for split, ladder in ladders.items():
        found = {rung: _score(ladder, rung, name, seed) for rung in ("code", "evidence", "likelihood")}
        scores[split] = {k: v for k, v in found.items() if v is not None}
    return Entry(
        name=name,
        label=r.label,
        eligible=not pure,
        bytes=r.bytes,
        holds_rows=r.holds_rows,
        scores=scores,
        outcome="" if fit is None else fit.outcome.message,
        chosen={} if fit is None or pure else dict(fit.chosen),
        curve=[] if fit is None or pure else list(fit.curve),
        rate=_rate(r, seed),
    )


def _rate(r: LatentDistribution | Posteriors, seed: int, n: int = 10_000) -> float:
    """Draws z' per CPU second of this process, at one call."""
    start = time.process_time()
    r.sample(n, rng=generator(seed, "rate"))
    return n / max(time.process_time() - start, 1e-9)


def _rows_tensors(ladders: Mapping[str, Ladder]) -> dict[str, Tensor]:
    """Every row's gains, so that any figure can be made again."""
    out: dict[str, Tensor] = {}
    for split, ladder in ladders.items():
        for rung in ("code", "evidence", "likelihood"):
            for name, values in getattr(ladder, rung).items():
                out[f"gain.{split}.{rung}.{name}"] = values
    return out


@torch.no_grad()
def _pictures(
    panel: Panel,
    heldout: InMemory,
    model: Model | None,
    rows: Mapping[str, Rows] | None,
    settings: AuditSettings,
    seed: int,
) -> dict[str, Tensor]:
    """Codes and draws for the latent map; decoded samples, held-out rows and their reconstructions for the grids."""
    some = torch.randperm(heldout.n, generator=generator(seed, "map"))[: settings.map]
    codes = heldout.take(some)
    out = {"map.codes": codes.draw(rng=generator(seed, "map codes")).float()}
    if codes.labels is not None:
        out["map.labels"] = codes.labels
    zero = torch.zeros(1)
    for name, r in panel.candidates.items():
        out[f"map.{name}"] = r.sample(settings.map, rng=generator(seed, "map", name)).float()
        if model is not None:
            shown = GenerativeModel(r, model, zero, zero)
            out[f"grid.{name}"] = shown.sample(settings.grid, rng=generator(seed, "grid", name))[1].float()
    if model is not None and rows is not None:
        real = torch.randperm(len(rows["heldout"]), generator=generator(seed, "grid"))[: settings.grid]
        x = rows["heldout"].x[real]
        out["grid.held-out data"] = x
        out["grid.reconstructions"] = model.decode(model.encode(x)[0]).mean.float()
    return out


def _warnings(data: Mapping[str, Any], heldout: InMemory) -> list[str]:
    out = [
        f"{count} {split} rows equal a training row exactly; gains on them flatter whatever memorises"
        for split, count in dict(data.get("copies", {})).items()
        if count
    ]
    wide = int((heldout.scale > 1).any(1).sum())
    if wide:
        out.append(
            f"{wide} of {heldout.n} held-out posteriors are wider than the prior in some dimension: "
            "the encoder is inexact there, and the evidence gain with it"
        )
    return out


def _plain(value: Any) -> Any:
    """JSON has no infinity: write it as a string that float() reads."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    return value


def _read_estimate(raw: Mapping[str, Any]) -> Estimate:
    numbers = {k: None if raw[k] is None else float(raw[k]) for k in ("value", "stderr", "low", "high")}
    return Estimate(**{**raw, **numbers})


def _read_entry(raw: Mapping[str, Any]) -> Entry:
    scores = {
        split: {
            rung: Score(**{**s, "gain": _read_estimate(s["gain"]), "median": float(s["median"])})
            for rung, s in rungs.items()
        }
        for split, rungs in raw["scores"].items()
    }
    return Entry(**{**raw, "scores": scores})


def _read_surgery(raw: Mapping[str, Any]) -> Surgery:
    fields = ("mean_kl", "information", "hole", "gaussian_part", "told_apart")
    return Surgery(**{**raw, **{f: _read_estimate(raw[f]) for f in fields}})


__all__ = ["Audit", "AuditSettings", "Entry", "Score", "audit", "load"]
