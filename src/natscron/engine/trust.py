"""How long a leader may believe that it leads. Pure.

``trusted until = start of the last successful renewal attempt + lease - margin``. A candidate takes the lease no
sooner than one lease after it saw the renewal's record, which it cannot see before the attempt began; the margin
covers clocks that run at different speeds. Time is read on a clock that goes on while the host is suspended where
there is one. Where there is none, suspension shows as wall and trust time moving apart, and voids trust.
"""

from typing import Final

import msgspec

from natscron.clock import Clock

DRIFT_MAX_S: Final = 0.25
"""Wall and trust time may move apart by this much within one renewal period."""


class Reading(msgspec.Struct, frozen=True):
    """Both clocks, read together, in seconds."""

    wall_s: float
    trust_s: float


def read(clock: Clock) -> Reading:
    """Read both clocks."""
    return Reading(clock.now_s(), clock.trust_s())


class Trust:
    """Trust in one lease, from one successful renewal to the next."""

    def __init__(self, lease_s: float, acquired: Reading) -> None:
        self.lease_s = lease_s
        self._span_s = lease_s * 0.75
        self._base = acquired

    def renewed(self, started: Reading) -> None:
        """A renewal attempt that began at ``started`` succeeded."""
        self._base = started

    def remaining_s(self, now: Reading) -> float:
        """Seconds of trust left at ``now``; 0 when it ended or is void."""
        passed = now.trust_s - self._base.trust_s
        if abs((now.wall_s - self._base.wall_s) - passed) > DRIFT_MAX_S:
            return 0.0
        return max(0.0, self._span_s - passed)

    def holds(self, now: Reading) -> bool:
        """Whether the leader may still act at ``now``."""
        return self.remaining_s(now) > 0
