"""Message schedules: delayed, recurring and sampled messages that nats-server itself holds (ADR-51).

**Who is authoritative.** The stream. A schedule is a message in it, on a subject of its own; what fires, and when, is
the server's affair, and goes on with no process of ours alive. This client keeps no state but for what it knows of the
stream's configuration.

**One subject for each revision**: ``<prefix>.<target>.<id>.<revision>``. The server collects what is due, and stores
the messages a moment later; in between it acknowledges a replacement or a cancellation of the same subject, publishes
the old message all the same, and then clears the subject, the acknowledged replacement with it. A subject that is used
once only loses nothing: what the server clears after firing is the old revision, which is over.

**States of an id**: *nothing*; *a schedule*; *a trace* (a small message without a schedule, which goes by itself after
``remember``); *a schedule and a trace*. The last message under ``<prefix>.<target>.<id>.*`` says which.

* **Create, replace** are one write. The new revision's message says "only if the last sequence under this id is still
  the one I read" (0: nothing) and "purge the subject of the revision before me". The server checks, stores and
  purges in one step, so there is never an instant with none or with two; a writer that was overtaken reads again. A
  crash of the writer leaves the old revision or the new one. An id that was made up needs no check: nobody else has it.
* **Cancel** is one write: a purge of the revision's subject; or, within a minute of its due time (and for recurring
  ones), a trace whose storing purges it. With another message (``publish=``), that message's storing purges it, and is
  refused if the schedule is not the one that was read; a trace follows where it is needed.
* **The race with firing.** Whatever was accepted before the old message was stored has a lower sequence in the stream.
  So a worker asks for the last message under the id, and drops a message whose revision was replaced, or cancelled,
  at a sequence below its own (:mod:`~natscron.messages.fired`). A revision says what it replaced and when, so that
  the one before it is known, too. Where a single message replaces one that may be firing just now, a trace is written
  after it, for the time when the new one has fired and is gone. If the writer dies between these two, and the old
  one was firing, and the new one is gone when the worker looks, then the old message counts as good.
* **Before 2.14** a schedule cannot purge another one. There the new revision is written first, and what is below its
  sequence is purged then. A crash between the two leaves both: ``get`` and ``cancel`` go by the last one, ``list``
  shows both, the old one fires once more, workers drop that message, and the next write to the id clears it away.
* **An uncertain answer** (a time-out, a lost link): the write may have happened. Called again with the same id it
  replaces what it may have written. If that has fired meanwhile, it fires again.
* **The server's own doubles.** A crash of the server between storing a message and clearing its schedule makes a single
  message come twice, and recurring ones repeat up to two and a half minutes: :attr:`Fired.key` is the same for both.
"""

from natscron.messages.bulk import Bulk, BulkResult
from natscron.messages.fired import Fired, read_fired
from natscron.messages.records import At, Handle, Outcome, Publication, Scheduled
from natscron.messages.scheduler import MessageScheduler
from natscron.messages.streamcheck import StreamReport

__all__ = [
    "At",
    "Bulk",
    "BulkResult",
    "Fired",
    "Handle",
    "MessageScheduler",
    "Outcome",
    "Publication",
    "Scheduled",
    "StreamReport",
    "read_fired",
]
