"""The model card of a shipped generator: Markdown with the metrics of its audit in Hugging Face's form.

It says of rows what a public page says: numbers over them, no row, no name of data or columns, no hash of them.
"""

import hashlib
import json
from dataclasses import dataclass
from typing import Any

from zprime.escape import markdown
from zprime.reporting.words import quick
from zprime.results.audit import Audit
from zprime.results.entries import Entry, Scores
from zprime.results.kept import kept
from zprime.results.names import PRIOR, CandidateId, Gain
from zprime.results.public import publish
from zprime.results.samples import REAL, RECONSTRUCTED
from zprime.statistics.estimate import Estimate
from zprime.statistics.format import nats, prose

PROTOCOL = "zprime-audit-1"
"""What the numbers of a card were measured by: changed where their meaning changes."""


@dataclass(frozen=True)
class Metric:
    """A number of a card.

    Attributes:
        kind: of metric, e.g. `likelihood_gain`.
        name: in words.
        shown: the number with its error, or the word that stands for one.
        value: the number; None where it is told in a word.
        stderr: its standard error; None where it has none.
        n: rows that it is a mean over; 0 where it is none.
    """

    kind: str
    name: str
    shown: str
    value: float | None = None
    stderr: float | None = None
    n: int = 0


def card(audit: Audit, *, of: str = "", name: str = "", license: str = "other", use: str = "") -> str:
    """Markdown with a YAML head: `README.md` of a folder on the Hugging Face hub.

    Args:
        audit: of the run.
        of: what the card is of, as the audit calls it, e.g. `gaussian+p1`; by default what the audit ships.
        name: of the model, for `model-index`; by default what z' is drawn from.
        license: an identifier of the hub, e.g. `mit`.
        use: how to use what the card lies beside: Markdown; empty leaves that part out.
    """
    public = publish(audit)
    shipped = public.entry(of or audit.shipped)
    found = metrics(public, shipped)
    head = {
        "library_name": "zprime",
        "license": license,
        "tags": ["variational-autoencoder", "synthetic-data", "latent-distribution"],
        "model-index": [{"name": name or shipped.label, "results": [_result(public, found)]}],
    }
    lines = [
        "---",
        *(f"{key}: {json.dumps(value, ensure_ascii=False, indent=1)}" for key, value in head.items()),
        "---",
        "",
    ]
    lines += [f"# {markdown(name or shipped.label)}", "", sentence(public, found, shipped.name), ""]
    verdicts = [public.verdict.sentence, *([] if public.samples is None else [public.samples.verdict.sentence])]
    drawn = f"z′ from {shipped.label} in {public.model.latents} dimensions, x′ from the decoder"
    lines += ["## What it draws from", "", f"{drawn}: {kept(shipped.least_rows, stored=shipped.bytes)}.", ""]
    lines += [f"- {markdown(v)}" for v in verdicts]
    lines += ["", *(["## How to draw", "", use.rstrip(), ""] if use else [])]
    lines += ["## What was measured", "", "| measure | value |", "| --- | --- |"]
    lines += [f"| {markdown(m.name)} | {markdown(m.shown)} |" for m in found]
    lines += [
        "",
        "± is one standard error.",
        "",
        "## Data",
        "",
        _data(public),
        "",
        "## Limits",
        "",
        *_limits(public),
        "",
    ]
    return "\n".join(lines)


def metrics(audit: Audit, shipped: Entry) -> list[Metric]:
    """The numbers of a card of one candidate of an audit, in its order."""
    found = of_gains(shipped.heldout)
    bet = audit.verdict.bet
    if bet is not None and audit.verdict.best == shipped.name:  # it is of what was tested, chosen or not
        what = "that gain is at least, with 95 % confidence by betting, whatever the tails"
        found.insert(1, Metric(f"{shipped.heldout.surest.value}_gain_lower", what, nats(bet.low), bet.low))
    side = audit.samples
    if side is not None:
        numbers = side.verdict.numbers
        for key, what in (("choice", "samples"), ("prior", "samples of the prior"), (RECONSTRUCTED, ""), (REAL, "")):
            # `choice` is of what was tested, chosen or not
            if key in numbers and (key != "choice" or side.verdict.best == shipped.name != PRIOR):
                words = f"Frechet distance to held-out rows of {what or key} ({side.features} features)"
                found.append(_metric(f"frechet_{key.replace(' ', '_')}", words, numbers[key]))
    found.append(Metric("copying", "the copying test of its samples", audit.copying(shipped.name)))
    attack = None if audit.membership is None else audit.membership.candidates.get(CandidateId.parse(shipped.name))
    if attack is not None:
        found.append(_metric("membership_auc", "AUC of a membership attack on it (1/2: tells nothing)", attack.auc))
    if shipped.least_rows is not None:
        found.append(
            Metric(
                "least_rows",
                "effective training rows behind a component, at least",
                f"{shipped.least_rows:.1f}",
                shipped.least_rows,
            )
        )
    return found


def of_gains(scores: Scores) -> list[Metric]:
    """The gains of a card: the surest one first, and the ELBO gain, which is by the encoder as it is."""
    sure = scores.surest
    gains = {g: scores.of(g) for g in dict.fromkeys((sure, Gain.ELBO))}
    words = {Gain.ELBO: f"{Gain.ELBO.words} (the encoder as it is)", sure: sure.words}
    return [
        _metric(f"{g.value}_gain", f"{words[g]} over the prior, nats a held-out row", score.gain)
        for g, score in gains.items()
        if score is not None
    ]


def sentence(audit: Audit, found: list[Metric], of: str) -> str:
    """One sentence to quote of a candidate, with protocol, version and a hash of the numbers."""
    first, version = found[0], audit.versions.get("zprime", "")
    how = " of a quick audit" if audit.settings.quick else ""
    return (
        f"> {first.name}: {first.shown}, {first.n:,} rows{how}, seed {audit.seed}; copying test: "
        f"{audit.copying(of)} ({PROTOCOL}, zprime {version}, numbers {digest(found)})."
    )


def digest(found: list[Metric]) -> str:
    """The first 12 characters of the SHA-256 of the numbers, by which a quoted card is known."""
    numbers = [[m.kind, m.shown if m.value is None else m.value, m.stderr] for m in found]
    return hashlib.sha256(json.dumps(numbers, separators=(",", ":")).encode()).hexdigest()[:12]


def _result(audit: Audit, found: list[Metric]) -> dict[str, Any]:
    return {
        "task": {"type": "unconditional-generation", "name": "draws of z' and x'"},
        "dataset": {"type": "private", "name": "held-out rows", "split": "heldout"},
        "metrics": [
            {"type": m.kind, "name": m.name, "value": m.shown if m.value is None else m.value}
            | ({} if m.stderr is None else {"args": {"stderr": m.stderr, "rows": m.n, "seed": audit.seed}})
            for m in found
        ],
    }


def _metric(kind: str, name: str, e: Estimate) -> Metric:
    return Metric(kind, name, prose(e), e.value, e.stderr, e.n)


def _data(audit: Audit) -> str:
    sizes = ", ".join(f"{n:,} {split}" for split, n in audit.data.sizes.items())
    shape = " x ".join(map(str, audit.data.shape))
    return (
        f"Rows of shape {shape or 'unknown'}; {sizes or 'numbers of rows unknown'}. This card holds no row and no "
        "name of the data."
    )


def _limits(audit: Audit) -> list[str]:
    told = [*quick(audit), *(w for w in audit.warnings if w != audit.settings.says)]
    attack = "No attack was made" if audit.membership is None else "The attack is one attack"
    return [
        *(f"- {markdown(w)}" for w in told),
        "- All numbers are conditional on this trained model, and of rows like the held-out ones.",
        f"- {attack}. Differential privacy is a property of training, which zprime does not give.",
    ]


__all__ = ["PROTOCOL", "Metric", "card", "digest", "metrics", "of_gains"]
