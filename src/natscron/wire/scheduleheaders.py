"""The headers of schedules and of the messages that the server makes from them.

What begins with ``Nats-Schedule`` is the server's language (ADR-51); it strips these, and ``Nats-Expected-*``,
``Nats-Msg-Id``, ``Nats-TTL`` and ``Nats-Rollup``, from what it generates. ``Nats-Cron-*`` is ours and goes through.
"""

from collections.abc import Mapping
from typing import Final

__all__ = [
    "ATTEMPT",
    "CANCELLED",
    "DUE",
    "EMPTY_SAMPLE",
    "LIVE",
    "MANUAL",
    "NEXT",
    "PURGE",
    "REPLACES",
    "ROLLUP",
    "SCHEDULE",
    "SCHEDULER",
    "SCHEDULE_ROLLUP",
    "SCHEDULE_TTL",
    "SOURCE",
    "TARGET",
    "TIMING",
    "TTL",
    "TZ",
    "expect",
    "generated_headers",
    "own_headers",
    "purging",
]

SCHEDULE: Final = "Nats-Schedule"
TARGET: Final = "Nats-Schedule-Target"
SOURCE: Final = "Nats-Schedule-Source"
TZ: Final = "Nats-Schedule-Time-Zone"
SCHEDULE_TTL: Final = "Nats-Schedule-TTL"
SCHEDULE_ROLLUP: Final = "Nats-Schedule-Rollup"
SCHEDULER: Final = "Nats-Scheduler"
"""In a generated message: the subject of its schedule. In a cancelling one: what to cancel."""
NEXT: Final = "Nats-Schedule-Next"
"""In a generated message: when the schedule fires next, or ``purge``. In a cancelling one: ``purge``."""
PURGE: Final = "purge"
TTL: Final = "Nats-TTL"
ROLLUP: Final = "Nats-Rollup"
_EXPECTED_STREAM: Final = "Nats-Expected-Stream"
_EXPECTED_SEQ: Final = "Nats-Expected-Last-Subject-Sequence"
_EXPECTED_SUBJECT: Final = "Nats-Expected-Last-Subject-Sequence-Subject"

DUE: Final = "Nats-Cron-Scheduled-At"
"""When a single message was due, RFC 3339 in milliseconds."""
ATTEMPT: Final = "Nats-Cron-Attempt"
"""Which try this is; 1, the first, is left out."""
TIMING: Final = "Nats-Cron-Timing"
"""A recurring schedule's own words, after ``TZ=Zone `` if it has a zone: from them its slot is found again."""
REPLACES: Final = "Nats-Cron-Replaces"
"""The revision that this one took the place of, and the stream's sequence at which that one was last the newest."""
CANCELLED: Final = "Nats-Cron-Cancelled"
"""Marks the trace that a cancelled or replaced revision leaves for a while: that revision."""
LIVE: Final = "Nats-Cron-Live"
"""On such a trace: the revision that took its place, which is still to be found on its own subject."""
MANUAL: Final = "Nats-Cron-Manual"
"""Marks a message that ``publish_now`` sent: the schedule's subject."""
EMPTY_SAMPLE: Final = "Nats-Cron-Empty-Sample"
"""Marks a sample that was taken while its source had no message."""

_STRIPPED: Final = frozenset({"nats-msg-id", "nats-ttl", "nats-rollup"})
_STRIPPED_STARTS: Final = ("nats-schedule", "nats-expected-")
_SERVERS: Final = ("nats-schedule", "nats-expected-", "nats-cron-")
_SERVERS_OWN: Final = frozenset(
    {
        "nats-msg-id",
        "nats-ttl",
        "nats-rollup",
        "nats-stream",
        "nats-subject",
        "nats-sequence",
        "nats-time-stamp",
        "nats-num-pending",
        "nats-last-sequence",
        "nats-upto-sequence",
        "nats-pin-id",
        "nats-incr",
        "nats-stream-source",
        "nats-marker-reason",
    }
)


def purging(subject: str) -> dict[str, str]:
    """Headers of a message whose storing cancels the schedule on ``subject``, in the same step."""
    return {NEXT: PURGE, SCHEDULER: subject}


def expect(stream: str, seq: int | None = None, subject: str = "") -> dict[str, str]:
    """Headers of a message that only ``stream`` takes.

    With ``seq`` only while the last message on ``subject`` (may hold wildcards) has that sequence; 0: there is none.
    """
    if seq is None:
        return {_EXPECTED_STREAM: stream}
    return {_EXPECTED_STREAM: stream, _EXPECTED_SEQ: str(seq), _EXPECTED_SUBJECT: subject}


def generated_headers(headers: Mapping[str, str] | None) -> dict[str, str]:
    """What of a schedule's headers the server puts into the messages that it makes."""
    return {
        name: value
        for name, value in (headers or {}).items()
        if name.lower() not in _STRIPPED and not name.lower().startswith(_STRIPPED_STARTS)
    }


def own_headers(headers: Mapping[str, str] | None) -> dict[str, str]:
    """What the author of a message had put there, without what the server and this client added."""
    return {
        name: value
        for name, value in (headers or {}).items()
        if name.lower() not in _SERVERS_OWN and not name.lower().startswith(_SERVERS)
    }
