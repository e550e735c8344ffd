"""How late runs leave: the newest few thousand, for the status."""

from collections import deque
from collections.abc import Sequence
from typing import Final

from natscron.engine.journal import Ready
from natscron.model import Ms, Trigger

_KEPT: Final = 4_096


class Lateness:
    """Milliseconds from due instant to hand-over, of the newest runs."""

    def __init__(self) -> None:
        self._kept: deque[Ms] = deque(maxlen=_KEPT)

    def add(self, runs: Sequence[Ready], sent_ms: Ms) -> None:
        """Runs that were handed over at ``sent_ms``; catch-up runs are late by nature and left out."""
        self._kept.extend([sent_ms - r.due_ms for r in runs if r.trigger is Trigger.SCHEDULE])

    def percentile(self, share: float) -> float | None:
        """The lateness that ``share`` (0 to 1) of the runs do not exceed, in milliseconds; None without runs."""
        if not self._kept:
            return None
        ordered = sorted(self._kept)
        return float(ordered[min(len(ordered) - 1, int(share * len(ordered)))])
