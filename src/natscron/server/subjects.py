"""Which subjects a job may publish to, and how patterns match subjects. Pure."""

import re
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from natscron.errors import ConfigError, InvalidSubjectError

__all__ = ["API_SUBJECTS", "MAX_SUBJECT_BYTES", "SubjectPolicy", "go_accepts", "match", "matcher"]

MAX_SUBJECT_BYTES: Final = 512
"""Longest subject of a job, in bytes of UTF-8: a key and a log subject are made of it, and a protocol line is 4 KiB."""

API_SUBJECTS: Final = ("jobs.>", "runs.>", "calendars.>", "backfills.>", "cluster.>", "status")
"""What the service answers on, below its prefix."""

# Unicode white space and controls as well: they are legal in NATS and never meant. Lone surrogates have no UTF-8.
_UNPRINTABLE: Final = re.compile(r"[\s\x00-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\ufeff\ud800-\udfff]")
_GO_KEY: Final = re.compile(r"[-/_=.a-zA-Z0-9]+")
_MEMO_LIMIT: Final = 200_000


def go_accepts(subject: str) -> bool:
    """Whether the Go version would take ``subject`` as a key; where not, it says ``nats: invalid key``."""
    return _GO_KEY.fullmatch(subject) is not None and subject[0] != "." and subject[-1] != "."


def matcher(pattern: str) -> Callable[[str], bool]:
    """A test for subjects: ``*`` stands for one token, a last ``>`` for one or more (``a.>`` does not match ``a``).

    Raises InvalidSubjectError if ``pattern`` is not one.
    """
    if not pattern:
        raise InvalidSubjectError("the pattern is empty; give one such as 'orders.>' or '*.daily'")
    if len(pattern) > MAX_SUBJECT_BYTES:
        raise InvalidSubjectError(
            f"the pattern {pattern[:40]!r}... has {len(pattern)} characters; at most {MAX_SUBJECT_BYTES}"
        )
    if bad := _UNPRINTABLE.search(pattern):
        raise InvalidSubjectError(
            f"the pattern {pattern!r} contains {bad.group()!r}; white space and control characters are not allowed"
        )
    tokens = pattern.split(".")
    parts = [_part(pattern, token, last=place == len(tokens) - 1) for place, token in enumerate(tokens)]
    if ">" not in pattern and "*" not in pattern:
        return pattern.__eq__
    full = re.compile(r"\.".join(parts), re.DOTALL).fullmatch
    return lambda subject: full(subject) is not None


def _part(pattern: str, token: str, *, last: bool) -> str:
    """One token of a pattern as a regular expression."""
    if not token:
        raise InvalidSubjectError(f"the pattern {pattern!r} has an empty token; write one name between dots")
    if token == "*":  # noqa: S105 - a token of a subject
        return r"[^.]+"
    if token == ">":  # noqa: S105 - a token of a subject
        if not last:
            raise InvalidSubjectError(f"the pattern {pattern!r} has '>' before its end; it may only come last")
        return r".+"
    if "*" in token or ">" in token:
        raise InvalidSubjectError(
            f"the pattern {pattern!r} has the token {token!r}; a wildcard must be a whole token ('*' or '>')"
        )
    return re.escape(token)


def match(pattern: str, subject: str) -> bool:
    """Whether ``pattern`` matches ``subject``; see :func:`matcher`."""
    return matcher(pattern)(subject)


def _list(patterns: Iterable[str], name: str) -> tuple[tuple[str, Callable[[str], bool]], ...]:
    try:
        return tuple((pattern, matcher(pattern)) for pattern in patterns)
    except InvalidSubjectError as error:
        raise ConfigError(f"option {name}: {error}") from error


class SubjectPolicy:
    """Decides about target subjects; asked when a job is saved, when it is loaded and when it fires.

    ``reserved`` are the service's own subjects as patterns; ``allow`` (empty: everything) and ``deny`` are lists of
    patterns, and ``deny`` wins. Always refused: subjects whose first token begins with ``$``, subjects that begin with
    ``_INBOX``, wildcards, empty tokens, white space and control characters, and subjects over 512 bytes.
    Raises ConfigError for a list entry that is no pattern.
    """

    def __init__(self, *, reserved: Sequence[str] = (), allow: Sequence[str] = (), deny: Sequence[str] = ()) -> None:
        self._reserved = _list(reserved, "reserved")
        self._allow = _list(allow, "allow")
        self._deny = _list(deny, "deny")
        self._memo: dict[str, str | None] = {}

    @classmethod
    def for_service(
        cls, prefix: str, *, log_prefix: str = "", allow: Sequence[str] = (), deny: Sequence[str] = ()
    ) -> "SubjectPolicy":
        """The policy of a service whose API lies under ``prefix``; exactly what it serves is reserved.

        ``log_prefix`` is what run records are published under, ``<prefix>.log`` by default.
        """
        own = [f"{prefix}.{tail}" for tail in API_SUBJECTS]
        return cls(reserved=[*own, f"{log_prefix or prefix + '.log'}.>"], allow=allow, deny=deny)

    def refusal(self, subject: str) -> str | None:
        """Why no job may publish to ``subject`` (value, rule, remedy), or None. The answer is remembered."""
        memo = self._memo
        try:
            return memo[subject]
        except KeyError:
            if len(memo) >= _MEMO_LIMIT:
                memo.clear()
            verdict = memo[subject] = self._judge(subject)
            return verdict

    def check(self, subject: str) -> None:
        """Raise InvalidSubjectError unless a job may publish to ``subject``."""
        why = self.refusal(subject)
        if why is not None:
            raise InvalidSubjectError(why)

    def _judge(self, subject: str) -> str | None:
        return _malformed(subject) or self._forbidden(subject)

    def _forbidden(self, subject: str) -> str | None:
        if subject[0] == "$":
            return f"the subject {subject!r} begins with '$', which is reserved for the NATS server; choose another"
        if subject.startswith("_INBOX"):
            return f"the subject {subject!r} begins with '_INBOX', which is reserved for replies; choose another"
        for pattern, hit in self._reserved:
            if hit(subject):
                return (
                    f"the subject {subject!r} is reserved: the service itself uses {pattern!r}; "
                    "choose another, or give the service another prefix"
                )
        for pattern, hit in self._deny:
            if hit(subject):
                return f"the subject {subject!r} is denied by the configured pattern {pattern!r}; choose another"
        if self._allow and not any(hit(subject) for _, hit in self._allow):
            names = ", ".join(repr(pattern) for pattern, _ in self._allow[:8])
            return f"the subject {subject!r} is not allowed by configuration; allowed are {names}"
        return None


def _malformed(subject: str) -> str | None:
    if not subject:
        return "job subject is required; give the subject that the job publishes to"
    if (size := len(subject.encode(errors="surrogatepass"))) > MAX_SUBJECT_BYTES:
        return f"the subject {subject[:40]!r}... has {size} bytes; at most {MAX_SUBJECT_BYTES}"
    if bad := _UNPRINTABLE.search(subject):
        return (
            f"the subject {subject!r} contains {bad.group()!r}; "
            "white space and control characters are not allowed, separate tokens with dots"
        )
    if "*" in subject or ">" in subject:
        return f"the subject {subject!r} contains a wildcard; a job publishes to one subject, so name it in full"
    if subject[0] == "." or subject[-1] == "." or ".." in subject:
        return f"the subject {subject!r} has an empty token; write one name between dots, none at the ends"
    return None
