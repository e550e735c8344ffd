"""What a run is sent to: the seam between the engine, which decides, and a target, which encodes and judges.

A target never does I/O when it encodes or judges; the leader's link does. So a batch can be encoded ahead of its
instant, and a reply can be judged in the read loop.
"""

from typing import Any, Protocol

import msgspec

from natscron.model import Delivery, Job, Ms, Overlap, QueuedRun, RunStatus, Trigger
from natscron.storage.protocol import Outgoing, Reply


class Dispatch(msgspec.Struct, frozen=True):
    """One attempt of one run, as a target is given it. ``payload`` UNSET: the job's own.

    ``message`` is the attempt whose message this is, or is a copy of: 1 unless a worker reported a failure and the run
    goes out anew, which no stream may take for the message it has. ``replaces`` is the run whose place it takes.
    ``overlap``: a policy of its own, instead of the job's. ``due_ms``: later than the slot with jitter.
    """

    run_id: str
    scheduled_at_ms: Ms
    attempt: int
    trigger: Trigger
    payload: Any = msgspec.UNSET
    message: int = 1
    replaces: str = ""
    overlap: Overlap | None = None
    due_ms: Ms = 0


class Refusal(msgspec.Struct, frozen=True):
    """The run must not be sent. ``reason`` is a :class:`~natscron.model.Reason`; ``error`` says what and why."""

    reason: str
    error: str


class Outcome(msgspec.Struct, frozen=True):
    """What a reply means. ``retry``: trying again may help. Results and errors are bounded by the target.

    ``code`` is the worker's own word for its error, which a retry policy may name.
    """

    status: RunStatus
    reason: str | None = None
    error: str | None = None
    result: str | None = None
    retry: bool = False
    code: str | None = None


class Target(Protocol):
    """Encodes runs and judges replies. Pure with respect to time and network."""

    def delivery_of(self, job: Job) -> Delivery:
        """CORE, JETSTREAM, REQUEST or HANDLER: what the job's ``delivery`` comes to now (``auto`` resolved)."""
        ...

    def admits(self, job: Job) -> str | None:
        """Why this job can never be sent, None if it can; asked when it is loaded. Cheap, and never raises.

        Firing asks again: :meth:`encode` refuses what this refuses.
        """
        ...

    def encode(self, job: Job, dispatch: Dispatch, delivery: Delivery) -> Outgoing | QueuedRun | Refusal:
        """The message, for HANDLER the queued run; never raises for any job: what cannot be encoded is a refusal.

        Its ``token`` is ``<run id>.<attempt>`` for JETSTREAM and REQUEST, "" for CORE.
        """
        ...

    def judge(self, delivery: Delivery, reply: Reply) -> Outcome:
        """What the reply to a JETSTREAM or REQUEST message means. Never raises."""
        ...
