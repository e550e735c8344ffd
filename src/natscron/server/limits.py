"""How large a job may be: checked at every write, with the value, the limit and the remedy in the error. Pure."""

import json
from typing import Final

import msgspec

from natscron.codec.body import payload_bytes
from natscron.errors import LimitExceededError
from natscron.model import Job

__all__ = ["Limits"]

_HEADER_BYTES: Final = 16 * 1024
_EXTRA_BYTES: Final = 64 * 1024
_LABEL_NAME: Final = 128
_LABEL_VALUE: Final = 1024
_NOTE: Final = 4096


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """Bounds on jobs.

    Fixed besides these: 16 KiB of headers, 128 and 1,024 characters for a label's name and value, 4,096 for the note,
    64 KiB of unknown fields.
    """

    max_jobs: int = 200_000
    max_payload: int = 524_288
    """Bytes of a message's body."""
    max_headers: int = 64
    max_labels: int = 64

    def check(self, job: Job) -> None:
        """Raise LimitExceededError if ``job`` is over a limit; ValidationError for a payload that has no bytes."""
        if job.payload is not msgspec.UNSET:
            self.check_payload(job.payload)
        if job.headers:
            self._check_headers(job.headers)
        if job.labels:
            self._check_labels(job.labels)
        if len(job.note) > _NOTE:
            _refuse("note", len(job.note), "characters", _NOTE, "shorten it")
        if job.extra and (size := _size(job.extra)) > _EXTRA_BYTES:
            _refuse("unknown fields", size, "bytes", _EXTRA_BYTES, "leave them out")

    def check_payload(self, payload: object) -> None:
        """Raise LimitExceededError if the message's body would be too large."""
        size = len(payload_bytes(payload))
        if size > self.max_payload:
            _refuse(
                "payload",
                size,
                "bytes",
                self.max_payload,
                "store the data elsewhere and send a reference, or raise jobs.max_payload",
            )

    def check_count(self, jobs: int) -> None:
        """Raise LimitExceededError if there may not be one job more than ``jobs``."""
        if jobs >= self.max_jobs:
            raise LimitExceededError(
                f"there are {jobs} jobs and the limit is {self.max_jobs}; delete some, or raise jobs.max_jobs"
            )

    def _check_headers(self, headers: dict[str, str]) -> None:
        if len(headers) > self.max_headers:
            _refuse("headers", len(headers), "entries", self.max_headers, "use fewer, or raise jobs.max_headers")
        size = sum(len(name) + len(value.encode(errors="surrogatepass")) + 4 for name, value in headers.items())
        if size > _HEADER_BYTES:
            _refuse("headers", size, "bytes", _HEADER_BYTES, "put the data into the payload")

    def _check_labels(self, labels: dict[str, str]) -> None:
        if len(labels) > self.max_labels:
            _refuse("labels", len(labels), "entries", self.max_labels, "use fewer, or raise jobs.max_labels")
        for name, value in labels.items():
            if not name or len(name) > _LABEL_NAME:
                _refuse(f"label name {name[:40]!r}", len(name), "characters", _LABEL_NAME, "use 1 to that many")
            if len(value) > _LABEL_VALUE:
                _refuse(f"label {name!r}", len(value), "characters", _LABEL_VALUE, "shorten it")


def _refuse(what: str, value: int, unit: str, limit: int, remedy: str) -> None:
    raise LimitExceededError(f"{what}: {value} {unit}, and the limit is {limit}; {remedy}")


def _size(extra: dict[str, object]) -> int:
    try:
        return len(msgspec.json.encode(extra))
    except OverflowError:
        # Integers over 64 bits: the slow encoder takes them.
        return len(json.dumps(extra))
