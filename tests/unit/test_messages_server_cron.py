"""The server's cron rules as this client follows them, against what the server's own code answered.

``tests/support/server_cron.json`` holds expression, zone, second and the next slot, as nats-server 2.15.1 computed it,
mostly around clock changes of past years.
"""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from natscron.errors import InvalidCronExpressionError
from natscron.schedule.servercron import parse_server_cron
from natscron.schedule.zones import zone_named

ANSWERS = json.loads((Path(__file__).parents[1] / "support" / "server_cron.json").read_text())
BERLIN_2027 = 1_798_761_600  # 2027-01-01T00:00:00Z


def test_the_next_slot_is_the_one_that_the_server_computed() -> None:
    wrong = [
        row
        for row in ANSWERS
        if parse_server_cron(row[0], zone_named(row[1]) if row[1] else None).next_after(row[2]) != row[3]
    ]
    assert wrong == []
    assert len(ANSWERS) > 300
    assert {row[1] for row in ANSWERS} > {"", "Australia/Lord_Howe", "America/Havana"}


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("* * * * *", "six cron fields"),
        ("0 0 9 * * 7", "day of week"),
        ("0 0 9 L * *", "day of month"),
        ("0 0 9 15W * *", "day of month"),
        ("0 0 9 * * 1#2", "day of week"),
        ("0 0 9 * * fri-mon", "low to high"),
        ("0 0 22-2 * * *", "low to high"),
        ("0 0 9 * * monday", "three-letter name"),
        ("0 */0 * * * *", "step 0"),
        ("0 0 9 1-2-3 * *", "too many hyphens"),
        ("0 1/2/3 * * * *", "too many slashes"),
        ("60 * * * * *", "second"),
        ("0 0 9 0 * *", "day of month"),
        ("0 0 , * * *", "never matches"),
        ("0 0 9 * 13 *", "month"),
        ("@reboot", "six cron fields"),
    ],
)
def test_what_the_server_refuses_is_refused_with_the_field_and_the_reason(text: str, why: str) -> None:
    with pytest.raises(InvalidCronExpressionError, match=why):
        parse_server_cron(text, None)


def test_a_date_that_does_not_come_within_five_years_is_never() -> None:
    assert parse_server_cron("0 0 0 30 2 *", None).next_after(BERLIN_2027) is None
    assert parse_server_cron("0 0 0 30 2 *", None).last_before(BERLIN_2027) is None


SECONDS = st.integers(BERLIN_2027, BERLIN_2027 + 400 * 86_400)


@pytest.mark.parametrize(
    "text", ["* * * * * *", "0 */7 * * * *", "0 30 9 * * 1-5", "15 0 0 1 * *", "0 0 12 29 2 *", "0 0 9 1,15 * 1"]
)
@pytest.mark.parametrize("zone", ["", "Asia/Kolkata"])
@given(second=SECONDS)
def test_the_slot_before_is_the_last_one_whose_next_is_not_before_it(text: str, zone: str, second: int) -> None:
    cron = parse_server_cron(text, zone_named(zone) if zone else None)
    before = cron.last_before(second)
    assert before is not None
    assert before < second
    after = cron.next_after(before)
    assert after is not None
    assert after >= second
    assert cron.next_after(before - 1) == before
