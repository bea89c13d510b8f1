"""zprime verify."""

from typing import Annotated

from cyclopts import Parameter

from zprime.cli.console import OPTIONS, bars, give, product
from zprime.cli.folder import Folder
from zprime.cli.groups import OWN
from zprime.own_model import OwnModel
from zprime.results.differences import ROUNDING
from zprime.serialise import to_jsonable
from zprime.threads import Threads, cores
from zprime.verifying import verify as verified

MOST = 20  # differences that are printed; --json has all


def verify(
    run: Folder,
    *,
    data: str | None = None,
    heldout_data: str | None = None,
    own: Annotated[OwnModel, OWN] = OwnModel(),
    files_only: Annotated[bool, Parameter(negative="")] = False,
) -> None:
    """Measure a run again as its audit records, and say whether every number of audit and card is the same.

    Of a folder that `zprime export` made, the numbers of its card are measured again without the run, from --data or
    from --heldout-data alone, and of a model of your own with --model, as in `zprime verify FOLDER --data rows.npz
    --model mymodel.py:build --model-weights w.pt`; what cannot be measured from these is said. The exit code is 0 where
    nothing was altered and nothing differs, else 1.

    Parameters
    ----------
    run
        Folder of a run that `zprime audit` has been through, or one that `zprime export` made; with --files-only also
        one with an audit and its card.
    data
        Where the data lie, if not where the run says. An exported folder does not say it.
    heldout_data
        Where the held-out rows lie that are in a file of their own, if not where the run says. For an exported folder
        it may stand alone: a file of the held-out rows in their order.
    files_only
        Check the hashes of all files and the card, and measure nothing.
    """
    with bars() as progress:
        found = verified(
            run,
            data=data,
            heldout_data=heldout_data,
            own=own,
            files_only=files_only,
            workers=cores(OPTIONS.threads),
            threads=Threads.by_work(OPTIONS.threads),
            progress=progress,
        )
    for line in found.altered.values():
        product(f"Altered: {line}")
    for number in found.numbers:
        product(f"{number.status.capitalize()}: {number.told}")
    for d in found.different[:MOST]:
        product(f"Different: {d}")
    if len(found.different) > MOST:
        product(f"... and {len(found.different) - MOST} more; --json has all")
    product(found.sentence)
    give({**to_jsonable(found), "passed": found.passed, "tolerance": ROUNDING})
    if not found.passed:
        raise SystemExit(1)
