"""What callers of the message scheduler give: instants, durations, headers, bodies, subjects, ids."""

import datetime as dt

import pytest

from natscron.errors import (
    InvalidIntervalError,
    InvalidScheduleTimeError,
    InvalidSubjectError,
    ValidationError,
)
from natscron.ids import is_ulid
from natscron.messages.drafts import recurring_draft, sample_draft, single_draft
from natscron.messages.subjects import Place, check_prefix, check_subject, next_revision, place_of, same_id
from natscron.messages.values import Duration, When, body_of, due_ms, duration_ns, headers_of, ttl_text
from natscron.schedule.serverwords import Timing

NOW = 1_800_000_000_000  # 2027-01-15T08:00:00Z
UTC = dt.UTC


@pytest.mark.parametrize(
    ("when", "due"),
    [
        (dt.datetime(2027, 1, 15, 9, tzinfo=UTC), NOW + 3_600_000),
        (dt.datetime(2027, 1, 15, 10, tzinfo=dt.timezone(dt.timedelta(hours=1))), NOW + 3_600_000),
        (dt.datetime(2027, 1, 15, 8, 0, 0, 1, tzinfo=UTC), NOW + 1),
        (dt.datetime(2027, 1, 15, 8, 0, 0, 1_000, tzinfo=UTC), NOW + 1),
        (dt.timedelta(minutes=5), NOW + 300_000),
        (dt.timedelta(microseconds=1), NOW + 1),
        (dt.timedelta(seconds=-1), NOW - 1_000),
        ("in 5m", NOW + 300_000),
        ("2027-01-15T09:00:00Z", NOW + 3_600_000),
        ("2027-01-15T10:00:00.0001+01:00", NOW + 3_600_001),
        (dt.datetime(1970, 1, 1, tzinfo=UTC), 0),
    ],
)
def test_an_instant_is_whole_milliseconds_and_never_early(when: When, due: int) -> None:
    assert due_ms(when, NOW) == due


@pytest.mark.parametrize(
    ("when", "why"),
    [
        (dt.datetime(2027, 1, 15, 9), "no time zone"),  # noqa: DTZ001 - that is what is tested
        (dt.datetime(1969, 1, 1, tzinfo=UTC), "from 1970 to 2262"),
        (dt.datetime(2262, 4, 12, tzinfo=UTC), "from 1970 to 2262"),
        (dt.datetime(9999, 12, 31, tzinfo=UTC), "from 1970 to 2262"),
        (dt.timedelta(days=400_000), "from 1970 to 2262"),
        ("tomorrow", "RFC 3339"),
        ("2027-01-15T09:00:00", "with an offset"),
        ("in a while", "time: invalid duration"),
        (1_800_000_000, "no instant"),
        (None, "no instant"),
    ],
)
def test_what_is_no_instant_that_the_server_can_time_is_refused(when: When, why: str) -> None:
    with pytest.raises(InvalidScheduleTimeError, match=why):
        due_ms(when, NOW)


def test_an_instant_that_is_over_fires_at_once_or_is_refused() -> None:
    assert due_ms("2027-01-15T07:59:59Z", NOW) == NOW - 1_000
    assert due_ms("2027-01-15T08:00:00.001Z", NOW, "refuse") == NOW + 1
    for text in ("2027-01-15T07:59:59Z", "2027-01-15T08:00:00Z"):
        with pytest.raises(InvalidScheduleTimeError, match="is over"):
            due_ms(text, NOW, "refuse")
    with pytest.raises(ValidationError, match="'fire' or 'refuse'"):
        due_ms("in 5m", NOW, "ignore")  # type: ignore[arg-type]  # that is what is tested


@pytest.mark.parametrize(
    ("ttl", "text"),
    [
        (None, ""),
        ("5m", "300s"),
        ("1.5m", "90s"),
        (90, "90s"),
        (dt.timedelta(hours=1), "3600s"),
        ("never", "never"),
    ],
)
def test_a_time_to_live_is_whole_seconds(ttl: Duration, text: str) -> None:
    assert ttl_text(ttl) == text


@pytest.mark.parametrize("ttl", ["0s", "1500ms", 0.5, -5, "soon", dt.timedelta(milliseconds=1), "1000000h", True, ""])
def test_any_other_time_to_live_is_refused(ttl: Duration) -> None:
    with pytest.raises(InvalidIntervalError):
        ttl_text(ttl)


@pytest.mark.parametrize("value", ["x", float("nan"), float("inf"), None, [], True])
def test_what_is_no_duration_is_refused(value: Duration) -> None:
    with pytest.raises(InvalidIntervalError, match="delay"):
        duration_ns(value, "delay")


def test_bodies_are_bytes_or_text() -> None:
    assert body_of(b"x") == b"x"
    assert body_of("\u00e9") == b"\xc3\xa9"
    for wrong in ({"a": 1}, None, 5, "\ud800"):
        with pytest.raises(ValidationError):
            body_of(wrong)  # type: ignore[arg-type]  # that is what is tested


@pytest.mark.parametrize(
    "headers",
    [{"Nats-TTL": "1"}, {"nats-schedule": "@hourly"}, {"X": "a\r\nY: b"}, {"X Y": "1"}, {"": "1"}, {"X": 1}],
)
def test_headers_that_are_the_servers_or_would_break_the_protocol_are_refused(headers: dict[str, str]) -> None:
    with pytest.raises(ValidationError):
        headers_of(headers)


@pytest.mark.parametrize(
    "subject", ["", ".a", "a.", "a..b", "a b", "a.*", "a.>", "$JS.API.x", "_INBOX.x", "a\n", "a\u200b", "x" * 256]
)
def test_a_subject_that_nobody_can_publish_to_is_refused(subject: str) -> None:
    with pytest.raises(InvalidSubjectError):
        check_subject(subject)
    with pytest.raises(InvalidSubjectError, match="prefix"):
        check_prefix(subject)


@pytest.mark.parametrize("target", ["orders", "a.b.c", "b\u00fccher.neu"])
@pytest.mark.parametrize("id_", ["order-1", "a.b", "with blank", "*", "\u00e9", "=b", "x" * 128])
def test_a_place_is_found_again_from_its_subject(target: str, id_: str) -> None:
    place = Place("my.schedules", target, id_, "01M8G35TRZZGBWHNT0G07X859H")
    assert place_of("my.schedules", place.subject) == place
    assert place.subject.startswith(place.filter.removesuffix("*"))


@pytest.mark.parametrize("subject", ["schedules.orders.x", "schedules", "other.orders.a.r", "schedules.orders.=!.r"])
def test_a_subject_in_another_layout_is_no_place(subject: str) -> None:
    assert place_of("schedules", subject) is None


@pytest.mark.parametrize("id_", ["", "x" * 129, None, 5, "\ud800"])
def test_an_id_is_text_of_bounded_length(id_: str) -> None:
    with pytest.raises(ValidationError):
        same_id("schedules", "orders", id_)


def test_a_revision_sorts_behind_the_one_before_it_whatever_the_clock_says() -> None:
    first = next_revision(None, NOW)
    second = next_revision(first, NOW - 3_600_000)
    third = next_revision(second, NOW)
    assert is_ulid(third)
    assert first < second < third
    assert is_ulid(next_revision("by-hand", NOW))


def test_a_single_message_says_when_it_is_due() -> None:
    draft = single_draft("orders", NOW + 1, "x", headers={"X": "1"}, ttl="5m", rollup=True)
    assert draft.headers == {
        "Nats-Schedule": "@at 2027-01-15T08:00:00.001Z",
        "Nats-Schedule-Target": "orders",
        "Nats-Cron-Scheduled-At": "2027-01-15T08:00:00.001Z",
        "Nats-Schedule-TTL": "300s",
        "Nats-Schedule-Rollup": "sub",
        "X": "1",
    }
    assert draft.body == b"x"
    assert draft.single


def test_a_recurring_message_says_its_words_and_its_zone() -> None:
    draft = recurring_draft("reports", Timing("0 0 9 * * *", "Asia/Tokyo"), b"", ttl="1h", rollup=True)
    assert draft.headers == {
        "Nats-Schedule": "0 0 9 * * *",
        "Nats-Schedule-Time-Zone": "Asia/Tokyo",
        "Nats-Schedule-Target": "reports",
        "Nats-Schedule-TTL": "3600s",
        "Nats-Schedule-Rollup": "sub",
        "Nats-Cron-Timing": "TZ=Asia/Tokyo 0 0 9 * * *",
    }
    assert not draft.single


def test_a_sample_names_its_source_and_not_itself() -> None:
    draft = sample_draft("out", "in", Timing("@every 5m0s"))
    assert draft.headers["Nats-Schedule-Source"] == "in"
    with pytest.raises(ValidationError, match="target itself"):
        sample_draft("out", "out", Timing("@every 5m0s"))
    with pytest.raises(InvalidSubjectError, match="source"):
        sample_draft("out", "in.*", Timing("@every 5m0s"))
