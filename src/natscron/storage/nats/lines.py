"""Where runs wait for a claim: one line per handler, in the order of priority, instant and sequence. No I/O, no clock.

A run that waits no more (claimed, dropped, changed) stays in its heap until it comes to the top, or until half of the
heap is such.
"""

import heapq
from collections.abc import Callable, Iterator
from typing import Final

from natscron.model import Ms
from natscron.storage.nats.runrow import RowState, RunRow

__all__ = ["Line", "Open", "pick"]

_STALE_MIN: Final = 256
_ASIDE_MAX: Final = 4_000
"""How many runs of other workers' shares are looked through for one of ours."""


class Open:
    """One version of a run's row, as it was last seen. ``seq`` 0: on its way to the store.

    ``busy``: a write of ours on it is under way. ``since_s``: when it was first seen so, by this host's own clock.
    """

    __slots__ = ("alive", "busy", "key", "marked", "row", "seq", "since_s")

    def __init__(self, row: RunRow, seq: int, since_s: float, key: str) -> None:
        self.row = row
        self.key = key
        self.seq = seq
        self.since_s = since_s
        self.alive = True
        self.busy = False
        self.marked = False
        """Nobody who lives has its handler."""

    @property
    def claimable(self) -> bool:
        """Its instant aside."""
        return self.alive and not self.busy and self.seq > 0 and self.row.state is RowState.PENDING


class Line:
    """What waits for one handler."""

    __slots__ = ("_due", "_later", "_put")

    def __init__(self) -> None:
        self._due: list[tuple[int, Ms, int, Open]] = []
        self._later: list[tuple[Ms, int, Open]] = []
        self._put = 0
        """How many were put since what waits no more was thrown out."""

    def __bool__(self) -> bool:
        return bool(self._due or self._later)

    def put(self, one: Open) -> None:
        """It waits."""
        self._put += 1
        if self._put > max(_STALE_MIN, (len(self._due) + len(self._later)) // 2):
            self._put = 0
            self._due = [entry for entry in self._due if entry[3].claimable]
            self._later = [entry for entry in self._later if entry[2].claimable]
            heapq.heapify(self._due)
            heapq.heapify(self._later)
        heapq.heappush(self._later, (one.row.not_before_ms, one.seq, one))

    def _ripen(self, now_ms: Ms) -> None:
        later = self._later
        while later and (later[0][0] <= now_ms or not later[0][2].claimable):
            at_ms, seq, one = heapq.heappop(later)
            if one.claimable:
                heapq.heappush(self._due, (-one.row.priority, at_ms, seq, one))

    def head(self, now_ms: Ms) -> tuple[int, Ms, int, Open] | None:
        """The first that is due."""
        self._ripen(now_ms)
        due = self._due
        while due and not due[0][3].claimable:
            heapq.heappop(due)
        return due[0] if due else None

    def pop(self) -> None:
        """Take out what :meth:`head` gave."""
        heapq.heappop(self._due)

    def put_back(self, entry: tuple[int, Ms, int, Open]) -> None:
        """It was taken out, and not taken."""
        heapq.heappush(self._due, entry)

    def next_ms(self, now_ms: Ms) -> Ms | None:
        """When the next one is due of those that are not."""
        self._ripen(now_ms)
        return self._later[0][0] if self._later else None

    def all_due(self, now_ms: Ms) -> Iterator[Open]:
        """All that are due, in any order."""
        self._ripen(now_ms)
        return (entry[3] for entry in self._due if entry[3].claimable)


def pick(lines: list[Line], limit: int, now_ms: Ms, mine: Callable[[Open], bool] | None) -> tuple[list[Open], bool]:
    """Up to ``limit`` due runs in their order, of those that are ``mine``; and whether others were passed over."""
    taken: list[Open] = []
    aside: list[tuple[Line, tuple[int, Ms, int, Open]]] = []
    while len(taken) < limit and len(aside) < _ASIDE_MAX:
        firsts = [(entry, line) for line in lines if (entry := line.head(now_ms)) is not None]
        if not firsts:
            break
        entry, line = min(firsts, key=lambda found: found[0][:3]) if len(firsts) > 1 else firsts[0]
        line.pop()
        if mine is None or mine(entry[3]):
            taken.append(entry[3])
        else:
            aside.append((line, entry))
    for line, entry in aside:
        line.put_back(entry)
    return taken, bool(aside)
