"""How much a file may unpack to: known from its header and its size, before anything is unpacked."""

from zprime import memory
from zprime.errors import ArrayError
from zprime.memory import size

SHARE = 1 / 4
"""Of the memory that is free: rows are held about twice in float32 beside what was read."""
DEFLATE = 1032
"""No stream of deflate (gzip, zip, PNG) unpacks to more than so many times its size (zlib's technical notes)."""
RATIO, LARGE = 200, 1 << 28
"""A file of more than `LARGE` bytes that is `RATIO` times smaller when packed holds next to nothing but one value."""


def check_unpacked(where: str, unpacked: int, packed: int | None = None) -> None:
    """Refuse what would not fit in memory, or is nearly nothing blown up, before it is unpacked.

    Args:
        where: the file, for the error.
        unpacked: bytes, as its header declares.
        packed: bytes on disk; None where nothing is packed.

    Raises:
        ArrayError: it is.
    """
    if packed is not None and unpacked > DEFLATE * (packed + 64):
        raise ArrayError(
            f"{where}: declares {size(unpacked)}, more than {size(packed)} on disk can hold; the file is damaged, "
            "or made to fill the memory"
        )
    if packed is not None and unpacked > LARGE and unpacked > RATIO * packed:
        raise ArrayError(
            f"{where}: unpacks from {size(packed)} to {size(unpacked)}, {unpacked // max(packed, 1)} times as much; "
            "data that hold something do not, so it was not unpacked. If this is wanted, unpack it yourself "
            "(.gz: gunzip; .npz: save the arrays as .npy)"
        )
    free = memory.available()
    if free is not None and unpacked > SHARE * free:
        raise ArrayError(
            f"{where}: {size(unpacked)} when unpacked, and {size(free)} of memory are free, of which rows may take "
            f"{SHARE:.0%}; give fewer rows, or smaller ones (float32 or uint8)".replace("%", " %")
        )
