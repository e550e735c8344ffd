"""Waits for an instant of wall time, or for being rung before it.

The system's timers round up to a millisecond or so. Where instants lie far apart, the last of a wait is spent in
looping instead, so that a run leaves within a fraction of a millisecond; how much may be spent so is bounded, as a
share of the time that passes, and under a load of many instants a second the timers' own rounding has to do.
"""

import asyncio
from typing import Final

from natscron.clock import Clock
from natscron.model import Ms

_LOOPING_SHARE: Final = 0.02
_LOOPING_MAX_S: Final = 0.005


class Alarm:
    """One task waits; anyone in the loop rings. A ring while nobody waits is kept for the next wait."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._event = asyncio.Event()
        self.wake_ms: Ms | None = None
        """The instant of the present wait; None while nobody waits."""
        self._may_loop_s = 0.0
        self._earned_s = clock.trust_s()

    def ring(self) -> None:
        """End the present or the next wait."""
        self._event.set()

    def ring_before(self, at_ms: Ms | None) -> None:
        """Ring if ``at_ms`` comes before the instant waited for."""
        if at_ms is not None and (self.wake_ms is None or at_ms < self.wake_ms):
            self._event.set()

    async def until(self, at_ms: Ms, longest_s: float) -> None:
        """Wait until wall time reaches ``at_ms``, a ring, or ``longest_s`` (wall time may step while we wait)."""
        left = at_ms / 1000 - self._clock.now_s()
        delay = min(left, longest_s)
        if delay <= 0:
            self._event.clear()
            await asyncio.sleep(0)
            return
        slack = self._clock.timer_slack_s
        if slack and left <= longest_s and self._looping_s() > slack:
            delay = max(delay - slack, 0.0)
        else:
            slack = 0.0
        due = asyncio.Event()
        timer = asyncio.get_running_loop().call_later(delay, self._expire, due)
        self.wake_ms = at_ms
        try:
            await self._event.wait()
            if slack and due.is_set():
                await self._loop_until(at_ms, slack)
        finally:
            timer.cancel()
            self.wake_ms = None
            self._event.clear()

    def _expire(self, due: asyncio.Event) -> None:
        due.set()
        self._event.set()

    def _looping_s(self) -> float:
        """How long may be spent in looping by now."""
        now_s = self._clock.trust_s()
        earned = (now_s - self._earned_s) * _LOOPING_SHARE
        self._may_loop_s, self._earned_s = min(self._may_loop_s + earned, _LOOPING_MAX_S), now_s
        return self._may_loop_s

    async def _loop_until(self, at_ms: Ms, longest_s: float) -> None:
        """Let others run, and look again, until the instant or a ring."""
        begun_s = self._clock.trust_s()
        self._event.clear()
        while not self._event.is_set() and self._clock.now_s() * 1000 < at_ms:
            if self._clock.trust_s() - begun_s > longest_s:
                break  # wall time was set back
            await asyncio.sleep(0)
        self._may_loop_s -= self._clock.trust_s() - begun_s
