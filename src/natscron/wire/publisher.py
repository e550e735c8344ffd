"""Messages as protocol bytes, made ahead of their instant. Pure: no I/O, no clock.

Nothing that stands in a header or a subject can end its line: what could is refused.
"""

import base64
import re
from collections.abc import Iterable
from typing import Final

from natscron.errors import MalformedInputError

__all__ = ["encode", "frame", "read_token", "safe_token"]

_SAFE: Final = re.compile(r"[A-Za-z0-9_-]+")
_MARK: Final = "="


def encode(subject: str, headers: Iterable[tuple[str, str]], body: bytes, reply: str = "") -> bytes:
    """The bytes that publish one message. Raises MalformedInputError for text that would break the protocol."""
    if not subject or " " in subject or not subject.isprintable():
        raise MalformedInputError(f"not a subject to publish on: {subject!r}")
    lines = [f"{name}: {value}\r\n" for name, value in headers]
    if not lines:
        return b"".join((f"PUB {subject} {reply} {len(body)}\r\n".encode(), body, b"\r\n"))
    text = "NATS/1.0\r\n" + "".join(lines) + "\r\n"
    if not (text.count("\r") == text.count("\n") == len(lines) + 2) or "\0" in text:
        raise MalformedInputError(f"a header of the message on {subject} holds a line break or NUL")
    return frame(subject, text.encode(), body, reply)


def frame(subject: str, block: bytes, body: bytes, reply: str) -> bytes:
    """The same for a whole block of headers, ``NATS/1.0`` to the empty line. Nothing is checked: the caller has."""
    size = len(block)
    return b"".join((f"HPUB {subject} {reply} {size} {size + len(body)}\r\n".encode(), block, body, b"\r\n"))


def safe_token(text: str) -> str:
    """``text`` as one token of a subject; :func:`read_token` finds the way back."""
    if _SAFE.fullmatch(text):
        return text
    return _MARK + base64.b32encode(text.encode()).decode().rstrip("=").lower()


def read_token(token: str) -> str:
    """The text of a token made by :func:`safe_token`."""
    if not token.startswith(_MARK):
        return token
    text = token[1:].upper()
    return base64.b32decode(text + "=" * (-len(text) % 8)).decode()
