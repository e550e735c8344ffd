"""What is fuzzed: every reader of input that others write, and the errors that it may raise. Nothing else may come out.

A target takes bytes. Where reading succeeds it goes on to use what was read, and checks what holds of every result.
"""

import base64
import binascii
import contextlib
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, NamedTuple

import click
import msgspec

from natscron.cli.arguments import looks_like_schedule, parse_schedule, payload_of
from natscron.codec.calendar import decode_calendar, encode_calendar, parse_calendar
from natscron.codec.job import job_to_json, merge_job, parse_job
from natscron.codec.keys import id_of, key_of
from natscron.codec.row import decode_row, encode_row
from natscron.codec.run import decode_run, encode_run
from natscron.codec.schedule_text import schedule_from_text, schedule_to_text
from natscron.codec.spec import read_schedule
from natscron.codec.state import decode_lease, decode_node, decode_note, encode_lease
from natscron.codec.state import decode_row as decode_open_row
from natscron.codec.state import encode_row as encode_open_row
from natscron.config import load_settings
from natscron.durations import format_duration, parse_duration
from natscron.errors import (
    ConfigError,
    InvalidCalendarError,
    InvalidScheduleError,
    InvalidScheduleTimeError,
    InvalidSubjectError,
    MalformedInputError,
    StorageError,
    ValidationError,
)
from natscron.model import CalendarSpec, NoteRef, ScheduleSpec, Stamp
from natscron.schedule import Schedule, compile_schedule, format_instant, parse_instant, resolve_spec
from natscron.schedule.base import MAX_MS
from natscron.schedule.calendar import compile_calendar
from natscron.server.subjects import SubjectPolicy, match, matcher
from natscron.wire.consumer import parse_ack
from natscron.wire.kv import parse_time_ns
from natscron.wire.publisher import read_token, safe_token
from natscron.wire.replies import decode_ack, decode_api

NOW: Final = 1_800_000_000_000
ASKED: Final = (-1, 0, NOW, 4_102_444_800_000, MAX_MS - 1)
STAMP: Final = Stamp(seq=7, at_ms=NOW)
OLD: Final = parse_job(b'{"subject":"a.b","schedule":{"cron":"0 9 * * *"},"labels":{"x":"y"}}').job


class Target(NamedTuple):
    """One reader."""

    name: str
    feed: Callable[[bytes], None]
    """Reads the bytes; whatever it raises is a defect."""
    seeds: tuple[bytes, ...]
    """Input that is right, or nearly."""


def text_of(data: bytes) -> str:
    """Any text, lone surrogates included: JSON can carry them."""
    return data.decode("utf-8", "surrogateescape")


def ask(schedule: Schedule) -> None:
    """Whatever was compiled has to answer at any instant."""
    for t in ASKED:
        later, last = schedule.next_after_ms(t), schedule.last_at_or_before_ms(t)
        assert later is None or t < later <= MAX_MS
        assert last is None or 0 <= last <= t
        assert 0 <= schedule.count(t, t + 86_400_000, 5) <= 5


def compile_spec(spec: ScheduleSpec, *, lenient: bool = False) -> None:
    with contextlib.suppress(InvalidScheduleError):
        ask(compile_schedule(spec, anchor_ms=NOW, seed="job", lenient=lenient).schedule)
    with contextlib.suppress(InvalidScheduleError):
        resolve_spec(spec, NOW)


def cron(data: bytes) -> None:
    text, _, tz = text_of(data).partition("\n")
    compile_spec(ScheduleSpec(cron=text, tz=tz or None), lenient=len(data) % 2 == 0)


def one_text(data: bytes) -> None:
    text = text_of(data[1:])
    for name in (("every", "at", "rrule")[data[0] % 3],) if data else ():
        compile_spec(ScheduleSpec(**{name: text}))  # type: ignore[arg-type]  # one of the text fields


def schedule_object(data: bytes) -> None:
    with contextlib.suppress(ValueError, RecursionError):  # not JSON
        value = msgspec.json.decode(data)
        with contextlib.suppress(ValidationError, MalformedInputError):
            spec = read_schedule(value)
            if spec is not None:
                compile_spec(spec)


def schedule_text(data: bytes) -> None:
    kind, _, config = data.decode("utf-8", "replace").partition("\n")
    with contextlib.suppress(InvalidScheduleError):
        spec = schedule_from_text(kind, config)
        compile_spec(spec, lenient=True)
        normal = schedule_to_text(spec)
        assert schedule_to_text(schedule_from_text(*normal)) == normal


def duration(data: bytes) -> None:
    with contextlib.suppress(ValidationError):
        ns = parse_duration(text_of(data))
        assert parse_duration(format_duration(ns)) == ns


def instant(data: bytes) -> None:
    with contextlib.suppress(InvalidScheduleTimeError):
        ms = parse_instant(text_of(data))
        assert parse_instant(format_instant(ms)) == ms


def job(data: bytes) -> None:
    with contextlib.suppress(MalformedInputError, ValidationError):
        parsed = parse_job(data, now_ms=NOW).job
        if parsed.schedule is not None:
            compile_spec(parsed.schedule)
        again = parse_job(msgspec.json.encode(job_to_json(parsed)), now_ms=NOW).job
        assert job_to_json(again) == job_to_json(parsed)
    with contextlib.suppress(MalformedInputError, ValidationError):
        merge_job(OLD, data, now_ms=NOW)


def job_row(data: bytes) -> None:
    row = decode_row("a.b", data, STAMP)
    if row.invalid is None:
        again = decode_row("a.b", encode_row(row), STAMP)
        assert again.invalid is None
        assert job_to_json(again) == job_to_json(row)
    key = text_of(data)
    assert decode_row(key, data, STAMP).id == id_of(key)


def windows(spec: CalendarSpec) -> None:
    """A calendar that compiles says of any instant whether it covers it."""
    with contextlib.suppress(InvalidCalendarError):
        compiled = compile_calendar(spec)
        for t in ASKED:
            window = compiled.covering_ms(t)
            assert window is None or window[0] <= t < window[1]


def ical(data: bytes) -> None:
    windows(CalendarSpec(tz="Europe/Berlin", ical=data.decode("utf-8", "replace")))


def calendar(data: bytes) -> None:
    with contextlib.suppress(MalformedInputError, ValidationError):
        windows(parse_calendar(data).calendar.spec or CalendarSpec())
    row = decode_calendar("_cal.holidays", data, STAMP)
    if row.invalid is None:
        assert decode_calendar("_cal.holidays", encode_calendar(row), STAMP) == row


def state(data: bytes) -> None:
    with contextlib.suppress(MalformedInputError):
        lease = decode_lease(data)
        assert decode_lease(encode_lease(lease)) == lease
    with contextlib.suppress(MalformedInputError):
        row = decode_open_row(data)
        assert decode_open_row(encode_open_row(row)) == row
    with contextlib.suppress(MalformedInputError):
        decode_node(data)
    with contextlib.suppress(MalformedInputError):
        decode_note(NoteRef(3, 1), data, NOW)


def run_record(data: bytes) -> None:
    with contextlib.suppress(MalformedInputError):
        run = decode_run(data)
        assert decode_run(encode_run(run)) == run


def subjects(data: bytes) -> None:
    pattern, _, subject = text_of(data).partition("\n")
    SubjectPolicy(deny=["secret.>"]).refusal(subject)
    if not any("\ud800" <= letter <= "\udfff" for letter in subject):  # JSON's readers let none through
        assert id_of(key_of(subject)) == subject
    id_of(subject)
    with contextlib.suppress(InvalidSubjectError):
        matches = matcher(pattern)(subject)
        assert matches == match(pattern, subject) == by_tokens(pattern.split("."), subject)


def by_tokens(pattern: list[str], subject: str) -> bool:
    tokens = subject.split(".")
    if pattern[-1] == ">":
        if len(tokens) < len(pattern) or not all(tokens[: len(pattern) - 1]):
            return False
        rest = ".".join(tokens[len(pattern) - 1 :])
        return bool(rest) and by_tokens([*pattern[:-1], "*"], ".".join([*tokens[: len(pattern) - 1], "x"]))
    return len(tokens) == len(pattern) and all(
        wanted == token or (wanted == "*" and token != "") for wanted, token in zip(pattern, tokens, strict=True)
    )


_FILE: Final = Path(tempfile.gettempdir()) / f"natscron-fuzz-{os.getpid()}.toml"


def config(data: bytes) -> None:
    _FILE.write_bytes(data)
    try:
        with contextlib.suppress(ConfigError):
            load_settings(file=_FILE)
    finally:
        _FILE.unlink()
    name, _, value = text_of(data).partition("\n")
    with contextlib.suppress(ConfigError):
        load_settings(environ={f"NATSCRON_{name}": value})
    with contextlib.suppress(ConfigError):
        load_settings(overrides={name: value})


def arguments(data: bytes) -> None:
    text = text_of(data)
    looks_like_schedule(text)
    with contextlib.suppress(click.UsageError):
        value = parse_schedule(text)
        with contextlib.suppress(ValidationError, MalformedInputError):
            spec = read_schedule(value)
            if spec is not None:
                compile_spec(spec)
    payload_of(text, None)


class Reply(NamedTuple):
    """A message, as far as reading replies goes."""

    data: bytes
    headers: dict[str, str] | None = None
    header: dict[str, str] | None = None
    subject: str = "_INBOX.x"
    reply: str = ""


def wire(data: bytes) -> None:
    """Lines of the server and of other clients; these say ValueError for what is none, and are caught where read."""
    text = text_of(data)
    with contextlib.suppress(ValueError):
        parse_ack(text)
    with contextlib.suppress(ValueError):
        parse_time_ns(text)
    with contextlib.suppress(ValueError, binascii.Error):
        read_token(text)
    with contextlib.suppress(UnicodeEncodeError):
        assert read_token(safe_token(text)) == text
    reply: Any = Reply(data)
    with contextlib.suppress(StorageError):
        decode_api("$JS.API.INFO", reply)
    decode_ack("a", reply)


def any_of_them(data: bytes) -> None:
    """The first byte chooses the target."""
    if data:
        list(TARGETS.values())[data[0] % len(TARGETS)].feed(data[1:])


_JOB: Final = (
    b'{"subject":"a.b","schedule":{"every":"30s","start_at":"2030-01-01T00:00:00Z","jitter":"5s"},"payload":'
    b'{"type":"json","data":{"x":[1,2.5,null]}},"labels":{"team":"red"},"retry":{"attempts":3,"only":["timeout"]},'
    b'"catchup":{"policy":"all","limit":5},"priority":3,"reports":true,"overlap":"skip","timeout":"1m"}'
)
_ANY: Final = (
    b'{"any":[{"cron":"H 9 * * MON#1"},{"every":"1h"}],"except":[{"cron":"0 9 1 * *"},{"calendar":"x"}],'
    b'"tz":"Europe/Berlin","not_before":"2026-01-01T00:00:00Z","max_runs":3,"jitter":"10s"}'
)
_ICAL: Final = (
    b"BEGIN:VCALENDAR\r\nVERSION:2.0\r\nPRODID:x\r\nBEGIN:VEVENT\r\nUID:1\r\nDTSTAMP:20260101T000000Z\r\n"
    b"DTSTART;VALUE=DATE:20261225\r\nDTEND;VALUE=DATE:20261227\r\nRRULE:FREQ=YEARLY\r\nSUMMARY:x\r\nEND:VEVENT\r\n"
    b"BEGIN:VEVENT\r\nUID:2\r\nDTSTAMP:20260101T000000Z\r\nDTSTART;TZID=Europe/Berlin:20260329T013000\r\n"
    b"DURATION:PT2H\r\nEXDATE;TZID=Europe/Berlin:20260330T013000\r\nEND:VEVENT\r\nEND:VCALENDAR\r\n"
)
_CALENDAR: Final = (
    b'{"calendar":{"tz":"Europe/Berlin","dates":["2026-12-25"],"weekly":[{"days":["sat","sun"]}]},'
    b'"natscron":{"reader":2,"counts_from":[5,6]}}'
)

TARGETS: Final = {
    target.name: target
    for target in (
        Target(
            "cron", cron, (b"0 9 * * *", b"H ~ H(1-9)/2 * ?", b"*/5 8-18 L,15W 1-12/3 FRI-MON,2#1,5L\nEurope/Berlin")
        ),
        Target(
            "one-text",
            one_text,
            (b"01h30m", b"1in 5m", b"12026-01-01T00:00:00.5+01:00", b"2FREQ=WEEKLY;BYDAY=MO,-1FR;COUNT=9"),
        ),
        Target("schedule", schedule_object, (_ANY, b'{"solar":{"event":"sunrise","lat":1,"lon":2}}', b'{"every":1.5}')),
        Target("schedule-text", schedule_text, (b"interval\n30s", b"natscron\n" + _ANY, b"cron\n0 9 * * *")),
        Target("duration", duration, (b"1h30m", b"-1.5us", b"2w3d4h", b"9223372036854775807ns")),
        Target("instant", instant, (b"2026-01-01T00:00:00Z", b"1999-02-29t24:00:00.123456789-00:00")),
        Target("job", job, (_JOB, b'{"job":' + _JOB + b"}", b'{"subject":"a","schedule":' + _ANY + b"}")),
        Target("job-row", job_row, (_JOB, encode_row(OLD), b"=b32.ifca")),
        Target("calendar", calendar, (_CALENDAR, b'{"name":"holidays","dates":["2026-12-25","2026-13-01"]}')),
        Target("ical", ical, (_ICAL,)),
        Target("state", state, (b'{"holder":"a","epoch":3}', b'{"reader":2}', base64.b64encode(b"x" * 26))),
        Target("run", run_record, (b'{"job":"a","run_id":"01J","status":"ok","reader":1}',)),
        Target("subjects", subjects, (b"a.*.>\na.b.c", b"orders.>\norders", b"*\n")),
        Target("config", config, (b'[nats]\nurl = "nats://x"\n', b"LEASE_DURATION\n10s", b"jobs.min_interval\n1ms")),
        Target("arguments", arguments, (b"30s", b"in 5m", _ANY, b"@daily", b"2026-01-01T00:00:00Z")),
        Target(
            "wire",
            wire,
            (
                b"$JS.ACK.S.C.1.2.3.4.5",
                b"2026-01-01T00:00:00.12Z",
                b'{"error":{"code":404}}',
                b'{"stream":"S","seq":5}',
                b"=ifca",
            ),
        ),
    )
}

ALL: Final = Target(
    "all",
    any_of_them,
    tuple(bytes([place]) + seed for place, target in enumerate(TARGETS.values()) for seed in target.seeds),
)

TOKENS: Final = (
    *b"0 1 9 59 60 -1 +5 * ? / - , # L W LW H ~ ( ) @ TZ= CRON_TZ= @every in null true [ ] { } : . > $ _INBOX".split(),
    *b'" , : 1e999 -0 0.1 99999999999999999999 \\ud800 h m s ms us ns d w Z +01:00 T FREQ= BYDAY= COUNT='.split(),
    *(b'"%s":' % name for name in b"until every cron at tz rrule any except kind config calendar solar jitter".split()),
    *(b'"%s":' % name for name in b"reader natscron subject schedule payload data type labels retry".split()),
    *b"Europe/Berlin Pacific/Apia UTC Etc/UTC right/UTC localtime MON sun#5 FEB".split(),
    b" ",
    b"\n",
    b"\x00",
    b"\xff",
    "\u0665\u00b5".encode(),
)
