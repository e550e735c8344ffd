"""Identifiers: ULIDs (26 characters of Crockford's base 32) and the run ids computed in their shape.

A scheduled run's id is a function of what it is (namespace, job, generation, slot), so that every process and every
attempt after a crash arrives at the same one. Its first 48 bits are the slot in milliseconds, which makes ids sort by
time; the other 80 are a BLAKE2b hash over length-prefixed fields.
"""

import hashlib
import os
from typing import Final

_ALPHABET: Final = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_PAIRS: Final = tuple(a + b for a in _ALPHABET for b in _ALPHABET)
_VALUE: Final = {c: i for i, c in enumerate(_ALPHABET)}
_MAX_MS: Final = (1 << 48) - 1
ULID_LENGTH: Final = 26


def _text(value: int) -> str:
    """26 characters for a 128-bit integer, two at a time (13 pairs of 10 bits)."""
    pairs = _PAIRS
    return (
        pairs[value >> 120]
        + pairs[value >> 110 & 1023]
        + pairs[value >> 100 & 1023]
        + pairs[value >> 90 & 1023]
        + pairs[value >> 80 & 1023]
        + pairs[value >> 70 & 1023]
        + pairs[value >> 60 & 1023]
        + pairs[value >> 50 & 1023]
        + pairs[value >> 40 & 1023]
        + pairs[value >> 30 & 1023]
        + pairs[value >> 20 & 1023]
        + pairs[value >> 10 & 1023]
        + pairs[value & 1023]
    )


def _compose(time_ms: int, entropy: bytes) -> str:
    # Negative instants (before 1970) and those past the 48 bits are clamped: the hash still tells them apart.
    return _text(min(max(time_ms, 0), _MAX_MS) << 80 | int.from_bytes(entropy, "big"))


def _prefixed(fields: tuple[str, ...]) -> bytes:
    """Fields with their lengths before them, so that no two lists of fields give the same bytes."""
    raws = [field.encode() for field in fields]
    return b"".join([len(raw).to_bytes(4, "big") + raw for raw in raws])


def _digest(raw: bytes) -> bytes:
    return hashlib.blake2b(raw, digest_size=10).digest()


def ulid(time_ms: int) -> str:
    """A random ULID with ``time_ms`` (milliseconds since 1970 UTC) as its time part."""
    return _compose(time_ms, os.urandom(10))


def keyed_run_id(time_ms: int, *fields: str) -> str:
    """The id that these fields always give: for idempotency keys and backfills. ``time_ms`` is the time part."""
    return _compose(time_ms, _digest(_prefixed(fields)))


class RunIds:
    """Computes one job's scheduled run ids; keeps what is the same for all of them.

    ``namespace`` is the service's name, ``generation`` the store's sequence of the job's creation: a job removed and
    added again has other ids.
    """

    __slots__ = ("_prefix",)

    def __init__(self, namespace: str, job_id: str, generation: int) -> None:
        self._prefix = _prefixed((namespace, job_id, str(generation)))

    def at(self, slot_ms: int) -> str:
        """The run id of the slot at ``slot_ms`` (milliseconds since 1970 UTC)."""
        raw = b"%d" % slot_ms
        return _compose(slot_ms, _digest(self._prefix + len(raw).to_bytes(4, "big") + raw))


def is_ulid(text: str) -> bool:
    """Whether ``text`` is a ULID."""
    return len(text) == ULID_LENGTH and text[0] <= "7" and all(char in _VALUE for char in text)


def ulid_time_ms(text: str) -> int:
    """The time part of a ULID in milliseconds since 1970 UTC. Raises ValueError if ``text`` is not a ULID."""
    if not is_ulid(text):
        raise ValueError(f"not a ULID: {text!r} (26 characters of Crockford's base 32, the first at most 7)")
    value = 0
    for char in text[:10]:
        value = value << 5 | _VALUE[char]
    return value
