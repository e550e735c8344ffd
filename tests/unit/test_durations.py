"""Go duration text: the grammar, the limits and the error texts."""

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from natscron.durations import format_duration, parse_duration, parse_duration_ms
from natscron.errors import ValidationError

SECOND = 1_000_000_000
checked = settings(max_examples=300, derandomize=True, deadline=None, database=None)


@pytest.mark.parametrize(
    ("text", "ns"),
    [
        ("0", 0),
        ("+0", 0),
        ("-0", 0),
        ("0s", 0),
        ("1ns", 1),
        ("1us", 1_000),
        ("1\u00b5s", 1_000),
        ("1\u03bcs", 1_000),
        ("250ms", 250_000_000),
        ("30s", 30 * SECOND),
        ("+5s", 5 * SECOND),
        ("-5s", -5 * SECOND),
        (".5s", SECOND // 2),
        ("1.s", SECOND),
        ("1.5h", 5400 * SECOND),
        ("1h30m", 5400 * SECOND),
        ("1m1h", 3660 * SECOND),
        ("1d", 86_400 * SECOND),
        ("2w", 14 * 86_400 * SECOND),
        ("1w2d3h", (9 * 24 + 3) * 3600 * SECOND),
        ("0.3333333333333333333h", 1_200_000_000_000),
        ("9223372036854775807ns", 2**63 - 1),
        ("-9223372036854775808ns", -(2**63)),
        ("2562047h47m16.854775807s", 2**63 - 1),
    ],
)
def test_text_is_read_as_go_reads_it(text: str, ns: int) -> None:
    assert parse_duration(text) == ns


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("", 'time: invalid duration ""'),
        ("abc", 'time: invalid duration "abc"'),
        ("-", 'time: invalid duration "-"'),
        (".", 'time: invalid duration "."'),
        (".s", 'time: invalid duration ".s"'),
        ("1h-5m", 'time: unknown unit "h-" in duration "1h-5m"'),
        ("30", 'time: missing unit in duration "30"'),
        ("1h30", 'time: missing unit in duration "1h30"'),
        ("1x", 'time: unknown unit "x" in duration "1x"'),
        ("1H", 'time: unknown unit "H" in duration "1H"'),
        ("1 h", 'time: unknown unit " h" in duration "1 h"'),
        ("1e3s", 'time: unknown unit "e" in duration "1e3s"'),
        (" 1s", 'time: invalid duration " 1s"'),
        ('1"', 'time: unknown unit "\\"" in duration "1\\""'),
        ("1\u00e9", 'time: unknown unit "\\xc3\\xa9" in duration "1\\xc3\\xa9"'),
        ("\u0661s", 'time: invalid duration "\\xd9\\xa1s"'),
        ("9223372036854775808ns", 'time: invalid duration "9223372036854775808ns"'),
        ("293y", 'time: unknown unit "y" in duration "293y"'),
        ("106752d", 'time: invalid duration "106752d"'),
        ("-9223372036854775809ns", 'time: invalid duration "-9223372036854775809ns"'),
    ],
)
def test_what_is_no_duration_is_refused_with_go_s_text(text: str, error: str) -> None:
    with pytest.raises(ValidationError) as caught:
        parse_duration(text)
    assert str(caught.value) == error


def test_hostile_text_is_refused_at_once() -> None:
    begun = time.perf_counter()
    for text in ("1" * 10**6, "1s" * 10**6, "." * 10**6, "\x00" * 10**6):
        with pytest.raises(ValidationError, match="time: invalid duration"):
            parse_duration(text)
    assert time.perf_counter() - begun < 1


def test_milliseconds_are_rounded_up_so_that_nothing_is_early() -> None:
    assert parse_duration_ms("1ns") == 1
    assert parse_duration_ms("1ms") == 1
    assert parse_duration_ms("1.0001s") == 1001
    assert parse_duration_ms("-1.5ms") == -1


@pytest.mark.parametrize(
    ("ns", "text", "short"),
    [
        (0, "0s", "0s"),
        (1, "1ns", "1ns"),
        (1_100, "1.1\u00b5s", "1.1\u00b5s"),
        (250_000_000, "250ms", "250ms"),
        (1_500_000_000, "1.5s", "1.5s"),
        (60 * SECOND, "1m0s", "1m"),
        (5400 * SECOND, "1h30m0s", "1h30m"),
        (3601 * SECOND, "1h0m1s", "1h1s"),
        (-5400 * SECOND, "-1h30m0s", "-1h30m"),
        (2**63 - 1, "2562047h47m16.854775807s", "2562047h47m16.854775807s"),
    ],
)
def test_durations_are_written_as_go_writes_them_and_shorter_for_people(ns: int, text: str, short: str) -> None:
    assert format_duration(ns) == text
    assert format_duration(ns, short=True) == short


@checked
@given(st.integers(-(2**63), 2**63 - 1))
def test_what_was_written_reads_back_the_same(ns: int) -> None:
    assert parse_duration(format_duration(ns)) == ns
    assert parse_duration(format_duration(ns, short=True)) == ns


@checked
@given(st.text(alphabet="0123456789.+-nsuµmhdw x\x00", max_size=80) | st.text(max_size=80))
def test_any_text_gives_a_duration_or_a_validation_error(text: str) -> None:
    try:
        ns = parse_duration(text)
    except ValidationError as refusal:
        reason = str(refusal)
    else:
        reason = "time: "
        assert -(2**63) <= ns < 2**63
    assert reason.startswith("time: ")
