"""What the engine hands over for a handler: a queued run. Pure."""

from natscron.engine.target import Dispatch, Outcome, Target
from natscron.engine.timed import timed_by_server
from natscron.model import Delivery, Job, QueuedRun, RunStatus
from natscron.storage.protocol import Reply

__all__ = ["HandlerTarget"]


class HandlerTarget(Target):
    """Puts a job's runs into the run queue, whichever process has its handler."""

    def delivery_of(self, job: Job) -> Delivery:
        """HANDLER, always."""
        del job
        return Delivery.HANDLER

    def admits(self, job: Job) -> str | None:
        """Every job can be queued."""
        del job
        return None

    def encode(self, job: Job, dispatch: Dispatch, delivery: Delivery) -> QueuedRun:
        """The queued run, with the job's policies as they are now, or the run's own."""
        del delivery
        return QueuedRun(
            run_id=dispatch.run_id,
            job=job.id,
            generation=job.generation,
            scheduled_at_ms=dispatch.scheduled_at_ms,
            # A slot that the server times is due when it is, however late anybody comes to it.
            due_ms=(0 if timed_by_server(job) else dispatch.due_ms) or dispatch.scheduled_at_ms,
            trigger=dispatch.trigger,
            handler=job.handler,
            overlap=dispatch.overlap or job.overlap,
            concurrency=job.concurrency,
            priority=job.priority,
            payload=dispatch.payload,
        )

    def judge(self, delivery: Delivery, reply: Reply) -> Outcome:
        """Nothing replies to a queued run."""
        del delivery, reply
        return Outcome(RunStatus.SENT)
