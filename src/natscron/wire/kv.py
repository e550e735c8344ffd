"""Key-value buckets as the streams they are: keys, subjects, and reads from the stream's leader.

A bucket ``b`` is the stream ``KV_b`` with the subjects ``$KV.b.>``; a key's value is the last message of its subject, a
deletion is a message with ``KV-Operation: DEL`` or ``PURGE``. Reads go to the stream's leader (STREAM.MSG.GET), never
to a replica: a replica may be behind its own leader's acknowledgement.
"""

import base64
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

from natscron.wire.failures import ApiError
from natscron.wire.line import Line
from natscron.wire.reading import Entry

__all__ = [
    "BAD_CONSUMER_SEQUENCE",
    "WRONG_LAST_SEQUENCE",
    "bucket_config",
    "bucket_filter",
    "bucket_stream",
    "cas_headers",
    "delete_headers",
    "entry_of",
    "get_last",
    "is_deleted",
    "is_wrong_sequence",
    "key_of",
    "last_seq",
    "parse_time_ns",
    "purge",
    "subject_of",
]

WRONG_LAST_SEQUENCE: Final = 10071
BAD_CONSUMER_SEQUENCE: Final = 10164
"""What replicated streams answer to the same mistake in some versions."""
NO_MESSAGE: Final = 10037

_DAY_NS: Final = 86_400 * 1_000_000_000
_OPERATION: Final = "KV-Operation"


def bucket_stream(bucket: str) -> str:
    """The stream of a bucket."""
    return f"KV_{bucket}"


def subject_of(bucket: str, key: str) -> str:
    """The subject of a key."""
    return f"$KV.{bucket}.{key}"


def key_of(bucket: str, subject: str) -> str:
    """The key of a subject of that bucket."""
    return subject[len(bucket) + 5 :]


def bucket_filter(bucket: str, keys: str = ">") -> str:
    """The subject filter for keys; ``keys`` may end in a wildcard."""
    return f"$KV.{bucket}.{keys}"


def bucket_config(bucket: str, *, replicas: int = 1, description: str = "") -> dict[str, Any]:
    """The stream configuration of a bucket with history 1, as other NATS clients make it."""
    return {
        "name": bucket_stream(bucket),
        "description": description,
        "subjects": [bucket_filter(bucket)],
        "retention": "limits",
        "max_msgs_per_subject": 1,
        "max_msgs": -1,
        "max_bytes": -1,
        "max_age": 0,
        "max_msg_size": -1,
        "max_consumers": -1,
        "storage": "file",
        "discard": "new",
        "num_replicas": replicas,
        "duplicate_window": 120 * 1_000_000_000,
        "allow_rollup_hdrs": True,
        "deny_delete": True,
        "deny_purge": False,
        "allow_direct": True,
    }


def cas_headers(expected_seq: int | None, others: Mapping[str, str] | None = None) -> dict[str, str]:
    """Headers for a write that is refused (10071) unless the key's last sequence is ``expected_seq`` (0: no key).

    None: whatever is there.
    """
    headers = dict(others or {})
    if expected_seq is not None:
        headers["Nats-Expected-Last-Subject-Sequence"] = str(expected_seq)
    return headers


def delete_headers(expected_seq: int | None = None) -> dict[str, str]:
    """Headers of a deletion marker; its body is empty."""
    return cas_headers(expected_seq, {_OPERATION: "DEL"})


def is_deleted(headers: Mapping[str, str] | None) -> bool:
    """Whether a message of a bucket is a deletion marker (a client's, or the server's for an expired key)."""
    if not headers:
        return False
    return headers.get(_OPERATION) in ("DEL", "PURGE") or "Nats-Marker-Reason" in headers


def is_wrong_sequence(error: BaseException) -> bool:
    """Whether JetStream refused a compare-and-set because the sequence was another."""
    return isinstance(error, ApiError) and error.err_code in (WRONG_LAST_SEQUENCE, BAD_CONSUMER_SEQUENCE)


def entry_of(message: Mapping[str, Any]) -> Entry:
    """A stored message, out of a STREAM.MSG.GET reply."""
    headers: dict[str, str] | None = None
    if message.get("hdrs"):
        headers = {}
        for line in base64.b64decode(message["hdrs"]).split(b"\r\n")[1:]:
            name, colon, value = line.partition(b":")
            if colon:
                headers[name.strip().decode("ascii", "replace")] = value.strip().decode("utf-8", "replace")
    data = base64.b64decode(message.get("data") or "")
    return Entry(message["subject"], headers, data, int(message["seq"]), parse_time_ns(message["time"]))


def parse_time_ns(text: str) -> int:
    """Nanoseconds since 1970 UTC of the server's RFC 3339 text."""
    whole, dot, rest = text.partition(".")
    digits = rest.rstrip("Z").partition("+")[0].partition("-")[0]
    zone = rest[len(digits) :] if dot else ""
    seconds = datetime.fromisoformat(whole + zone if dot else text).astimezone(UTC)
    delta = seconds - datetime(1970, 1, 1, tzinfo=UTC)
    return (delta.days * _DAY_NS) + delta.seconds * 1_000_000_000 + int(digits.ljust(9, "0")[:9] or 0)


async def get_last(line: Line, stream: str, subject: str) -> Entry | None:
    """The last message of a subject, from the stream's leader; a deletion marker is one. None: there is none."""
    try:
        reply = await line.js_request(f"STREAM.MSG.GET.{stream}", {"last_by_subj": subject})
    except ApiError as error:
        if error.err_code == NO_MESSAGE:
            return None
        raise
    return entry_of(reply["message"])


async def last_seq(line: Line, stream: str, *, timeout_s: float = 5.0) -> int:
    """The stream's last sequence, from its leader."""
    info = await line.js_request(f"STREAM.INFO.{stream}", timeout_s=timeout_s)
    return int(info["state"]["last_seq"])


async def purge(
    line: Line, stream: str, subject_filter: str, *, below_seq: int | None = None, keep: int | None = None
) -> int:
    """Remove the messages of a filter, those with sequences below ``below_seq`` or all but the newest ``keep``.

    How many were removed.
    """
    request: dict[str, Any] = {"filter": subject_filter}
    if below_seq is not None:
        if below_seq <= 1:
            return 0  # servers up to 2.14.0 take that for no bound at all
        request["seq"] = below_seq
    if keep is not None:
        request["keep"] = keep
    reply = await line.js_request(f"STREAM.PURGE.{stream}", request)
    return int(reply.get("purged", 0))
