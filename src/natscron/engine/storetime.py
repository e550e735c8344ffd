"""The time that a leader plans by: its host's, corrected to the store's.

The store stamps every write, and what users change counts from those stamps. A leader whose clock is ahead would
decide slots before the store's clock reaches them, and a change made in between would come too late; successive
leaders with different clocks would fire early or late by the difference. So the offset that each renewal measures is
taken off. It is 0 as long as the store's stamp lies between the attempt's start and end, which is nearly always.
Trust is never read here: it belongs to the host alone.
"""

from natscron.clock import Clock
from natscron.model import Ms


class StoreClock:
    """A host's clock, set to the store's. ``ahead_ms``: how far the host is ahead of the store."""

    def __init__(self, host: Clock, ahead_ms: Ms) -> None:
        self.host = host
        self.ahead_ms = ahead_ms

    @property
    def timer_slack_s(self) -> float:
        """The host's."""
        return self.host.timer_slack_s

    def now_ms(self) -> Ms:
        """The store's time in whole milliseconds since 1970 UTC, as far as it is known."""
        return self.host.now_ms() - self.ahead_ms

    def now_s(self) -> float:
        """The same in seconds."""
        return self.host.now_s() - self.ahead_ms / 1000

    def trust_s(self) -> float:
        """The host's trust time."""
        return self.host.trust_s()
