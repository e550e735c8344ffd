"""The server's log: one JSON object a line on standard output, ``{"level","time","msg",...}``.

Only the server process configures logging; library code logs through :mod:`logging` with its fields in ``extra``.

Lines are made in the caller's thread and written by a thread of their own, through a queue of 10,000 lines: a reader of
our output that stalls must not stall the leader. When the queue is full, lines are dropped and the next one that gets
through says how many. When standard output is gone, lines are thrown away.
"""

import logging
import queue
import re
import sys
import threading
import traceback
from typing import BinaryIO, Final

import msgspec

from natscron.codec.times import ms_to_text

__all__ = ["JsonLogHandler", "configure_logging", "redact"]

_QUEUE_LINES: Final = 10_000
_FLUSH_S: Final = 2.0
_LEVELS: Final = {"debug": logging.DEBUG, "info": logging.INFO, "warn": logging.WARNING, "error": logging.ERROR}
_STANDARD: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
_HIDDEN: Final = "***"
# Up to the last @ of the word: a password may hold an @ or a slash, and hiding a host too much beats half a secret.
_CREDENTIALS: Final = re.compile(r"(?<=://)[^\s\"'<>]*@")


def redact(text: str, secrets: tuple[str, ...] = ()) -> str:
    """``text`` without the user, password or token of any URL in it, and without the given ``secrets``."""
    if "://" in text:
        text = _CREDENTIALS.sub(f"{_HIDDEN}@", text)
    for secret in secrets:
        if secret in text:
            text = text.replace(secret, _HIDDEN)
    return text


class JsonLogHandler(logging.Handler):
    """Writes records as JSON lines to ``stream``; ``secrets`` never appear in them. Close it to flush."""

    def __init__(self, stream: BinaryIO, secrets: tuple[str, ...] = ()) -> None:
        super().__init__()
        self._stream = stream
        self._secrets = tuple(secret for secret in secrets if secret)
        self._lines: queue.Queue[bytes | None] = queue.Queue(_QUEUE_LINES)
        self._dropped = 0
        self._encoder = msgspec.json.Encoder(enc_hook=str)
        self._thread = threading.Thread(target=self._write, name="natscron-log", daemon=True)
        self._thread.start()

    def line(self, record: logging.LogRecord) -> bytes:
        """The record as one line of JSON."""
        fields: dict[str, object] = {
            "level": _level(record.levelno),
            "time": ms_to_text(int(record.created * 1000)),
            "msg": self._clean(record.getMessage()),
        }
        for key, value in vars(record).items():
            if key not in _STANDARD:
                fields[key] = self._clean(value)
        if record.exc_info and record.exc_info[1] is not None:
            fields.setdefault("error", self._clean(str(record.exc_info[1]) or type(record.exc_info[1]).__name__))
            fields["stacktrace"] = self._clean("".join(traceback.format_exception(record.exc_info[1])))
        try:
            return self._encoder.encode(fields) + b"\n"
        except (msgspec.MsgspecError, TypeError, ValueError, RecursionError):
            # A field that has no JSON form (a lone surrogate, a number too large) must not cost the line.
            return self._encoder.encode({key: ascii(value) for key, value in fields.items()}) + b"\n"

    def emit(self, record: logging.LogRecord) -> None:
        """Queue the record; never blocks."""
        try:
            line = self.line(record)
            if self._dropped:
                note = {
                    "level": "warn",
                    "time": ms_to_text(int(record.created * 1000)),
                    "msg": "Log lines were dropped",
                }
                self._lines.put_nowait(self._encoder.encode({**note, "count": self._dropped}) + b"\n")
                self._dropped = 0
            self._lines.put_nowait(line)
        except queue.Full:
            self._dropped += 1
        except Exception:  # noqa: BLE001 - what goes wrong in logging must not reach the code that logs
            self.handleError(record)

    def close(self) -> None:
        """Write out what is queued, for at most two seconds."""
        if self._thread.is_alive():
            try:
                self._lines.put(None, timeout=_FLUSH_S)
                self._thread.join(_FLUSH_S)
            except queue.Full:
                pass
        super().close()

    def _clean(self, value: object) -> object:
        if isinstance(value, str):
            return redact(value, self._secrets)
        if value is None or isinstance(value, bool | int | float):
            return value
        if isinstance(value, dict):
            return {str(key): self._clean(item) for key, item in value.items()}
        if isinstance(value, list | tuple | set | frozenset):
            return [self._clean(item) for item in value]
        return redact(str(value), self._secrets)

    def _write(self) -> None:
        while (line := self._lines.get()) is not None:
            try:
                self._stream.write(line)
                if self._lines.empty():
                    self._stream.flush()
            except (OSError, ValueError):
                continue


def _level(number: int) -> str:
    if number >= logging.ERROR:
        return "error"
    if number >= logging.WARNING:
        return "warn"
    return "info" if number >= logging.INFO else "debug"


def configure_logging(level: str, *, secrets: tuple[str, ...] = (), stream: BinaryIO | None = None) -> JsonLogHandler:
    """Send the process's logging to standard output as JSON lines and return the handler, to be closed at the end.

    ``level`` is debug, info, warn or error. ``secrets`` are hidden wherever they appear, as are credentials in URLs.
    """
    handler = JsonLogHandler(stream or sys.stdout.buffer, secrets)
    root = logging.getLogger()
    for old in list(root.handlers):
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(logging.WARNING)
    logging.getLogger("natscron").setLevel(_LEVELS[level])
    return handler
