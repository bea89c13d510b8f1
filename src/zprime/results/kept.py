"""What a stored latent distribution says of single training rows, in words: for models, tables and answers alike."""

import math

NOT_COUNTED = (
    "no rows were counted behind what is stored (it has no components, or they come from elsewhere than a fit)"
)
SINGLE_ROWS = "functions of single training rows are stored"


def kept(least_rows: float | None, *, stored: int) -> str:
    """A sentence without its full stop, to stand after a colon.

    Args:
        least_rows: effective rows behind the stored component that has fewest; None where they were not counted.
        stored: bytes that are stored.
    """
    if not stored:
        return "nothing is stored"
    if least_rows is None:
        return NOT_COUNTED
    if least_rows < 2:
        return SINGLE_ROWS
    return f"every stored component stands for at least {math.floor(least_rows):,} rows"
