"""Sends what is to be tried (again), each with its open row as its record: messages first, rows last, in one write.

The fire task of a term calls :meth:`Tries.step`. A row that is stored proves that its message went out; a crash in
between leaves the row as it was, and the successor sends again under the same id. Runs of the leader before us whose
deadline passed are looked up in the history, beside the fire task: the lookup may take as long as the store does.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from natscron.engine.flights import Flight, Flights
from natscron.engine.history import HistoryWriter
from natscron.engine.journal import CHUNK_RUNS, Journal
from natscron.engine.storetime import StoreClock
from natscron.engine.target import Dispatch, Refusal, Target
from natscron.errors import LimitExceededError, MalformedInputError
from natscron.model import ANSWERED, Ms, OpenRow, OpenState, Reason, Trigger
from natscron.storage.protocol import LeaderLink, Staged

log = logging.getLogger("natscron.leader")

_PAST: Final = frozenset({Trigger.BACKFILL})
"""Triggers whose runs say nothing of when a job ran last."""


class Tries:
    """Sends flights; see the module's prose."""

    def __init__(  # noqa: PLR0913 - the parts of a term that sending needs
        self,
        *,
        link: LeaderLink,
        journal: Journal,
        flights: Flights,
        target: Target,
        history: HistoryWriter,
        clock: StoreClock,
        epoch: int,
        on_ran: Callable[[Mapping[str, Ms]], None],
        ring: Callable[[], None],
    ) -> None:
        self._link = link
        self._journal = journal
        self._flights = flights
        self._target = target
        self._history = history
        self._clock = clock
        self._epoch = epoch
        self._on_ran = on_ran
        self._ring = ring
        self._beside: set[asyncio.Task[None]] = set()

    async def step(self, now: Ms) -> None:
        """Send what is due now, and look up what another leader may have finished."""
        expired = self._flights.expire(now, CHUNK_RUNS)
        if expired.doubtful:
            task = asyncio.create_task(self._settle(expired.doubtful), name="natscron settle")
            self._beside.add(task)
            task.add_done_callback(self._beside.discard)
        if expired.again:
            await self.hand_over(expired.again, (), now)

    async def hand_over(self, flights: Sequence[Flight], beside: Sequence[OpenRow], now: Ms) -> None:
        """Send these, and store the rows ``beside`` in the same write."""
        staged: list[Staged] = []
        sent: list[Flight] = []
        for flight in flights:
            if not flight.going:
                continue  # a later one of these took its place
            message = self._encoded(flight, now)
            if message is not None:
                staged.append(message)
                sent.append(flight)
                self._flights.sent(flight, now)
        rows = [flight.as_row(self._epoch) for flight in sent]
        # Before the bytes go: an answer may come while the socket is still busy, and must find the row to delete.
        for flight, row in zip(sent, rows, strict=True):
            flight.row = row
        if not rows and not beside:
            return
        stored = await self._journal.commit_rows(staged, [*rows, *beside])
        self._on_ran({flight.job.id: flight.scheduled_ms for flight in sent if flight.trigger not in _PAST})
        cores = [(flight, flight.attempt) for flight in sent if flight.delivery not in ANSWERED]
        if cores:
            stored.add_done_callback(lambda done: self._cores_stored(done, cores))

    def _encoded(self, flight: Flight, now: Ms) -> Staged | None:
        """The message; None if it is refused, which is recorded."""
        delivery = self._target.delivery_of(flight.job)
        if delivery is not flight.delivery:
            flight.delivery, flight.deadline_ms = delivery, 0
        dispatch = Dispatch(
            flight.run_id,
            flight.scheduled_ms,
            flight.attempt,
            flight.trigger,
            flight.payload,
            flight.message,
            flight.replaces,
            flight.overlap,
            flight.due_ms,
        )
        message = self._target.encode(flight.job, dispatch, flight.delivery)
        if isinstance(message, Refusal):
            self._flights.refuse(flight, message.reason, message.error, now)
            return None
        try:
            return self._link.stage(message)
        except (LimitExceededError, MalformedInputError) as error:
            reason = Reason.TOO_LARGE if isinstance(error, LimitExceededError) else Reason.INVALID_JOB
            self._flights.refuse(flight, reason, str(error), now)
            return None

    def _cores_stored(self, stored: "asyncio.Future[None]", cores: list[tuple[Flight, int]]) -> None:
        if stored.cancelled() or stored.exception() is not None:
            return
        now = self._clock.now_ms()
        for flight, attempt in cores:
            if (flight.state, flight.attempt) != (OpenState.RUNNING, attempt) or not flight.going:
                continue  # it ended, or failed, before
            if flight.job.reports:
                self._flights.underway(flight, now)
            else:
                self._flights.delivered(flight, now)

    async def _settle(self, doubtful: list[Flight]) -> None:
        """Ask the history how the runs of the leader before us ended."""
        for flight in doubtful:
            try:
                finished = await self._history.finished(flight.job.id, flight.run_id)
            except Exception as error:  # noqa: BLE001 - whatever it is, the run must not stay open for ever
                log.warning("the history cannot be asked", extra={"run": flight.run_id, "error": str(error)})
                finished = False
            self._flights.settle(flight, finished=finished, now_ms=self._clock.now_ms())
        self._ring()

    def close(self) -> None:
        """The term is over: end what still runs beside it."""
        for task in self._beside:
            task.cancel()
