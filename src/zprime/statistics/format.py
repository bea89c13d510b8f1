"""How numbers are written: estimates, proportions, p-values, sizes and times, as people read them."""

import math
from typing import Protocol, runtime_checkable

from zprime.tables import NONE, Cell


@runtime_checkable
class Measured(Protocol):
    """What is written of an `Estimate`, which lies above this file and writes itself by it."""

    @property
    def value(self) -> float:
        """The estimate."""
        ...

    @property
    def stderr(self) -> float | None:
        """Its standard error; None where the value is exact for the stated sample."""
        ...

    @property
    def low(self) -> float:
        """Lower end of the 95 % interval."""
        ...

    @property
    def high(self) -> float:
        """Upper end of the 95 % interval."""
        ...

    @property
    def n(self) -> int:
        """Number of independent rows behind it."""
        ...

    @property
    def groups(self) -> int:
        """Effective number of groups that the rows come in; 0 where rows are independent."""
        ...

    @property
    def unit(self) -> str:
        """Such as "nats per row"."""
        ...

    @property
    def split(self) -> str:
        """The rows it was computed on."""
        ...

    @property
    def seed(self) -> int | None:
        """Of the draws."""
        ...

    @property
    def stable(self) -> bool:
        """Whether its own check was passed."""
        ...

    @property
    def because(self) -> str:
        """What the check said."""
        ...


def decimals(stderr: float) -> int:
    """Decimal places that show two figures of a standard error, from 1 to 4."""
    if not math.isfinite(stderr) or stderr <= 0:
        return 2
    return max(1, min(4, 1 - math.floor(math.log10(stderr))))


def plus_minus(stderr: float, places: int, *, between: str = " ± ") -> str:
    """A standard error behind its value; a question mark where there is none, as of one row."""
    return f"{between}{stderr:.{places}f}" if math.isfinite(stderr) else f"{between}?"


def signed(e: Measured) -> str:
    """Value and standard error with a sign, for differences: `+1.99 ± 0.11`."""
    places = 2 if e.stderr is None else decimals(e.stderr)
    error = "" if e.stderr is None else plus_minus(e.stderr, places)
    return f"{e.value:+.{places}f}{error}" if math.isfinite(e.value) else f"{e.value:+}"


def _doubt(e: Measured, mark: str) -> str:
    """The mark of a check that failed; where no error is known, the error says so itself."""
    return "" if e.stable or not math.isfinite(e.stderr or 0.0) else mark


def unsigned(e: Measured) -> str:
    """Value and standard error without a plus sign, for what is no difference: `1.99 ± 0.11`."""
    return signed(e).removeprefix("+")


def marked(e: Measured | None) -> str:
    """As `signed`, with a question mark where its own check failed; a dash for None."""
    return NONE if e is None else f"{signed(e)}{_doubt(e, ' ?')}"


def tight(e: Measured | None) -> str:
    """As `marked`, in as few characters as a terminal of 80 columns allows: `+1.99±0.11`."""
    if e is None:
        return NONE
    if abs(e.value) >= 10_000:
        return f"{e.value:+.1e}{'' if e.stable else '?'}"
    places = min(2, decimals(e.stderr)) if e.stderr else 2
    error = "" if e.stderr is None else plus_minus(e.stderr, places, between="±")
    return f"{e.value:+.{places}f}{error}{_doubt(e, '?')}"


def fixed(e: Measured | None, places: int, *, between: str = "±") -> str:
    """Value and standard error in so many decimals, as all of its column: `0.96±0.01`."""
    return NONE if e is None else f"{e.value:.{places}f}{plus_minus(e.stderr or 0.0, places, between=between)}"


def distance(e: Measured) -> str:
    """As `fixed`: two decimals, one from 10 on, none from 100 on."""
    return fixed(e, 0 if e.value >= 100 else 1 if e.value >= 10 else 2)


def prose(e: Measured) -> str:
    """Value and standard error in a sentence: without a plus sign, and without decimals where both are large."""
    if e.stderr is None:
        return nats(e.value)
    if abs(e.value) >= 100 and e.stderr >= 1:
        error = f"{e.stderr:,.0f}" if math.isfinite(e.stderr) else "?"
        return f"{e.value:,.0f} ± {error}"
    return unsigned(e)


def magnitude(e: Measured) -> str:
    """As `prose`, without the sign."""
    return prose(e).removeprefix("-")


def interval(e: Measured) -> str:
    """Value and 95 % interval: `0.512 [0.480, 0.540]`."""
    return f"{e.value:.3f} [{e.low:.3f}, {e.high:.3f}]"


def percent(e: Measured, *, places: int = 0) -> str:
    """A proportion in per cent, with its standard error: `12 ± 3 %`."""
    return f"{100 * e.value:.{places}f}{plus_minus(100 * (e.stderr or 0.0), places)} %"


def proportion(x: float) -> str:
    """A proportion in whole per cent: `12 %`."""
    return f"{x:.0%}".replace("%", " %")


def p_value(p: float) -> str:
    """`p = 0.012`, or `p < 0.001`."""
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"


def nats(x: float) -> str:
    """Two decimals, none from 100 on."""
    return f"{x:,.0f}" if abs(x) >= 100 else f"{x:.2f}"


def figures(x: float, count: int) -> str:
    """So many significant figures, never in powers of ten below a million."""
    return f"{x:,.0f}" if 10 ** (count - 1) <= abs(x) < 1e6 else f"{x:.{count}g}"


def seconds(s: float | None) -> str:
    """Seconds to a tenth; a dash for None."""
    return NONE if s is None else f"{s:,.1f}"


def setting(value: object, count: int = 6) -> str:
    """The value of a setting; floats in so many figures."""
    if isinstance(value, float):
        return f"{value:.{count}g}"
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)


def explained(e: Measured | None, says: str, *, plain: bool = False) -> Cell:
    """A cell with an estimate and the sentence behind it: what it is, its interval, rows, seed and check.

    Args:
        e: the estimate; None for a dash.
        says: what it is.
        plain: without a plus sign.
    """
    if e is None:
        return Cell(NONE, says)
    parts = [says.rstrip(".")]
    if e.stderr is not None and not math.isfinite(e.stderr):
        parts.append("no interval is known")
    elif e.stderr is not None:
        parts.append(f"95 % interval {figures(e.low, 4)} to {figures(e.high, 4)} {e.unit}")
    else:
        parts.append("exact for these rows")
    seed = "" if e.seed is None else f", seed {e.seed}"
    of = f" of the {e.split} split" if e.split else ""
    parts.append(f"{e.n:,} rows{of}{f' in {e.groups:,} groups' if e.groups else ''}{seed}")
    if e.because:
        parts.append(e.because)
    if not e.stable:
        parts.append("not stable")
    text = (unsigned(e) if plain else signed(e)) + _doubt(e, " ?")
    return Cell(text, "; ".join(parts) + ".", e.value, tight(e))
