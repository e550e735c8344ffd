"""Where schedules stand: ``<prefix>.<target>.<id>.<revision>``, one subject for each revision of a schedule.

The target's own dots stay, so ``schedules.orders.>`` are all schedules for targets below ``orders``. An id is one token
(anything that is not letters, digits, ``-`` and ``_`` is put into base 32). A revision is a ULID, later than the one
before it whatever the clocks of the two writers say, and never used again.
"""

import re
from typing import Final

import msgspec

from natscron.errors import InvalidSubjectError, ValidationError
from natscron.ids import is_ulid, ulid, ulid_time_ms
from natscron.wire.publisher import read_token, safe_token

__all__ = [
    "MAX_ID",
    "MAX_SUBJECT",
    "Place",
    "Revisions",
    "check_outside",
    "check_prefix",
    "check_subject",
    "next_revision",
    "place_of",
    "same_id",
]

MAX_SUBJECT: Final = 255
"""Bytes of the longest target: with prefix, id and revision it has to fit into a line of the protocol."""
MAX_ID: Final = 128
"""Characters of the longest id."""

_ODD: Final = re.compile(r"[\s\x00-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\ufeff\ud800-\udfff]")
_MEMO_LIMIT: Final = 10_000
_DIGITS: Final = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_PAIRS: Final = tuple(a + b for a in _DIGITS for b in _DIGITS)
_TAIL: Final = "0000"
"""The end of a ULID in which :class:`Revisions` counts; what is before it stays random, 60 bits of it."""
_COUNTED: Final = (1 << 20) - 1
_good: dict[str, None] = {}


def check_subject(subject: str, what: str = "target") -> None:
    """Raise InvalidSubjectError unless ``subject`` can be published to; the text names it as ``what``."""
    if subject in _good:
        return
    if not isinstance(subject, str):
        raise InvalidSubjectError(f"the {what} is a subject as text; got {subject!r:.80}")
    if not subject or len(subject.encode(errors="surrogatepass")) > MAX_SUBJECT:
        raise InvalidSubjectError(f"the {what} {subject[:40]!r} must have 1 to {MAX_SUBJECT} bytes")
    if _ODD.search(subject):
        raise InvalidSubjectError(f"the {what} {subject!r} holds white space or a control character")
    if "*" in subject or ">" in subject:
        raise InvalidSubjectError(f"the {what} {subject!r} holds a wildcard: name one subject in full")
    if "" in subject.split("."):
        raise InvalidSubjectError(f"the {what} {subject!r} has an empty token: one name between dots, none at the ends")
    if subject[0] == "$" or subject.startswith("_INBOX"):
        raise InvalidSubjectError(f"the {what} {subject!r} is reserved by NATS: choose another")
    if len(_good) >= _MEMO_LIMIT:
        _good.clear()
    _good[subject] = None


def check_outside(subject: str, prefix: str, what: str = "target") -> None:
    """Raise InvalidSubjectError for a subject among the schedules', where a message would be taken for one."""
    if subject.startswith(f"{prefix}."):
        raise InvalidSubjectError(
            f"the {what} {subject!r} lies below {prefix!r}, where schedules stand: choose another"
        )


def check_prefix(prefix: str) -> None:
    """Raise InvalidSubjectError unless schedules can stand below ``prefix``."""
    check_subject(prefix, "prefix")


class Place(msgspec.Struct, frozen=True, gc=False):
    """Where one revision of a schedule stands."""

    prefix: str
    target: str
    id: str
    revision: str

    @property
    def subject(self) -> str:
        """Its own subject."""
        return f"{self.prefix}.{self.target}.{safe_token(self.id)}.{self.revision}"

    @property
    def filter(self) -> str:
        """The subjects of all revisions of this schedule."""
        return same_id(self.prefix, self.target, self.id)


def same_id(prefix: str, target: str, id: str) -> str:  # noqa: A002 - the field's name
    """The filter for all revisions of one schedule. Raises InvalidSubjectError and ValidationError."""
    check_subject(target)
    if not isinstance(id, str) or not 0 < len(id) <= MAX_ID:
        raise ValidationError(f"a schedule's id is text of 1 to {MAX_ID} characters; got {id!r:.80}")
    try:
        return f"{prefix}.{target}.{safe_token(id)}.*"
    except UnicodeEncodeError:
        raise ValidationError(f"the id {id!r:.80} cannot be written as UTF-8") from None


def place_of(prefix: str, subject: str) -> Place | None:
    """What a schedule's subject says; None if it is not below ``prefix``, or not of this form."""
    head = f"{prefix}."
    if not subject.startswith(head):
        return None
    tokens = subject[len(head) :].split(".")
    if len(tokens) < 3:  # noqa: PLR2004 - target, id, revision
        return None
    *target, token, revision = tokens
    try:
        return Place(prefix, ".".join(target), read_token(token), revision)
    except ValueError:  # not our base 32: somebody else's subject
        return None


class Revisions:
    """Many revisions of ids that have none yet, cheaper than one by one: a ULID a millisecond, counted on."""

    __slots__ = ("_count", "_head", "_ms")

    def __init__(self) -> None:
        self._ms = -1
        self._head = ""
        self._count = 0

    def next(self, now_ms: int) -> str:
        """One more. ``now_ms``: this host's clock."""
        count = self._count = (self._count + 1) & _COUNTED
        if now_ms != self._ms or not count:
            self._ms = now_ms
            self._head = ulid(now_ms)[: -len(_TAIL)]
        return f"{self._head}{_PAIRS[count >> 10]}{_PAIRS[count & 1023]}"


def next_revision(before: str | None, now_ms: int) -> str:
    """A revision that sorts behind ``before`` and is like no other. ``now_ms``: this host's clock."""
    if before is not None and is_ulid(before):
        return ulid(max(now_ms, ulid_time_ms(before) + 1))
    return ulid(now_ms)
