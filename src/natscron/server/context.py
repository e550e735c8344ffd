"""What the API's calls have in common; put together once, in ``app``."""

from collections.abc import Callable
from dataclasses import dataclass

from natscron.clock import Clock
from natscron.engine.freshness import Freshness
from natscron.engine.target import Target
from natscron.model import Job
from natscron.server.admission import Admission
from natscron.server.deciding import Deciding
from natscron.storage.protocol import Storage

__all__ = ["Context"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Context:
    """One service, seen from its API."""

    name: str
    instance_id: str
    store: Storage
    engine: Deciding
    target: Target
    admission: Admission
    clock: Clock
    fresh: Freshness
    max_reply: Callable[[], int]
    """The most bytes that one reply may have now."""
    on_saved: Callable[[Job], None]
    """Told of each job that was written."""
    notes: Callable[[], list[str]]
    """What an operator should know besides what the engine says."""
    keeps: str = ""
    """What the history keeps, in words, such as "100 records per job, 7 days"."""
