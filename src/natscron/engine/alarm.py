"""Waits for an instant of wall time, or for being rung before it."""

import asyncio

from natscron.clock import Clock
from natscron.model import Ms


class Alarm:
    """One task waits; anyone in the loop rings. A ring while nobody waits is kept for the next wait."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._event = asyncio.Event()
        self.wake_ms: Ms | None = None
        """The instant of the present wait; None while nobody waits."""

    def ring(self) -> None:
        """End the present or the next wait."""
        self._event.set()

    def ring_before(self, at_ms: Ms | None) -> None:
        """Ring if ``at_ms`` comes before the instant waited for."""
        if at_ms is not None and (self.wake_ms is None or at_ms < self.wake_ms):
            self._event.set()

    async def until(self, at_ms: Ms, longest_s: float) -> None:
        """Wait until wall time reaches ``at_ms``, a ring, or ``longest_s`` (wall time may step while we wait)."""
        delay = min(at_ms / 1000 - self._clock.now_s(), longest_s)
        if delay <= 0:
            self._event.clear()
            await asyncio.sleep(0)
            return
        loop = asyncio.get_running_loop()
        timer = loop.call_later(delay, self._event.set)
        self.wake_ms = at_ms
        try:
            await self._event.wait()
        finally:
            timer.cancel()
            self.wake_ms = None
            self._event.clear()
