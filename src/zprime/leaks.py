"""What must not leave the place of the data unasked: copies of training rows, and what stores such rows."""

import logging

from zprime.distribution import LatentDistribution, Prior
from zprime.errors import UsageError

log = logging.getLogger("zprime")

SINGLE = (
    " Anyone who has this model can decode each of them to about its training row. Do not publish it where the data "
    "are private."
)
SAYS = {
    "untested": "",
    "passes": " Its samples passed the copying test: with 95 % confidence the share of them that are as near to "
    "training rows as copies are is below the limit of the audit (`--copies-limit`, 10 % unless it was set).",
    "copies": " Its samples copy training rows: unfit to publish.",
}


def check_leaks(latent: LatentDistribution, copying: str, *, allow_copies: bool, allow_rows: bool) -> None:
    """Refuse a model whose samples copy training rows, or that stores such rows, unless that is allowed.

    A model whose samples were not tested for copies, or not cleared of them, is let through with a warning.

    Args:
        latent: what z' is drawn from.
        copying: what an audit says of its samples: `passes`, `copies` or `untested`.
        allow_copies: let samples pass that copy training rows.
        allow_rows: let a latent distribution pass that stores functions of single training rows.

    Raises:
        UsageError: they do, or it does, and it is not.
    """
    check_rows(latent, allow_rows=allow_rows)
    if copying == "copies" and not allow_copies:
        raise UsageError(
            f"{latent.label}: its samples copy training rows (the audit's copying test); it is unfit to publish. "
            "Take another latent distribution, or say --allow-copies (in Python: allow_copies=True)"
        )
    if copying == "untested" and not isinstance(latent, Prior):
        log.warning("%s: no audit has cleared its samples of copying training rows", latent.label)


def need_latent(name: str, r: object) -> None:
    """Raise `UsageError` for what is no latent distribution."""
    if not isinstance(r, LatentDistribution):
        way = "give its distribution: fit(...).distribution" if hasattr(r, "distribution") else "fit(...) makes one"
        raise UsageError(f"{name}: expected a latent distribution, got {type(r).__name__}; {way}")


def check_rows(latent: LatentDistribution, *, allow_rows: bool) -> None:
    """Refuse a latent distribution that stores functions of single training rows, unless that is allowed.

    Raises:
        UsageError: it does, and it is not; or it is no latent distribution.
    """
    need_latent("latent", latent)
    if latent.holds_rows and not allow_rows:
        raise UsageError(
            f"{latent.label}: it stores functions of single training rows, which anyone who has it can decode. Take "
            "another latent distribution, or say --allow-rows (in Python: allow_rows=True)"
        )
