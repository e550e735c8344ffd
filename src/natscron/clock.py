"""The only module that reads clocks. Everything else is handed a :class:`Clock`.

Two readings, never mixed. *Wall* time says when a slot is due; it may step. *Trust* time says how long ago something
happened on this host; it never steps, and it goes on while the host is suspended where the system offers such a clock
(CLOCK_BOOTTIME on Linux). A lease is trusted by the second and slots are planned by the first.
"""

import time
from typing import Final, Protocol

__all__ = ["Clock", "SystemClock"]

_TRUST_CLOCK: Final[int] = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


class Clock(Protocol):
    """Where time comes from."""

    @property
    def timer_slack_s(self) -> float:
        """How much later than asked for a timer may go off by rounding, in seconds; 0 where timers are exact."""
        ...

    def now_ms(self) -> int:
        """Wall time in whole milliseconds since 1970 UTC, rounded down: never ahead of the instant it names."""
        ...

    def now_s(self) -> float:
        """Wall time in seconds since 1970 UTC, for computing how long to sleep."""
        ...

    def trust_s(self) -> float:
        """Seconds since an arbitrary start, monotonic, counting suspension where the system can."""
        ...


class SystemClock:
    """The host's clocks."""

    timer_slack_s: Final = 0.0015
    """epoll waits whole milliseconds, rounded up, and the kernel and the host add some."""

    def now_ms(self) -> int:
        """Wall time in whole milliseconds since 1970 UTC."""
        return time.time_ns() // 1_000_000

    def now_s(self) -> float:
        """Wall time in seconds since 1970 UTC."""
        return time.time()

    def trust_s(self) -> float:
        """CLOCK_BOOTTIME where there is one, else CLOCK_MONOTONIC, in seconds."""
        return time.clock_gettime(_TRUST_CLOCK)
