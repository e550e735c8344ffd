"""Windows: spans of time that a calendar covers, and how they are put together."""

from typing import Final, Protocol

__all__ = ["NOWHERE", "MergedWindows", "Windows", "merged"]

_MAX_HOPS: Final = 64
"""How often a window is made longer, each way. A year of weekends and clock changes between holidays needs fewer."""


class Windows(Protocol):
    """The times that a calendar covers: a pure function of an instant. Immutable, knows no clock, never raises."""

    def covering_ms(self, t_ms: int) -> tuple[int, int] | None:
        """The window [start, end) around ``t_ms`` in milliseconds since 1970 UTC; None if nothing covers it.

        Windows that touch or overlap come as one as far as that is cheap. What lies right behind ``end`` may thus be
        covered still, and has to be asked about.
        """
        ...


class _Nowhere:
    """Covers nothing."""

    __slots__ = ()

    def covering_ms(self, t_ms: int) -> tuple[int, int] | None:  # noqa: ARG002 - the answer is always the same
        """None."""
        return None


NOWHERE: Final[Windows] = _Nowhere()
"""Covers nothing."""


class MergedWindows:
    """What any of several covers, merged over at most 64 windows each way."""

    __slots__ = ("_parts",)

    def __init__(self, parts: tuple[Windows, ...]) -> None:
        self._parts = parts

    def covering_ms(self, t_ms: int) -> tuple[int, int] | None:
        """The window around ``t_ms``, or None."""
        found = self._hull(t_ms)
        if found is None:
            return None
        start, end = found
        for _ in range(_MAX_HOPS):
            further = self._hull(end)
            if further is None or further[1] <= end:
                break
            start, end = min(start, further[0]), further[1]
        for _ in range(_MAX_HOPS):
            further = self._hull(start - 1)
            if further is None or further[0] >= start:
                break
            start = further[0]
        return start, end

    def _hull(self, t_ms: int) -> tuple[int, int] | None:
        """From the first start to the last end of the windows around ``t_ms``: each of them holds it."""
        start = end = t_ms
        for part in self._parts:
            found = part.covering_ms(t_ms)
            if found is not None:
                start, end = min(start, found[0]), max(end, found[1])
        return (start, end) if end > t_ms else None


def merged(parts: tuple[Windows, ...]) -> Windows:
    """One that covers what any of ``parts`` covers, in windows as long as is cheap; nothing if there are none."""
    return MergedWindows(parts) if parts else NOWHERE
