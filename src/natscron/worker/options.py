"""What can be set about a worker."""

import msgspec

from natscron.model import Ms

__all__ = ["WorkerOptions"]


class WorkerOptions(msgspec.Struct, frozen=True, kw_only=True):
    """``id`` is unique to the process and the start; ``instance`` names the process to people.

    ``concurrency``: handlers that run at once here, 1 to 10,000. ``lease_ms``: how long the worker counts as alive
    after each announcement, 1,000 to 600,000; its runs are taken over that long after it died. Announced every third.
    ``calm``: how many times rarer than usual it looks around while nothing happens; 1, but on virtual time.
    """

    id: str
    instance: str
    concurrency: int = 100
    lease_ms: Ms = 10_000
    calm: int = 1
