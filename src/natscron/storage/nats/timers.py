"""Timers that nats-server holds: message schedules in a stream of their own, and what they fire.

Who is authoritative: the stream. A job's timer is the one message on ``<prefix>.timers.<job key>.<since>``; a timer is
never changed, for a replacement races with a firing, and an acknowledged one may be lost. It fires to
``<prefix>.runs.<job key>``, where only the newest firing of a job is kept: it stands for all before it, since the
leader goes through a job's slots by its schedule. So the stream holds at most two messages of a job, however long
nobody looks.

The stream is made when the first timer is laid. A server that knows no message schedules would take them as ordinary
messages and fire none, so its version is asked first: single instants need nats-server 2.12, recurring ones 2.14.
"""

import logging
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from natscron.codec import id_of, key_of, ms_to_text, text_to_ms
from natscron.errors import ConfigError, InvalidScheduleError, NatscronError, ServerTooOldError
from natscron.model import Timer
from natscron.storage.nats.library_options import LibraryOptions
from natscron.storage.nats.provision import ensure
from natscron.storage.timers import Firing, LaidTimer, TimerSink
from natscron.wire import scheduleheaders as h
from natscron.wire.connection import Connection
from natscron.wire.consumer import Watch
from natscron.wire.failures import ApiError
from natscron.wire.kv import cas_headers, is_wrong_sequence, parse_time_ns, purge
from natscron.wire.levels import Needs, ServerLevel, level_of, require
from natscron.wire.reading import read_range
from natscron.wire.streams import pick_replicas
from natscron.wire.window import PublishWindow

__all__ = ["NatsTimers"]

logger = logging.getLogger("natscron.storage")

_NOT_FOUND: Final = 10059
_NOT_TAKEN: Final = frozenset({10189, 10190, 10223})
"""A pattern, a target or a zone that the server does not know: waiting does not mend it."""


class NatsTimers:
    """See :class:`natscron.storage.timers.TimerStore`."""

    def __init__(self, connection: Connection, options: LibraryOptions, window: PublishWindow) -> None:
        self._connection = connection
        self._options = options
        self._window = window
        self._level: ServerLevel | None = None
        """Of the server that leads the stream, once that is known to be as it must be."""

    async def check_timers(self, *, recurring: bool) -> None:
        """See the role. What was found good enough is not looked at again."""
        needs = Needs.FULL if recurring else Needs.SINGLE
        if self._level is not None and self._level.level >= needs:
            return
        greeting = self._connection.server_info
        level, version = greeting.get("api_lvl", 0), str(greeting.get("version", ""))
        self._require(ServerLevel(level if isinstance(level, int) else 0, version), needs)
        found = await ensure(self._connection, self._wanted(), self._options.provision_timeout_s, 0.0)
        self._level = self._checked(found, version)
        self._require(self._level, needs)

    def _wanted(self) -> dict[str, Any]:
        options = self._options
        return {
            "name": options.timer_stream,
            "subjects": [f"{options.timer_prefix}.runs.>", f"{options.timer_prefix}.timers.>"],
            "retention": "limits",
            "storage": "file",
            "num_replicas": options.replicas or pick_replicas(self._connection),
            "max_msgs_per_subject": 1,
            "max_age": 0,
            "discard": "old",
            "allow_direct": True,
            "allow_rollup_hdrs": True,
            "allow_msg_ttl": True,
            "allow_msg_schedules": True,
        }

    def _checked(self, found: Mapping[str, Any], version: str) -> ServerLevel:
        options, wanted = self._options, self._wanted()
        wrong = [
            f"{name} {found.get(name)!r}"
            for name, value in (("retention", "limits"), ("max_msgs_per_subject", 1), ("max_age", 0))
            if found.get(name, 0) != value
        ]
        if sorted(found.get("subjects") or []) != sorted(wanted["subjects"]):
            wrong.append(f"subjects {', '.join(found.get('subjects') or [])}")
        if int(found.get("max_msgs", -1)) > 0:
            wrong.append(f"max_msgs {found['max_msgs']}")
        if wrong:
            raise ConfigError(
                f"stream {options.timer_stream} exists and is not one for timers ({'; '.join(wrong)}): give "
                "LibraryOptions another timer_stream and timer_prefix, or remove it if nobody needs it"
            )
        level = level_of(found, version)
        if not found.get("allow_msg_schedules"):
            level = ServerLevel(0, level.version)
        self._require(level, Needs.SINGLE)
        return level

    def _require(self, level: ServerLevel, needs: Needs) -> None:
        try:
            require(level, needs, self._options.timer_stream)
        except ServerTooOldError as error:
            raise ServerTooOldError(
                f"timer '{Timer.SERVER}': {error}; update it, or use timer='{Timer.LEADER}'"
            ) from None

    async def has_timers(self) -> bool:
        """Whether the stream is there. One of that name that the Go library made is another."""
        try:
            info = await self._connection.js_request(f"STREAM.INFO.{self._options.timer_stream}")
        except ApiError as error:
            if error.err_code == _NOT_FOUND:
                return False
            raise
        return f"{self._options.timer_prefix}.timers.>" in (info["config"].get("subjects") or [])

    async def lay_timer(self, timer: LaidTimer) -> None:
        """See the role. Raises what :meth:`check_timers` raises."""
        await self.check_timers(recurring=timer.at_ms is None)
        key = key_of(timer.job)
        prefix = self._options.timer_prefix
        headers = {h.SCHEDULE: timer.text, h.TARGET: f"{prefix}.runs.{key}", **cas_headers(0)}
        if timer.tz:
            headers[h.TZ] = timer.tz
        if timer.at_ms is not None:
            headers[h.DUE] = ms_to_text(timer.at_ms)
        body = msgspec.json.encode({"job": timer.job})
        try:
            future = await self._window.publish(f"{prefix}.timers.{key}.{timer.since}", body, headers)
            ack = await future
        except ApiError as error:
            if is_wrong_sequence(error):
                return
            if error.err_code in _NOT_TAKEN:
                raise InvalidScheduleError(
                    f"nats-server does not take the timer {timer.text!r} {timer.tz}of job {timer.job!r}: "
                    f"{error.description} ({error.err_code})"
                ) from error
            raise
        await purge(self._connection, self._options.timer_stream, f"{prefix}.timers.{key}.*", below_seq=ack.seq)

    async def take_timers(self, job: str, since: int | None = None) -> None:
        """See the role."""
        which = "*" if since is None else str(since)
        subject = f"{self._options.timer_prefix}.timers.{key_of(job)}.{which}"
        await purge(self._connection, self._options.timer_stream, subject)

    async def read_timers(self) -> list[LaidTimer]:
        """See the role."""
        head = f"{self._options.timer_prefix}.timers."
        found: list[LaidTimer] = []
        for entry in await read_range(self._connection, self._options.timer_stream, [head + ">"]):
            place = _place(entry.subject, head)
            if place is not None:
                words = entry.headers or {}
                found.append(LaidTimer(*place, words.get(h.SCHEDULE, ""), words.get(h.TZ, ""), _instant(words)))
        return found

    async def settle_firings(self, seq: int) -> None:
        """See the role."""
        options = self._options
        await purge(self._connection, options.timer_stream, f"{options.timer_prefix}.runs.>", below_seq=seq + 1)

    def watch_firings(self, sink: TimerSink) -> Watch:
        """See the role."""
        options = self._options
        reader = _Reader(sink, options.timer_prefix)
        return Watch(self._connection, options.timer_stream, [f"{options.timer_prefix}.runs.>"], reader)


class _Reader:
    """Reads firings out of the stream's messages; a :class:`~natscron.wire.consumer.WatchSink`."""

    def __init__(self, sink: TimerSink, prefix: str) -> None:
        self._sink = sink
        self._runs = f"{prefix}.runs."
        self._timers = f"{prefix}.timers."

    def on_reset(self) -> None:
        """Firings that were settled meanwhile are nobody's concern."""

    def on_complete(self, seq: int) -> None:
        """Nothing depends on having seen all."""

    def on_message(
        self, subject: str, headers: dict[str, str] | None, data: bytes, seq: int, timestamp_ns: int
    ) -> None:
        """A firing, or something that somebody put there."""
        del data, timestamp_ns
        words = headers or {}
        place = _place(words.get(h.SCHEDULER, ""), self._timers)
        if place is None or key_of(place[0]) != subject.removeprefix(self._runs):
            logger.warning("message %d on %s is no firing of a timer and is left out", seq, subject)
            place = (subject, 0)
        self._sink.fired(Firing(*place, seq, _next(words), _instant(words)))


def _place(subject: str, head: str) -> tuple[str, int] | None:
    """Job and write out of a timer's subject; None if it is none."""
    key, dot, since = subject.removeprefix(head).rpartition(".")
    if not subject.startswith(head) or not dot or not (since.isascii() and since.isdigit()):
        return None
    try:
        return id_of(key), int(since)
    except (NatscronError, ValueError):
        return None


def _next(words: Mapping[str, str]) -> int | None:
    text = words.get(h.NEXT, "")
    if not text or text == h.PURGE:
        return None
    try:
        return parse_time_ns(text) // 1_000_000
    except (ValueError, OverflowError):
        return None


def _instant(words: Mapping[str, str]) -> int | None:
    try:
        return text_to_ms(words[h.DUE]) if h.DUE in words else None
    except NatscronError:
        return None
