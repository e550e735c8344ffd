"""Rows, versions, state records, runs, keys and instants."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from natscron.codec import (
    decode_row,
    decode_run,
    encode_row,
    encode_run,
    id_of,
    key_of,
    ms_to_text,
    parse_job,
    run_to_json,
    state,
    successor,
    text_to_ms,
)
from natscron.codec.versions import MAX_PREVIOUS
from natscron.errors import InvalidScheduleTimeError, MalformedInputError, ValidationError
from natscron.model import (
    Delivery,
    Holder,
    Job,
    Lease,
    Mark,
    Node,
    NoteRef,
    OpenRow,
    OpenState,
    Run,
    RunStatus,
    ScheduleSpec,
    Stamp,
    Trigger,
    Version,
)

WRITE = Stamp(1_000, 7)


@pytest.mark.parametrize(
    "value",
    [
        b'{"subject":"j.a","schedule":{"every":"30s"}}',
        (
            b'{"target":{"subject":"j.a"},"payload":{"type":"json","data":"{}"},"schedule":{"every":"30s"},'
            b'"last_run":"0001-01-01T00:00:00Z","next_run":"2026-11-20T09:19:23.716122941Z"}'
        ),
    ],
)
def test_a_row_of_the_go_version_counts_from_its_own_message(value: bytes) -> None:
    job = decode_row("j.a", value, WRITE)
    assert (job.invalid, job.id, job.schedule) == (None, "j.a", ScheduleSpec(every="30s"))
    assert (job.generation, job.revision, job.anchor_ms, job.created_at_ms, job.counts_from) == (
        0,
        7,
        1_000,
        1_000,
        WRITE,
    )
    assert job.extra == {}


def test_odd_schedules_of_stored_rows_are_kept_as_they_are() -> None:
    job = decode_row("a", b'{"subject":"a","schedule":{"every":"0s","cron":"*-5 * * * *"}}', WRITE)
    assert job.schedule == ScheduleSpec(every="0s", cron="*-5 * * * *")


def test_the_go_versions_fields_come_first_and_in_its_order() -> None:
    job = parse_job({"note": "n", "schedule": {"cron": "* * * * *"}, "subject": "a.b"}).job
    assert encode_row(job).startswith(b'{"subject":"a.b","schedule":{"cron":"* * * * *"},')
    older = parse_job({"schedule": {"every": "1s"}, "payload": {"data": "x"}, "target": {"subject": "a.b"}}).job
    assert encode_row(older).startswith(
        b'{"target":{"subject":"a.b"},"payload":{"type":"","data":"x"},"schedule":{"every":"1s"},'
    )


def test_a_creating_write_takes_what_the_store_owns_from_its_message() -> None:
    job = decode_row("a", encode_row(Job(id="a")), WRITE)
    assert (job.generation, job.created_at_ms, job.anchor_ms, job.counts_from) == (7, 1_000, 1_000, WRITE)


def test_a_later_write_carries_what_the_store_owns() -> None:
    first = decode_row("a", encode_row(Job(id="a", schedule=ScheduleSpec(every="1s"))), WRITE)
    edit = successor(first, msgspec.structs.replace(first, note="n"))
    second = decode_row("a", encode_row(edit), Stamp(2_000, 9))
    assert second == msgspec.structs.replace(first, note="n", revision=9, updated_at_ms=2_000)


def test_an_edit_of_a_go_row_keeps_generation_zero_and_its_anchor() -> None:
    first = decode_row("a", b'{"subject":"a","schedule":{"every":"30s"}}', WRITE)
    second = decode_row("a", encode_row(successor(first, first)), Stamp(2_000, 9))
    assert (second.generation, second.anchor_ms, second.counts_from) == (0, 1_000, WRITE)


def test_a_schedule_change_counts_from_its_own_write_and_keeps_the_old_version() -> None:
    first = decode_row("a", encode_row(Job(id="a", schedule=ScheduleSpec(every="1s"))), WRITE)
    new = msgspec.structs.replace(first, schedule=ScheduleSpec(every="2s"))
    second = decode_row("a", encode_row(successor(first, new)), Stamp(2_000, 9))
    assert second.counts_from == Stamp(2_000, 9)
    assert second.previous == (Version(schedule=ScheduleSpec(every="1s"), since=WRITE),)
    assert (second.generation, second.anchor_ms) == (7, 1_000)


def test_a_pause_and_a_resume_are_schedule_changes() -> None:
    spec = ScheduleSpec(every="1s")
    first = decode_row("a", encode_row(Job(id="a", schedule=spec)), WRITE)
    paused = decode_row("a", encode_row(successor(first, msgspec.structs.replace(first, paused=True))), Stamp(2_000, 9))
    resumed = decode_row(
        "a", encode_row(successor(paused, msgspec.structs.replace(paused, paused=False))), Stamp(3_000, 11)
    )
    assert resumed.previous == (
        Version(schedule=spec, since=WRITE),
        Version(schedule=None, since=Stamp(2_000, 9)),
    )
    assert resumed.counts_from == Stamp(3_000, 11)


@pytest.mark.parametrize(
    ("mark", "left"),
    [
        (Mark(instant_ms=1_999, jobs_seq=99), 2),
        (Mark(instant_ms=2_000, jobs_seq=8), 2),
        (Mark(instant_ms=2_000, jobs_seq=9), 1),
        (Mark(instant_ms=3_000, jobs_seq=11), 0),
        (None, 2),
    ],
)
def test_versions_that_the_mark_has_passed_are_dropped(mark: Mark | None, left: int) -> None:
    old = Job(
        id="a",
        created_at_ms=1,
        counts_from=Stamp(3_000, 11),
        previous=(Version(since=Stamp(1_000, 7)), Version(since=Stamp(2_000, 9))),
    )
    assert len(successor(old, old, mark).previous) == left


def test_edits_without_a_leader_are_bounded() -> None:
    job = Job(id="a", created_at_ms=1, counts_from=Stamp(1, 1))
    for turn in range(MAX_PREVIOUS):
        job = successor(job, msgspec.structs.replace(job, schedule=ScheduleSpec(every=f"{turn + 1}s")))
        job = msgspec.structs.replace(job, counts_from=Stamp(turn + 2, turn + 2))
    with pytest.raises(ValidationError, match="no leader is planning"):
        successor(job, msgspec.structs.replace(job, paused=True))
    passed = Mark(instant_ms=99, jobs_seq=99)
    assert len(successor(job, msgspec.structs.replace(job, paused=True), passed).previous) == 1


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        ("a", b"nope", "invalid character 'o' in literal null"),
        ("a", b"", "unexpected end of JSON input"),
        ("a", b"[]", "cannot unmarshal array"),
        ("a", b"{}", "job subject is required"),
        ("a", b'{"subject":"b"}', "does not belong to its key"),
        ("_a", b'{"subject":"_a"}', "does not belong to its key"),
        ("a", b'{"subject":"a","natscron":{"reader":3,"generation":"?"}}', "needs reader version 3"),
        ("a", b'{"subject":"a","natscron":{"generation":"x"}}', "generation"),
        ("a", b'{"subject":"a","natscron":[]}', "array"),
        ("a", b'{"subject":"a","schedule":{"fortnightly":1}}', "unknown schedule field"),
        ("a", b'{"subject":"a","headers":{"Nats-X":"y"}}', "reserved"),
        ("a", b"[" * 100_000, "max depth"),
        ("a", b'"\xff"', "UTF-8"),
    ],
)
def test_an_unreadable_row_becomes_an_invalid_job_that_says_why(key: str, value: bytes, reason: str) -> None:
    job = decode_row(key, value, WRITE)
    assert job.invalid is not None
    assert reason in job.invalid
    assert (job.id, job.revision, job.schedule) == (key, 7, None)


@pytest.mark.parametrize(
    "row",
    [
        b'{"subject":"a","schedule":{"every":"","cron":"* * * * *"},"payload":null}',
        b'{"subject":"a","payload":{"Data":"x","TYPE":"t"},"note":"n","paused":true,"labels":{"k":"v"}}',
        b'{"subject":"a","payload":{"reader":5},"natscron":{"reader":1,"counts_from":[4,5],"x":1}}',
        b'{"subject":"a","payload":"\\u00e9","natscron":{"generation":3,"created_at":1,"anchor":2}}',
    ],
)
def test_the_fast_way_of_reading_a_row_gives_what_the_long_way_gives(row: bytes) -> None:
    # A field in another spelling is not for the fast way.
    slow = row.replace(b'"subject"', b'"Subject"')
    assert decode_row("a", row, WRITE) == decode_row("a", slow, WRITE)
    assert decode_row("a", row, WRITE).invalid is None


@given(st.binary(max_size=100), st.text(max_size=20))
def test_decoding_a_row_never_raises(value: bytes, key: str) -> None:
    assert decode_row(key, value, WRITE).revision == 7


@given(st.text(min_size=1, max_size=30))
def test_every_id_has_one_key_and_comes_back(job_id: str) -> None:
    key = key_of(job_id)
    assert id_of(key) == job_id
    assert key.isascii()
    assert not key.startswith("_")


@pytest.mark.parametrize("plain", ["a", "a.b-c/d_e=f", "A.9", "a._b"])
def test_a_plain_subject_is_its_own_key(plain: str) -> None:
    assert key_of(plain) == plain


@pytest.mark.parametrize("odd", ["a..b", ".a", "a.", "a b", "a:b", "\u00e9", "_x", "=b32.me", "$x", "a*", ""])
def test_any_other_id_is_encoded(odd: str) -> None:
    assert key_of(odd).startswith("=b32.")
    assert id_of(key_of(odd)) == odd


def test_a_lease_survives_the_trip() -> None:
    lease = Lease(
        epoch=3,
        mark=Mark(instant_ms=5, jobs_seq=6, note=NoteRef(3, 1)),
        holder=Holder("host", "nonce"),
        takeover_ms=4,
        duration_ms=5_000,
    )
    assert state.decode_lease(state.encode_lease(lease)) == lease
    released = msgspec.structs.replace(lease, holder=None, takeover_ms=None)
    assert state.decode_lease(state.encode_lease(released)) == released


def test_a_record_of_a_newer_version_is_refused() -> None:
    with pytest.raises(MalformedInputError, match="reader version 3"):
        state.decode_lease(b'{"reader":3}')
    with pytest.raises(MalformedInputError, match="reader version 9"):
        state.decode_row(b'{"run_id":"x","reader":9}')
    with pytest.raises(MalformedInputError):
        state.decode_lease(b"leader")


def test_an_open_row_survives_the_trip_also_with_a_treacherous_payload() -> None:
    row = OpenRow(
        run_id="R",
        job_id="a",
        generation=1,
        scheduled_at_ms=5,
        state=OpenState.RETRY,
        delivery=Delivery.REQUEST,
        attempt=2,
        payload={"reader": 9},
    )
    assert state.decode_row(state.encode_row(row)) == row


def test_notes_and_nodes_survive_the_trip() -> None:
    note = state.decode_note(NoteRef(1, 2), state.encode_note(["A", "B"]), 9)
    assert (note.ref, note.run_ids, note.stored_at_ms) == (NoteRef(1, 2), ("A", "B"), 9)
    assert state.decode_note(NoteRef(1, 2), b"", 9).run_ids == ()
    node = Node(instance="h", nonce="n", version="1", started_at_ms=4, status="leading")
    assert state.decode_node(state.encode_node(node)) == node


def test_a_run_record_has_the_public_names() -> None:
    run = Run(
        job="a",
        status=RunStatus.SENT,
        run_id="R",
        scheduled_at_ms=0,
        started_at_ms=1,
        finished_at_ms=2,
        delivery=Delivery.CORE,
        lateness_ms=1,
        duration_ms=1,
        instance="h",
        error="e",
        result="r",
        reason="timeout",
    )
    assert list(run_to_json(run)) == [
        *("run_id", "job", "scheduled_at", "started_at", "finished_at", "status", "reason", "attempt", "trigger"),
        *("delivery", "lateness_ms", "duration_ms", "instance", "error", "result"),
    ]
    assert decode_run(encode_run(run)) == run


def test_a_range_record_has_from_to_and_count_instead() -> None:
    run = Run(job="a", status=RunStatus.SKIPPED, from_ms=0, to_ms=1_000, count=2, trigger=Trigger.CATCHUP)
    shown = run_to_json(run)
    assert (shown["from"], shown["to"], shown["count"]) == ("1970-01-01T00:00:00.000Z", "1970-01-01T00:00:01.000Z", 2)
    assert "run_id" not in shown
    assert "scheduled_at" not in shown
    assert decode_run(encode_run(run)) == run


@pytest.mark.parametrize(
    "data", [b"", b"{}", b"[]", b'{"job":"a","status":"odd"}', b'{"job":"a","status":"sent","to":"x"}']
)
def test_an_unreadable_run_record_is_refused(data: bytes) -> None:
    with pytest.raises(MalformedInputError, match="not a run record"):
        decode_run(data)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1970-01-01T00:00:00Z", 0),
        ("1970-01-01T01:00:00+01:00", 0),
        ("1970-01-01t00:00:00.0001z", 1),
        ("1970-01-01T00:00:00.001000Z", 1),
        ("1970-01-01T00:00:00.9999999999-00:30", 1_801_000),
        ("9999-12-31T23:59:59.999Z", 253_402_300_799_999),
    ],
)
def test_an_instant_with_an_offset_is_read_and_rounded_up(text: str, expected: int) -> None:
    assert text_to_ms(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "2026-11-20T09:00:00",
        "2026-11-20",
        "2026-02-30T00:00:00Z",
        "1969-12-31T23:59:59Z",
        "9999-12-31T23:59:59.9999Z",
        "2026-11-20T24:00:00Z",
        "2026-11-20T23:59:60Z",
        "2026-11-20T09:00:00+24:00",
        "2026-11-20 09:00:00Z",
        "\u0662026-11-20T09:00:00Z",
        "x" * 10_000,
        "",
    ],
)
def test_anything_else_is_not_an_instant(text: str) -> None:
    with pytest.raises(InvalidScheduleTimeError, match="invalid time"):
        text_to_ms(text)


@given(st.integers(min_value=0, max_value=253_402_300_799_999))
def test_instants_come_back_from_their_text(instant_ms: int) -> None:
    assert text_to_ms(ms_to_text(instant_ms)) == instant_ms
