"""What a generated message says, and when it is stale; nothing is asked of a server here."""

import datetime as dt

import pytest

from natscron.messages.fired import delivered, due_from_schedule, read_fired, recurring_due, stale_from
from natscron.messages.reading import next_fire_ms, scheduled_of
from natscron.wire.reading import Entry
from natscron.wire.scheduleheaders import generated_headers, own_headers

R1, R2, R3, R4 = (f"01M8G35TRZZGBWHNT0G07X859{last}" for last in "1234")
NOW = 1_800_000_000_000  # 2027-01-15T08:00:00Z
STORED_NS = 1_800_000_000_400_000_000


class Msg:
    """A message as it is received."""

    def __init__(self, headers: dict[str, str] | None, reply: str = "", data: bytes = b"") -> None:
        self.subject = "orders"
        self.headers = headers
        self.reply = reply
        self.data = data


def generated(revision: str, seq: int = 7, **more: str) -> Msg:
    headers = {"Nats-Scheduler": f"schedules.orders.a.{revision}", "Nats-Schedule-Next": "purge"}
    return Msg(headers | {k.replace("_", "-"): v for k, v in more.items()}, f"$JS.ACK.ORDERS.w.1.{seq}.3.{STORED_NS}.0")


def test_a_single_message_says_its_schedule_and_when_it_was_due() -> None:
    fired = read_fired(generated(R1, Nats_Cron_Scheduled_At="2027-01-15T08:00:00.000Z"))
    assert (fired.schedule, fired.id, fired.revision) == (f"schedules.orders.a.{R1}", "a", R1)
    assert fired.due == dt.datetime(2027, 1, 15, 8, tzinfo=dt.UTC)
    assert (fired.next_fire, fired.attempt, fired.sequence, fired.stale) == (None, 1, 7, False)
    assert fired.key == f"{R1}@2027-01-15T08:00:00+00:00"


def test_an_ordinary_message_belongs_to_no_schedule() -> None:
    for message in (Msg(None), Msg({"X": "1"}), Msg({"Nats-Cron-Cancelled": R1, "Nats-Scheduler": "schedules.o.a.b"})):
        fired = read_fired(message)
        assert (fired.schedule, fired.id, fired.due, fired.attempt, fired.key) == ("", "", None, 1, "")


def test_a_message_of_another_programs_schedule_has_no_id() -> None:
    fired = read_fired(Msg({"Nats-Scheduler": "their.own.subject", "Nats-Schedule-Next": "purge"}))
    assert (fired.schedule, fired.id) == ("their.own.subject", "")


@pytest.mark.parametrize(
    ("timing", "following", "due"),
    [
        ("@every 5m0s", "2027-01-15T08:05:00Z", "2027-01-15T08:00:00+00:00"),
        ("0 30 9 * * 1-5", "2027-01-18T09:30:00Z", "2027-01-15T09:30:00+00:00"),
        ("TZ=Asia/Tokyo 0 0 9 * * *", "2027-01-16T00:00:00Z", "2027-01-15T00:00:00+00:00"),
        ("@hourly", "2027-01-15T09:00:00Z", "2027-01-15T08:00:00+00:00"),
        ("TZ=Asia/Tokyo @daily", "2027-01-15T15:00:00.000000001Z", "2027-01-14T15:00:00+00:00"),
    ],
)
def test_a_recurring_message_was_due_at_the_slot_before_its_next(timing: str, following: str, due: str) -> None:
    message = Msg(
        {
            "Nats-Scheduler": f"schedules.orders.a.{R1}",
            "Nats-Schedule-Next": following,
            "Nats-Cron-Timing": timing,
        }
    )
    fired = read_fired(message)
    assert fired.due is not None
    assert fired.due.isoformat() == due
    assert fired.next_fire is not None


@pytest.mark.parametrize(
    "headers",
    [
        {"Nats-Cron-Scheduled-At": "soon"},
        {"Nats-Cron-Timing": "whenever", "Nats-Schedule-Next": "2027-01-15T08:05:00Z"},
        {"Nats-Cron-Timing": "@every 5m0s", "Nats-Schedule-Next": "never"},
        {"Nats-Cron-Timing": "@every 5m0s", "Nats-Schedule-Next": "99999-01-15T08:05:00Z"},
        {"Nats-Cron-Timing": "TZ=Mars/Base 0 0 9 * * *", "Nats-Schedule-Next": "2027-01-15T08:05:00Z"},
        {"Nats-Cron-Attempt": "many"},
    ],
)
def test_headers_that_cannot_be_read_say_nothing(headers: dict[str, str]) -> None:
    fired = read_fired(Msg({"Nats-Scheduler": f"schedules.orders.a.{R1}", **headers}))
    assert (fired.due, fired.attempt, fired.id) == (None, 1, "a")


def test_where_a_message_comes_from_is_read_in_both_forms_of_acknowledgement() -> None:
    for reply in (
        "$JS.ACK.ORDERS.w.1.42.3.1800000000400000000.0",
        "$JS.ACK._.ABC.ORDERS.w.1.42.3.1800000000400000000.0.tok",
    ):
        origin = delivered(Msg(None, reply))
        assert origin is not None
        assert (origin.stream, origin.sequence, origin.stored_ns) == ("ORDERS", 42, STORED_NS)
    for reply in ("", "_INBOX.x", "$JS.ACK.ORDERS.w", "$JS.ACK.ORDERS.w.1.x.3.y.0"):
        assert delivered(Msg(None, reply)) is None


def entry(revision: str, seq: int, **headers: str) -> Entry:
    found = {name.replace("_", "-"): value for name, value in headers.items()}
    return Entry(f"schedules.orders.a.{revision}", found, b"", seq, STORED_NS)


SINGLE = {"Nats_Schedule": "@at 2027-01-15T09:00:00Z"}


@pytest.mark.parametrize(
    ("newest", "revision", "stale"),
    [
        # Still the newest.
        (entry(R1, 5, **SINGLE), R1, None),
        # Replaced by a revision that found nothing before it, or found just this one.
        (entry(R2, 9, **SINGLE), R1, 9),
        (entry(R2, 9, Nats_Cron_Replaces=f"{R1} 5", **SINGLE), R1, 9),
        # Replaced before the one that was replaced last.
        (entry(R3, 12, Nats_Cron_Replaces=f"{R2} 9", **SINGLE), R1, 9),
        (entry(R3, 12, Nats_Cron_Replaces=f"{R2} 9", **SINGLE), R2, 12),
        # Cancelled.
        (entry(R2, 9, Nats_Cron_Cancelled=R1, Nats_Cron_Replaces=f"{R1} 5"), R1, 9),
        # The trace of a replacement: what took its place is as good as before.
        (entry(R3, 10, Nats_Cron_Cancelled="", Nats_Cron_Live=R2, Nats_Cron_Replaces=f"{R2} 9"), R1, 9),
        (entry(R3, 10, Nats_Cron_Cancelled="", Nats_Cron_Live=R2, Nats_Cron_Replaces=f"{R2} 9"), R2, None),
        # A trace that is older than the schedule.
        (entry(R1, 5, Nats_Cron_Cancelled="x"), R2, None),
        # Written by another program.
        (entry("by-hand", 9, **SINGLE), R1, 9),
        (Entry("elsewhere", {}, b"", 9, STORED_NS), R1, None),
    ],
)
def test_a_revision_is_stale_from_the_sequence_at_which_it_was_replaced(
    newest: Entry, revision: str, stale: int | None
) -> None:
    assert stale_from(newest, revision, "schedules") == stale


def test_a_stored_interval_fires_at_whole_seconds_counted_from_when_it_was_stored() -> None:
    stored = Entry(f"schedules.orders.a.{R1}", {"Nats-Schedule": "@every 7s"}, b"", 1, STORED_NS)
    first = NOW + 7_000
    assert next_fire_ms(stored, NOW) == first
    assert next_fire_ms(stored, first) == first
    assert next_fire_ms(stored, first + 1) == first + 7_000
    later = Entry(stored.subject, stored.headers, b"", 1, STORED_NS + 100_000_000)  # half a second: rounded up
    assert next_fire_ms(later, NOW) == first + 1_000


def test_a_stored_message_is_shown_with_its_authors_headers_only() -> None:
    headers = {
        "Nats-Schedule": "@at 2027-01-15T09:00:00.500Z",
        "Nats-Schedule-Target": "orders",
        "Nats-Cron-Scheduled-At": "2027-01-15T09:00:00.500Z",
        "Nats-Expected-Stream": "ORDERS",
        "Nats-Rollup": "sub",
        "X-Own": "1",
    }
    found = scheduled_of(Entry(f"schedules.orders.a.{R1}", headers, b"x", 3, STORED_NS), "schedules", NOW)
    assert found is not None
    assert (found.kind, found.target, found.id, found.headers) == ("at", "orders", "a", {"X-Own": "1"})
    assert found.next_fire == dt.datetime(2027, 1, 15, 9, 0, 0, 500_000, tzinfo=dt.UTC)
    assert scheduled_of(Entry("schedules.orders.a.b", {"Nats-Cron-Cancelled": R1}, b"", 3, STORED_NS), "x", NOW) is None


def test_a_schedule_in_another_layout_is_shown_without_an_id() -> None:
    stored = Entry("schedules.nightly", {"Nats-Schedule": "rubbish", "Nats-Schedule-Target": "t"}, b"", 3, STORED_NS)
    found = scheduled_of(stored, "schedules", NOW)
    assert found is not None
    assert (found.id, found.revision, found.kind, found.next_fire) == ("", "", "cron", None)


def test_what_the_server_strips_is_not_in_a_copy() -> None:
    headers = {"Nats-Schedule": "x", "Nats-TTL": "5s", "Nats-Expected-Stream": "S", "Nats-Cron-Attempt": "2", "X": "1"}
    assert generated_headers(headers) == {"Nats-Cron-Attempt": "2", "X": "1"}
    assert own_headers(headers | {"Nats-Scheduler": "s", "Nats-Sequence": "3"}) == {"X": "1"}


def test_the_due_time_of_a_sample_comes_from_its_schedule() -> None:
    message = Msg({"Nats-Scheduler": f"schedules.orders.a.{R1}", "Nats-Schedule-Next": "2027-01-15T08:05:00Z"})
    assert due_from_schedule(message, entry(R1, 1, Nats_Schedule="@every 5m0s")) == NOW
    assert due_from_schedule(Msg(None), entry(R1, 1, Nats_Schedule="@every 5m0s")) is None
    assert recurring_due("@at 2027-01-15T08:05:00Z", "", NOW) is None
