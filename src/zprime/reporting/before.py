"""A refined run beside the run that it went on from: log p(x) of the same held-out rows, before and after."""

from typing import Any

from zprime.reporting.compare import paired_table
from zprime.results.audit import Audit
from zprime.results.paired import paired
from zprime.results.refined import Before
from zprime.serialise import to_jsonable
from zprime.statistics.estimate import Estimate
from zprime.statistics.format import marked
from zprime.tables import Table

NAMES = ("before", "refined")


def to_json(before: Before, audit: Audit) -> dict[str, Any]:
    """What refining was worth: the difference from `over`, before, in nats a row; or why that is not told."""
    if before.audit is None:
        return {"over": before.r, "difference": None, "why": before.why}
    return {"over": before.r, "difference": to_jsonable(_gain(before.audit, before.r, audit)), "why": ""}


def _gain(then: Audit, r: str, audit: Audit) -> Estimate:
    return paired(audit, "prior", then, r).difference


def sentence(before: Before, audit: Audit) -> str:
    """What refining was worth, in nats a row; or why that is not told."""
    if before.audit is None:
        return f"Before and after are not compared: {before.why}."
    gain = _gain(before.audit, before.r, audit)
    here = "" if gain.low > 0 or gain.high < 0 else " That is not measurably different from 0."
    r = before.audit.entry(before.r)
    return (
        f"Under the refined model and its prior, log p(x) is {marked(gain)} nats a row over that under the model "
        f"before with {r.label}, which was fitted post hoc: {gain.n:,} held-out rows that both audits measured, paired "
        f"row by row.{here}"
    )


def table(before: Before, audit: Audit) -> Table | None:
    """Log p(x) before, under the prior, what took its place and the verdict's choice, and after."""
    if before.audit is None:
        return None
    return paired_table([before.audit, audit], NAMES, also=before.r)
