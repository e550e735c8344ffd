"""What can be set about a worker."""

from typing import Final

import msgspec

from natscron.model import Ms

__all__ = ["SIGNS", "WorkerOptions"]

SIGNS: Final = 6
"""So often within its lease a worker announces itself, and others look for the dead.

So what holds a living worker up for five sixths of its lease (a blocked event loop, a store without a leader) costs
nothing, and a dead one is found a sixth after its lease.
"""


class WorkerOptions(msgspec.Struct, frozen=True, kw_only=True):
    """``id`` is unique to the process and the start; ``instance`` names the process to people.

    ``concurrency``: handlers that run at once here, 1 to 10,000. ``lease_ms``: how long the worker counts as alive
    after each announcement, 1,000 to 600,000; its runs are taken over that long after it died, and a sixth.
    ``calm``: how many times rarer than usual it looks around while nothing happens; 1, but on virtual time.
    """

    id: str
    instance: str
    concurrency: int = 100
    lease_ms: Ms = 8_000
    calm: int = 1
