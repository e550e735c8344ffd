"""Readers of single job fields: a JSON value in, a model value out, or an error that names the field.

Types, ranges, words and durations are checked here. Whether a schedule can be honoured and a subject may be used is
decided above.
"""

import re
from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import Any, Final, TypeAlias, TypeVar

from natscron.codec.gojson import fold, go_type_error
from natscron.codec.times import MAX_MS, text_to_ms
from natscron.durations import parse_duration, parse_duration_ms
from natscron.errors import NatscronError, ValidationError
from natscron.model import (
    DEFAULT_CATCHUP,
    DEFAULT_RETRY,
    CatchUp,
    CatchUpPolicy,
    Delivery,
    Ms,
    Overlap,
    Retry,
    Skip,
)

__all__ = [
    "MAX_ATTEMPTS",
    "MAX_CATCHUP_LIMIT",
    "MAX_CONCURRENCY",
    "MAX_FAILURES",
    "MAX_PRIORITY",
    "MAX_SPAN_MS",
    "MAX_WORDS",
    "catchup",
    "check_headers",
    "concurrency",
    "delivery",
    "duration_ms",
    "handler",
    "headers",
    "instant_ms",
    "labels",
    "note",
    "overlap",
    "pause_after_failures",
    "paused",
    "paused_until",
    "priority",
    "reports",
    "retry",
    "skip",
    "target",
    "text",
    "timeout",
]

JSON: TypeAlias = Any
_Word = TypeVar("_Word", bound=StrEnum)

MAX_SPAN_MS: Final[Ms] = 366 * 86_400_000
"""The longest timeout, backoff, window or grace: a leap year."""
MAX_CATCHUP_LIMIT: Final = 10_000
MAX_ATTEMPTS: Final = 1_000
MAX_FACTOR: Final = 1_000.0
MAX_WORDS: Final = 32
"""The most words of ``retry.only``, and of ``retry.never``."""
MAX_PRIORITY: Final = 100
"""The highest priority; the lowest is its negative."""
MAX_CONCURRENCY: Final = 10_000
MAX_FAILURES: Final = 1_000

_TOKEN: Final = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_FORBIDDEN: Final = re.compile(r"[\r\n\x00]")
_ERROR_WORD: Final = re.compile(r"[A-Za-z0-9_.:-]+\*?")
_MAX_WORD: Final = 128
_RELATIVE: Final = re.compile(r"in\s+(\S+)", re.IGNORECASE)
_PERCENT: Final = re.compile(r"(\d{1,3}(?:\.\d{1,6})?)%", re.ASCII)

_CATCHUP_KEYS: Final = {name: name for name in ("policy", "window", "limit", "grace")}
_RETRY_KEYS: Final = {
    name: name for name in ("attempts", "backoff", "factor", "max_backoff", "jitter", "only", "never")
}
_SKIP_KEYS: Final = {name: name for name in ("from", "until")}


def text(value: JSON, where: str) -> str:
    """A string; null is empty, as in Go."""
    if isinstance(value, str):
        return value
    if value is None:
        return ""
    raise go_type_error(value, where, "string")


def duration_ms(value: JSON, field: str, *, minimum: Ms = 0) -> Ms:
    """Duration text as milliseconds, rounded up; within ``minimum`` and :data:`MAX_SPAN_MS`."""
    if not isinstance(value, str):
        raise ValidationError(f'{field} must be a duration as text, like "30s"; got {_show(value)}')
    try:
        nanos = parse_duration(value)
    except NatscronError as error:
        raise ValidationError(f"{field}: {error}") from None
    millis = -(-nanos // 1_000_000)
    if not minimum <= millis <= MAX_SPAN_MS:
        low = f"at least {minimum}ms" if minimum else "not negative"
        raise ValidationError(f"{field} must be {low} and at most {MAX_SPAN_MS // 3_600_000}h; got {value!r}")
    return millis


def target(value: JSON) -> str:
    """The subject in the older form's ``target``; unknown fields in it are ignored, as they always were."""
    found = _object(value, "JobDefinition.target", "struct")
    return text(fold(found, {"subject": "subject"}).get("subject"), ".target.subject")


def headers(value: JSON) -> dict[str, str]:
    """Message headers, checked by :func:`check_headers`."""
    found = _texts(value, "headers")
    check_headers(found)
    return found


def check_headers(found: Mapping[str, str]) -> None:
    """Raise ValidationError unless every name is an RFC 7230 token outside ``Nats-`` and no value breaks the line."""
    for name, value in found.items():
        if _TOKEN.fullmatch(name) is None:
            raise ValidationError(
                f"header name {name[:64]!r} is not a token (letters, digits and !#$%&'*+-.^_`|~, at least one)"
            )
        if name[:5].lower() == "nats-":
            raise ValidationError(f"header name {name[:64]!r} is reserved: no name may begin with 'Nats-'")
        if _FORBIDDEN.search(value) is not None:
            raise ValidationError(f"header {name[:64]!r} has a carriage return, line feed or NUL in its value")


def labels(value: JSON) -> dict[str, str]:
    """Labels."""
    return _texts(value, "labels")


def delivery(value: JSON) -> Delivery:
    """How runs reach the subject; ``handler`` is no way to reach one."""
    words = [word for word in Delivery if word is not Delivery.HANDLER]
    if value is not None and value != "" and value not in words:
        raise ValidationError(f"delivery must be one of {', '.join(words)}; got {_show(value)}")
    return _word(value, "delivery", Delivery, Delivery.AUTO)


def overlap(value: JSON) -> Overlap:
    """What happens when a run is due while the previous one is going."""
    return _word(value, "overlap", Overlap, Overlap.ALLOW)


def catchup(value: JSON) -> CatchUp:
    """A policy word, or an object with ``policy window limit grace``."""
    if value is None:
        return DEFAULT_CATCHUP
    if isinstance(value, str):
        return CatchUp(policy=_word(value, "catchup", CatchUpPolicy, CatchUpPolicy.LATEST))
    found = fold(_object(value, "JobDefinition.catchup", "struct"), _CATCHUP_KEYS)
    _only(found, _CATCHUP_KEYS, "catchup")
    default = DEFAULT_CATCHUP
    window, limit, grace = found.get("window"), found.get("limit"), found.get("grace")
    return CatchUp(
        policy=_word(found.get("policy"), "catchup.policy", CatchUpPolicy, default.policy),
        window_ms=default.window_ms if window is None else duration_ms(window, "catchup.window", minimum=1),
        limit=default.limit if limit is None else _count(limit, "catchup.limit", MAX_CATCHUP_LIMIT),
        grace_ms=default.grace_ms if grace is None else duration_ms(grace, "catchup.grace"),
    )


def retry(value: JSON) -> Retry:
    """An object with ``attempts backoff factor max_backoff jitter only never``."""
    if value is None:
        return DEFAULT_RETRY
    found = fold(_object(value, "JobDefinition.retry", "struct"), _RETRY_KEYS)
    _only(found, _RETRY_KEYS, "retry")
    default = DEFAULT_RETRY
    attempts, backoff, cap = found.get("attempts"), found.get("backoff"), found.get("max_backoff")
    factor, jitter = found.get("factor"), found.get("jitter")
    return Retry(
        attempts=default.attempts if attempts is None else _count(attempts, "retry.attempts", MAX_ATTEMPTS),
        backoff_ms=default.backoff_ms if backoff is None else duration_ms(backoff, "retry.backoff"),
        factor=default.factor if factor is None else _factor(factor),
        max_backoff_ms=default.max_backoff_ms if cap is None else duration_ms(cap, "retry.max_backoff"),
        jitter=default.jitter if jitter is None else _percent(jitter),
        only=_words(found.get("only"), "retry.only"),
        never=_words(found.get("never"), "retry.never"),
    )


def timeout(value: JSON) -> Ms | None:
    """How long a run may take; None: the default."""
    return None if value is None else duration_ms(value, "timeout", minimum=1)


def paused(value: JSON) -> bool:
    """Whether the job rests."""
    return _flag(value, "JobDefinition.paused")


def instant_ms(value: JSON, field: str, now_ms: Ms | None) -> Ms:
    """An instant as RFC 3339 text with an offset, or ``in 2h``, counted from ``now_ms``.

    Without ``now_ms`` (a stored row) only the former. Raises ValidationError, also outside 1970 to 9999.
    """
    if not isinstance(value, str):
        raise ValidationError(f'{field} must be an instant as text, like "2026-11-20T09:00:00Z"; got {_show(value)}')
    stripped = value.strip()
    relative = _RELATIVE.fullmatch(stripped)
    try:
        if relative is None:
            return text_to_ms(stripped)
        span = parse_duration_ms(relative[1])
    except NatscronError as error:
        raise ValidationError(f"{field}: {error}") from None
    if now_ms is None:
        raise ValidationError(f"{field}: {value!r} counts from now, and this is no place for that: name the instant")
    if span <= 0 or now_ms + span > MAX_MS:
        raise ValidationError(f"{field} must lie in the future, and before the year 10000; got {value!r}")
    return now_ms + span


def paused_until(value: JSON, now_ms: Ms | None) -> Ms | None:
    """When a pause ends by itself; None: it does not. Read as :func:`instant_ms` does."""
    return None if value is None or value == "" else instant_ms(value, "paused_until", now_ms)


def priority(value: JSON) -> int:
    """Of runs due at one instant the higher goes first."""
    return 0 if value is None else _count(value, "priority", MAX_PRIORITY, least=-MAX_PRIORITY)


def reports(value: JSON) -> bool:
    """Whether the job's workers tell how a run ended."""
    return _flag(value, "JobDefinition.reports")


def pause_after_failures(value: JSON) -> int:
    """After how many failed runs in a row the job is paused; 0: never."""
    return 0 if value is None else _count(value, "pause_after_failures", MAX_FAILURES, least=0)


def handler(value: JSON) -> str:
    """The name of the handler that runs the job; of the library, whose own builder checks it."""
    return text(value, "JobDefinition.handler")


def concurrency(value: JSON) -> int:
    """How many of the job's runs may go at once; 0: as its overlap policy says."""
    return 0 if value is None else _count(value, "concurrency", MAX_CONCURRENCY, least=0)


def skip(value: JSON) -> Skip | None:
    """An object with ``from`` and ``until``, both instants."""
    if value is None:
        return None
    found = fold(_object(value, "JobDefinition.skip", "struct"), _SKIP_KEYS)
    _only(found, _SKIP_KEYS, "skip")
    begin, end = (instant_ms(found.get(name), f"skip.{name}", None) for name in _SKIP_KEYS)
    if begin > end:
        raise ValidationError("skip.from must not be later than skip.until")
    return Skip(begin, end)


def note(value: JSON) -> str:
    """Free text."""
    return text(value, "JobDefinition.note")


def _object(value: JSON, where: str, wanted: str) -> dict[str, Any]:
    if isinstance(value, dict):
        return value
    if value is None:
        return {}
    raise go_type_error(value, where, wanted)


def _texts(value: JSON, field: str) -> dict[str, str]:
    found = _object(value, f"JobDefinition.{field}", "map[string]string")
    for name, item in found.items():
        if not isinstance(item, str):
            raise go_type_error(item, f"JobDefinition.{field}.{name[:64]}", "string")
    return found


def _flag(value: JSON, where: str) -> bool:
    if isinstance(value, bool):
        return value
    if value is None:
        return False
    raise go_type_error(value, where, "bool")


def _word(value: JSON, field: str, words: Callable[[str], _Word], default: _Word) -> _Word:
    if value is None or value == "":
        return default
    if isinstance(value, str):
        try:
            return words(value)
        except ValueError:
            pass
    raise ValidationError(f"{field} must be one of {', '.join(type(default))}; got {_show(value)}")


def _count(value: JSON, field: str, most: int, *, least: int = 1) -> int:
    if isinstance(value, int) and not isinstance(value, bool) and least <= value <= most:
        return value
    raise ValidationError(f"{field} must be a whole number from {least} to {most}; got {_show(value)}")


def _words(value: JSON, field: str) -> tuple[str, ...]:
    if value is None:
        return ()
    if not isinstance(value, list) or len(value) > MAX_WORDS:
        raise ValidationError(f"{field} must be a list of at most {MAX_WORDS} words; got {_show(value)}")
    for index, word in enumerate(value):
        if not isinstance(word, str) or len(word) > _MAX_WORD or _ERROR_WORD.fullmatch(word) is None:
            raise ValidationError(
                f"{field}[{index}] must be a word of letters, digits and _.:- (at most {_MAX_WORD}), with a last * for "
                f"any ending; got {_show(word)}"
            )
    return tuple(value)


def _factor(value: JSON) -> float:
    if isinstance(value, int | float) and not isinstance(value, bool) and 1 <= value <= MAX_FACTOR:
        return float(value)
    raise ValidationError(f"retry.factor must be a number from 1 to {MAX_FACTOR:g}; got {_show(value)}")


def _percent(value: JSON) -> float:
    match = _PERCENT.fullmatch(value) if isinstance(value, str) else None
    if match is not None and (share := float(match[1])) <= 100:  # noqa: PLR2004 - per cent
        return share / 100
    raise ValidationError(f'retry.jitter must be a percentage as text from 0% to 100%, like "10%"; got {_show(value)}')


def _only(found: Mapping[str, Any], known: Mapping[str, str], field: str) -> None:
    for name in found:
        if name not in known:
            raise ValidationError(f"unknown field {name[:64]!r} in {field}; known are {', '.join(known)}")


def _show(value: JSON) -> str:
    shown = repr(value)
    return shown if len(shown) <= 64 else shown[:61] + "..."  # noqa: PLR2004 - enough to recognise it
