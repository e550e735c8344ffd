"""A job's payload as the bytes of its messages."""

import base64
import binascii
import json
from typing import Any

import msgspec

from natscron.codec.packed import unpacked
from natscron.errors import ValidationError
from natscron.model import Job

__all__ = ["body_of", "has_own_id", "payload_bytes"]


def body_of(job: Job, run_id: str, payload: Any = msgspec.UNSET) -> bytes:  # noqa: ANN401 - any JSON value
    """The message body of one run; ``payload`` (a trigger's own) stands in for the job's where it is given.

    No payload, null, and an envelope or text without data give the run id. Raises ValidationError for broken base64.
    """
    found = payload_bytes(job.payload if payload is msgspec.UNSET else payload)
    return found or run_id.encode()


def has_own_id(job: Job) -> bool:
    """Whether the job's body is the run id, so that it differs from run to run."""
    return not payload_bytes(job.payload)


def payload_bytes(payload: Any) -> bytes:  # noqa: ANN401 - any JSON value
    """The body for a payload, empty where the run id takes its place. Raises ValidationError for broken base64."""
    payload = unpacked(payload)
    if payload is msgspec.UNSET or payload is None:
        return b""
    if isinstance(payload, str):
        return payload.encode()
    if isinstance(payload, dict) and payload.keys() == {"type", "data"}:
        kind, data = payload["type"], payload["data"]
        if isinstance(kind, str) and isinstance(data, str):
            return _base64(data) if kind == "base64" else data.encode()
    try:
        return msgspec.json.encode(payload)
    except (msgspec.MsgspecError, OverflowError):
        # Integers over 64 bits: the slow encoder takes them.
        return json.dumps(payload, ensure_ascii=False, separators=(",", ":")).encode()


def _base64(data: str) -> bytes:
    try:
        return base64.b64decode(data, validate=True)
    except (binascii.Error, ValueError) as error:
        raise ValidationError(f"payload.data is not base64: {error}") from None
