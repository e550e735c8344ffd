"""Schedules of the application's own: classes registered under a name, and the guard around what they answer.

A registered class has ``next_after`` and ``last_at_or_before`` of the :class:`~natscron.schedule.Schedule` protocol,
in aware datetimes; nothing else is asked of it. Its answers are checked and its errors never come out: a search that
fails gives None, and the schedule's ``failure`` says why until a search works again.
"""

import datetime as dt
import re
from collections.abc import Callable
from typing import Any, Final, NamedTuple, Protocol

from natscron.errors import InvalidScheduleError, UnknownScheduleKindError
from natscron.model import ScheduleSpec
from natscron.schedule.base import MAX_MS, ScheduleBase, instant_of

__all__ = ["KindSchedule", "UserSchedule", "compile_kind", "forget_schedule", "register_schedule", "registered_spec"]

_NAME: Final = re.compile(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)+")
_MAX_NAME: Final = 64
_MAX_CONFIG: Final = 65_536
_MAX_SHOWN: Final = 200
_EPOCH: Final = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_MILLISECOND: Final = dt.timedelta(milliseconds=1)


class UserSchedule(Protocol):
    """What a class has to offer. Its objects are shared by jobs and threads, and should answer within milliseconds."""

    def next_after(self, t: dt.datetime, /) -> dt.datetime | None:
        """The first slot strictly later than ``t``, which is in UTC; an aware datetime, or None for never."""
        ...

    def last_at_or_before(self, t: dt.datetime, /) -> dt.datetime | None:
        """The last slot not later than ``t``; an aware datetime, or None if there was none."""
        ...


class _Kind(NamedTuple):
    cls: type
    encode: Callable[[Any], str]
    decode: Callable[[str], UserSchedule]


_kinds: dict[str, _Kind] = {}


class _WrongAnswerError(Exception):
    """What the user's class answered breaks the protocol."""


class KindSchedule(ScheduleBase):
    """A schedule of a registered class, its answers checked: aware, on the right side of the question, 1970 to 9999."""

    __slots__ = ("_failure", "_kind", "user")

    def __init__(self, kind: str, user: UserSchedule) -> None:
        self._kind = kind
        self._failure: str | None = None
        self.user = user

    @property
    def failure(self) -> str | None:
        """What the class did wrong at the last search; None if it did nothing wrong."""
        return self._failure

    def next_after_ms(self, t_ms: int) -> int | None:
        """The first slot strictly later than ``t_ms``, or None; None as well if the class fails."""
        t_ms = max(t_ms, -1)
        return None if t_ms >= MAX_MS else self._asked("next_after", t_ms)

    def last_at_or_before_ms(self, t_ms: int) -> int | None:
        """The last slot not later than ``t_ms``, or None; None as well if the class fails."""
        return None if t_ms < 0 else self._asked("last_at_or_before", min(t_ms, MAX_MS))

    def _asked(self, name: str, t_ms: int) -> int | None:
        moment = instant_of(t_ms)
        try:
            slot = self._checked(getattr(self.user, name)(moment))
            if slot is not None and (slot > t_ms) != (name == "next_after"):
                side = "strictly later than it was asked about" if slot <= t_ms else "later than it was asked about"
                raise _WrongAnswerError(  # noqa: TRY301 - what is wrong is told in one place
                    f"answered {instant_of(slot).isoformat()} to {moment.isoformat()}: "
                    + (f"that is not {side}" if slot <= t_ms else f"that is {side}")
                )
        except _WrongAnswerError as error:
            self._failure = f"{self._kind}: {name} {error}"
            return None
        except Exception as error:  # noqa: BLE001 - whatever a user's class raises ends here
            self._failure = f"{self._kind}: {name} raised {_named(error)}"
            return None
        self._failure = None
        return slot

    @staticmethod
    def _checked(answer: object) -> int | None:
        """The slot in milliseconds, a finer one rounded up, so that it is never early."""
        if answer is None:
            return None
        if not isinstance(answer, dt.datetime):
            raise _WrongAnswerError(f"gave a {type(answer).__name__}: it gives an aware datetime or None")
        if answer.utcoffset() is None:
            raise _WrongAnswerError("gave a datetime without a time zone: it gives an aware one")
        slot = -((_EPOCH - answer) // _MILLISECOND)
        if not 0 <= slot <= MAX_MS:
            raise _WrongAnswerError(f"gave {answer.isoformat()}: it lies outside the years 1970 to 9999")
        return slot


def _named(error: Exception) -> str:
    """An error's class and text. Its text is the user's code as well, so even that may fail."""
    try:
        text = str(error)[:_MAX_SHOWN]
    except Exception:  # noqa: BLE001 - as above
        text = ""
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def register_schedule(
    kind: str, cls: type, *, encode: Callable[[Any], str], decode: Callable[[str], UserSchedule]
) -> None:
    """Make a class of schedules known under ``kind``, for every job of this process.

    ``kind`` is two or more words with dots between them, such as ``myapp.lunar``, at most 64 characters. ``encode``
    turns an object of ``cls`` into the text that is stored (at most 65,536 characters) and ``decode`` turns it back.
    Every instance of the service that plans such jobs has to register it: one that does not lists them as invalid and
    leaves them alone. Raises :class:`~natscron.errors.InvalidScheduleError` for a name that is malformed or taken.
    """
    if len(kind) > _MAX_NAME or not _NAME.fullmatch(kind):
        raise InvalidScheduleError(
            f"'{kind[:_MAX_NAME]}' cannot name a kind of schedule: use words of letters, digits, - and _ "
            f"with a dot between them, such as myapp.lunar, at most {_MAX_NAME} characters"
        )
    known = _kinds.get(kind)
    if known is not None and known.cls is not cls:
        raise InvalidScheduleError(
            f"the kind '{kind}' is registered for {known.cls.__qualname__} already: choose another"
        )
    _kinds[kind] = _Kind(cls, encode, decode)


def forget_schedule(kind: str) -> None:
    """Take back :func:`register_schedule`; nothing happens if there is no such kind."""
    _kinds.pop(kind, None)


def registered_spec(schedule: object) -> ScheduleSpec:
    """An object of a registered class as data.

    Raises :class:`~natscron.errors.InvalidScheduleError` if its class is not registered or cannot be encoded.
    """
    for kind, known in _kinds.items():
        if type(schedule) is known.cls:
            try:
                config = known.encode(schedule)
            except Exception as error:  # noqa: BLE001 - a user's code
                raise InvalidScheduleError(f"{kind}: encode raised {_named(error)}") from None
            if not isinstance(config, str):
                raise InvalidScheduleError(f"{kind}: encode gave a {type(config).__name__}: it gives text")
            _bounded(kind, config)
            return ScheduleSpec(kind=kind, config=config)
    raise InvalidScheduleError(
        f"{type(schedule).__qualname__} is not a schedule and not registered as one: see register_schedule"
    )


def _bounded(kind: str, config: str) -> None:
    if len(config) > _MAX_CONFIG:
        raise InvalidScheduleError(f"{kind}: its config is longer than {_MAX_CONFIG} characters")


def compile_kind(kind: str, config: str) -> KindSchedule:
    """The schedule of a registered kind. Raises UnknownScheduleKindError, and InvalidScheduleError for its config."""
    known = _kinds.get(kind)
    if known is None:
        have = f"known here: {', '.join(sorted(_kinds)[:10])}" if _kinds else "none is registered here"
        raise UnknownScheduleKindError(f"unknown kind of schedule '{kind[:_MAX_NAME]}': register its class ({have})")
    _bounded(kind, config)
    try:
        user = known.decode(config)
    except Exception as error:  # noqa: BLE001 - a user's code
        raise InvalidScheduleError(f"{kind}: its config cannot be read: {_named(error)}") from None
    for name in ("next_after", "last_at_or_before"):
        if not callable(getattr(user, name, None)):
            raise InvalidScheduleError(f"{kind}: decode gave a {type(user).__name__}, which has no {name}(t)")
    return KindSchedule(kind, user)
