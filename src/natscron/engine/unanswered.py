"""Cursors whose schedule failed to answer: a class of the application's own raised, or said what cannot be. Pure.

Nobody knows what slots such a job has, and its next answer may be right again. So it is told of as soon as a second
question fails, too, and asked again after a second, then after longer and longer, up to a minute. When it answers, what
was due meanwhile is decided already and becomes one range; what is due later runs. Others are not held up: so many are
asked at a time and no more.
"""

import heapq
from collections.abc import Callable
from typing import Final

import msgspec

from natscron.engine.cursors import Cursor
from natscron.model import Ms, Reason
from natscron.policy.catchup import COUNT_CAP, Skipped

__all__ = ["ASKS", "Unanswered"]

ASKS: Final = 64
"""Cursors that are asked at a time."""
_WAIT_MS: Final = 1_000
_WAIT_MAX_MS: Final = 60_000


class _Question(msgspec.Struct):
    cursor: Cursor
    after: Ms
    """What is due later than this is not known."""
    wait_ms: Ms = 0
    """How long it waits after the failures so far; 0: asked once."""


class Unanswered:
    """Who has not answered, and when it is asked again."""

    def __init__(self) -> None:
        self._heap: list[tuple[Ms, int, _Question]] = []
        self._order = 0

    def __len__(self) -> int:
        return len(self._heap)

    def add(self, cursor: Cursor, after: Ms) -> None:
        """``cursor`` failed to say what is due after ``after``: it is asked again at the next chance."""
        self._ask_at(after, _Question(cursor, after))

    def clear(self) -> None:
        """Forget all."""
        self._heap.clear()

    def decided(self, instant_ms: Ms) -> None:
        """Another leader decided what is due up to ``instant_ms``; the cursors that nobody needs are forgotten."""
        kept = [item for item in self._heap if item[2].cursor.alive]
        for _, _, question in kept:
            question.after = max(question.after, instant_ms)
        self._heap = kept
        heapq.heapify(self._heap)

    def ask(
        self, now_ms: Ms, decided: Callable[[Cursor], Ms], push: Callable[[Cursor, Ms], None]
    ) -> list[tuple[Cursor, Skipped]]:
        """Ask those whose time has come, ``push`` what answers behind what is ``decided``, and say what did not run.

        A range without a slot (``count`` 0) says that a job has begun to fail.
        """
        told: list[tuple[Cursor, Skipped]] = []
        asked = 0
        while asked < ASKS and self._heap and self._heap[0][0] <= now_ms:
            question = heapq.heappop(self._heap)[2]
            cursor = question.cursor
            if not cursor.alive:
                continue
            asked += 1
            begin = max(question.after, decided(cursor))
            cursor.next_after(begin)
            if cursor.slots.failure is not None:
                if not question.wait_ms:
                    told.append((cursor, Skipped(now_ms, now_ms, 0, Reason.INVALID_JOB)))
                question.wait_ms = min(max(question.wait_ms * 2, _WAIT_MS), _WAIT_MAX_MS)
                self._ask_at(now_ms + question.wait_ms, question)
                continue
            if (skipped := _between(cursor, question.after, begin)) is not None:
                told.append((cursor, skipped))
            push(cursor, begin)
        return told

    def _ask_at(self, at_ms: Ms, question: _Question) -> None:
        self._order += 1
        heapq.heappush(self._heap, (at_ms, self._order, question))


def _between(cursor: Cursor, after: Ms, until: Ms) -> Skipped | None:
    """What is due in (after, until]; None if nothing is, or if the schedule fails again."""
    first, last = cursor.next_after(after), cursor.last_at_or_before(until)
    if first is None or last is None or not after < first <= last:
        return None
    count = max(1, cursor.count(after, until, COUNT_CAP))
    return Skipped(cursor.slot_of(first), cursor.slot_of(last), count, Reason.INVALID_JOB)
