"""How numbers are written: every text that people read, to the character."""

import math

import pytest

from zprime.memory import size
from zprime.statistics import format as written  # noqa: A004
from zprime.statistics.estimate import Estimate, exact


def estimate(value: float, stderr: float | None = 0.1, *, stable: bool = True) -> Estimate:
    error = stderr or 0.0
    return Estimate(value, stderr, value - 2 * error, value + 2 * error, 300, "nats", "heldout", 7, stable=stable)


@pytest.mark.parametrize(
    ("value", "stderr", "text"),
    [
        (1.9871, 0.1138, "+1.99 ± 0.11"),
        (-1.337, 0.0981, "-1.337 ± 0.098"),
        (7.06734, 0.00191, "+7.0673 ± 0.0019"),
        (7.0, 0.000001, "+7.0000 ± 0.0000"),
        (-13.9, 8.0, "-13.9 ± 8.0"),
        (1234.5, 98.7, "+1234.5 ± 98.7"),
        (0.24, None, "+0.24"),
        (0.0, 0.0, "+0.00 ± 0.00"),
        (math.inf, 1.0, "+inf"),
        (1.9871, math.inf, "+1.99 ± ?"),
    ],
)
def test_value_and_error_have_two_figures_of_the_error(value: float, stderr: float | None, text: str) -> None:
    e = estimate(value, stderr)
    assert str(e) == written.signed(e) == text
    assert written.unsigned(e) == text.removeprefix("+")
    assert written.marked(e) == text
    assert written.marked(estimate(value, stderr, stable=False)) == (text if "?" in text else f"{text} ?")


@pytest.mark.parametrize(
    ("value", "stderr", "text"),
    [
        (1.9871, 0.1138, "+1.99±0.11"),
        (-1.337, 0.0981, "-1.34±0.10"),
        (-13.9, 8.0, "-13.9±8.0"),
        (9999.0, 12.0, "+9999.0±12.0"),
        (-286856874.0, 4010619.2, "-2.9e+08"),
        (10_000.0, 3.0, "+1.0e+04"),
        (0.24, None, "+0.24"),
        (0.0, 0.0, "+0.00±0.00"),
        (1.9871, math.inf, "+1.99±?"),
    ],
)
def test_a_narrow_column_has_two_decimals_at_most(value: float, stderr: float | None, text: str) -> None:
    assert written.tight(estimate(value, stderr)) == text
    assert written.tight(estimate(value, stderr, stable=False)) == (text if "?" in text else f"{text}?")


def test_an_error_that_is_not_known_is_a_question_mark_and_never_inf() -> None:
    e = Estimate(123.4, math.inf, -math.inf, math.inf, 1, "nats", "heldout", 7, stable=False, because="one row only")
    assert written.prose(e) == "123 ± ?"
    assert written.fixed(e, 1) == "123.4±?"
    assert written.percent(e) == "12340 ± ? %"
    cell = written.explained(e, "What it is")
    assert cell.text == "+123.40 ± ?"
    assert "no interval is known; 1 rows" in cell.why
    assert "inf" not in cell.why


def test_what_was_not_measured_is_a_dash() -> None:
    assert written.marked(None) == written.tight(None) == written.fixed(None, 2) == written.seconds(None) == "–"
    assert written.explained(None, "What it is").text == "–"


@pytest.mark.parametrize(
    ("value", "stderr", "text"),
    [
        (1.987, 0.114, "1.99 ± 0.11"),
        (1173.2, 2.3, "1,173 ± 2"),
        (100.0, 0.9, "100.00 ± 0.90"),
        (99.9, 3.0, "99.9 ± 3.0"),
        (0.24, None, "0.24"),
        (99.996, None, "100.00"),
        (100.4, None, "100"),
        (12345.6, None, "12,346"),
        (-3.0, 0.5, "-3.00 ± 0.50"),
    ],
)
def test_a_sentence_has_no_plus_sign_and_no_decimals_of_large_numbers(
    value: float, stderr: float | None, text: str
) -> None:
    assert written.prose(estimate(value, stderr)) == text
    assert written.magnitude(estimate(value, stderr)) == text.removeprefix("-")


def test_proportions() -> None:
    e = estimate(0.9634, 0.0242)
    assert written.fixed(e, 2) == "0.96±0.02"
    assert written.fixed(e, 3, between=" ± ") == "0.963 ± 0.024"
    assert written.percent(e) == "96 ± 2 %"
    assert written.percent(e, places=1) == "96.3 ± 2.4 %"
    assert written.percent(exact(0.5, n=3, unit="share", split="train")) == "50 ± 0 %"
    assert written.proportion(0.834) == "83 %"
    assert written.interval(e) == "0.963 [0.915, 1.012]"


@pytest.mark.parametrize(("value", "text"), [(9.749, "9.75±3.00"), (10.0, "10.0±3.0"), (100.0, "100±3")])
def test_a_distance_loses_a_decimal_for_every_ten(value: float, text: str) -> None:
    assert written.distance(estimate(value, 3.0)) == text


@pytest.mark.parametrize(
    ("p", "text"), [(0.0, "p < 0.001"), (0.00099, "p < 0.001"), (0.001, "p = 0.001"), (0.5814, "p = 0.581")]
)
def test_p_values(p: float, text: str) -> None:
    assert written.p_value(p) == text


@pytest.mark.parametrize(
    ("x", "count", "text"),
    [
        (1169.2, 4, "1,169"),
        (296.94, 4, "296.9"),
        (0.09851, 4, "0.09851"),
        (2.5e6, 4, "2.5e+06"),
        (-15730.0, 4, "-15,730"),
        (0.04321, 3, "0.0432"),
        (100.4, 3, "100"),
    ],
)
def test_significant_figures(x: float, count: int, text: str) -> None:
    assert written.figures(x, count) == text


def test_sizes_seconds_settings() -> None:
    assert [size(n) for n in (0, 999, 1000, 76_608, 43_120_000, 5_000_000_000)] == [
        "0 B",
        "999 B",
        "1.0 kB",
        "76.6 kB",
        "43.1 MB",
        "5.0 GB",
    ]
    assert written.seconds(1234.56) == "1,234.6"
    assert [written.setting(v) for v in (0.1, 1 / 3, 3, "auto", [64, 32], True)] == [
        "0.1",
        "0.333333",
        "3",
        "auto",
        "64 32",
        "True",
    ]
    assert written.setting(2.1765, 3) == "2.18"


def test_a_cell_says_what_is_behind_its_number() -> None:
    cell = written.explained(estimate(1.9871, 0.1138), "The change.")
    assert (cell.text, cell.short, cell.key) == ("+1.99 ± 0.11", "+1.99±0.11", 1.9871)
    assert cell.why == "The change; 95 % interval 1.76 to 2.215 nats; 300 rows of the heldout split, seed 7."
    assert written.explained(estimate(1.9871, 0.1138), "The change.", plain=True).text == "1.99 ± 0.11"
    known = written.explained(exact(1.5, n=1200, unit="nats", split=""), "The sum")
    assert known.why == "The sum; exact for these rows; 1,200 rows."
    open_ = written.explained(estimate(1.0, stable=False), "It")
    assert open_.text == "+1.00 ± 0.10 ?"
    assert open_.why.endswith("not stable.")
