"""Replies as bytes: compact JSON, with ``<``, ``>`` and ``&`` escaped as the Go version escapes them. Pure."""

import json
from typing import Any, Final

import msgspec

__all__ = ["encode", "error_body"]

_encoder: Final = msgspec.json.Encoder()
# Go escapes these so that JSON may stand in HTML; inside JSON they occur in strings only, so bytes can be replaced.
_ESCAPES: Final = (
    (b"<", rb"\u003c"),
    (b">", rb"\u003e"),
    (b"&", rb"\u0026"),
    ("\u2028".encode(), rb"\u2028"),
    ("\u2029".encode(), rb"\u2029"),
)


def encode(value: Any) -> bytes:  # noqa: ANN401 - any JSON value
    """``value`` as JSON bytes, keys in their given order."""
    try:
        raw = _encoder.encode(value)
    except OverflowError:
        # Integers over 64 bits, which a job may carry in a payload: the slow encoder takes them.
        raw = json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
    for char, escape in _ESCAPES:
        if char in raw:
            raw = raw.replace(char, escape)
    return raw


def error_body(text: str, code: int) -> bytes:
    """The body of every error reply."""
    return encode({"error": text, "code": str(code)})
