"""The run queue's role, put together: claims, endings, workers, and what callers ask of it.

Who does what: the leader queues runs (:mod:`natscron.storage.nats.queue_link`), workers claim them
(:mod:`natscron.storage.nats.claims`) and end them (:mod:`natscron.storage.nats.endings`), each by single steps on the
runs' rows (:mod:`natscron.storage.nats.steps`).
"""

import asyncio
import os
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

import msgspec

from natscron.clock import Clock
from natscron.codec import key_of
from natscron.errors import StorageError
from natscron.model import Claim, Reason, Run, WorkerInfo
from natscron.storage.nats.claims import Before, Claims
from natscron.storage.nats.dead import DeadLetters
from natscron.storage.nats.endings import REDRIVABLE, TRIES, Endings
from natscron.storage.nats.lines import Open
from natscron.storage.nats.roster import Announcement, encode_announcement
from natscron.storage.nats.runrow import RowState, RunRow, decode_run_row, encode_run_row
from natscron.storage.nats.state import MARKER_TTL, TTL
from natscron.storage.nats.steps import Steps
from natscron.wire.kv import cas_headers, delete_headers, get_last, is_deleted, is_wrong_sequence

__all__ = ["NatsQueue"]

_PAUSE_S: Final = 0.01
_UNHANDLED_S: Final = 5.0
"""A due run that nobody could take for so long is shown so, also by a process that does not lead."""
_ANNOUNCED_S: Final = 20
_AGAIN_S: Final = 0.5


class NatsQueue:
    """The RunQueue role, but for what reads the history."""

    def __init__(self, steps: Steps, dead: DeadLetters, clock: Clock, before: Before) -> None:
        self.steps = steps
        self._view = steps.view
        self._window = steps.window
        self._options = steps.options
        self._dead = dead
        self._clock = clock
        self._node = os.urandom(8).hex()
        endings = Endings(steps, dead, self._node)
        claims = Claims(steps, self._node, clock, endings.give_back, before=before)
        self.claim, self.finish, self.give_back = claims.claim, endings.finish, endings.give_back

    async def beat(self, info: WorkerInfo) -> dict[tuple[str, int], str]:
        """See :class:`~natscron.storage.queue.RunQueue`."""
        lives_s = max(_ANNOUNCED_S, 3 * -(-info.lease_ms // 1_000))
        subject = self._options.worker_prefix + key_of(info.id)
        said = Announcement(info, self._node)
        try:
            future = await self._window.publish(subject, encode_announcement(said), {TTL: f"{lives_s}s"})
            self._view.roster.announced(said, (await asyncio.shield(future)).seq)
        except BaseException:
            # Not heard, and its lease runs: whoever follows the queue announces itself again soon.
            asyncio.get_running_loop().call_later(_AGAIN_S, self._view.on_cancel)
            raise
        owned = self._view.owned.get(info.id, {})
        return {(run_id, one.row.attempt): one.row.cancel for run_id, one in owned.items()}

    async def retire(self, worker: str) -> None:
        """See :class:`~natscron.storage.queue.RunQueue`."""
        subject = self._options.worker_prefix + key_of(worker)
        future = await self._window.publish(subject, b"", {**delete_headers(), TTL: MARKER_TTL})
        await asyncio.shield(future)
        self._view.roster.retired(worker)

    def lost(self, limit: int) -> list[Claim]:
        """See :class:`~natscron.storage.queue.RunQueue`."""
        roster = self._view.roster
        found: list[Claim] = []
        for worker, owned in self._view.owned.items():
            if roster.dead(worker):
                found.extend(one.row.as_claim(None) for one in owned.values() if not one.busy)
        return found[:limit]

    def unhandled(self) -> Callable[[Open], str | None]:
        """What gives the reason to show for a due run that nobody takes because nobody has its handler."""
        known = {name for info in self._view.roster.alive() for name in info.handlers}
        now, long_ago_s = self._view.now_ms(), self._clock.trust_s() - _UNHANDLED_S

        def reason(one: Open) -> str | None:
            row = one.row
            if row.state is not RowState.PENDING:
                return None
            waits = row.handler not in known and row.not_before_ms <= now and one.since_s < long_ago_s
            return Reason.NO_HANDLER if one.marked or waits else None

        return reason

    async def drop_runs(self, job: str, generation: int) -> int:
        """See :class:`~natscron.storage.queue.RunQueue`."""
        return await self.steps.whole(self._drop_runs(job, generation))

    async def _drop_runs(self, job: str, generation: int) -> int:
        waiting: list[Open] = []
        for _ in range(TRIES):
            those = [*self._view.held_of(job), *self._view.going.get(job, {}).values()]
            waiting = [
                one for one in those if one.row.generation == generation and one.row.state is not RowState.RUNNING
            ]
            if not waiting:
                break
            for one in waiting:
                if one.alive and not one.busy:
                    await self.steps.drop(one, Reason.JOB_REMOVED, "its job was removed")
            if any(one.alive for one in waiting):
                await asyncio.sleep(_PAUSE_S)
        going = self._view.going.get(job, {}).values()
        running = [one for one in going if one.row.generation == generation]
        return len(running)

    async def over_elsewhere(self, runs: Sequence[Run]) -> None:
        """Know runs that ended in another store, so that nobody queues them here."""
        rows = {run.run_id: run for run in runs if run.run_id is not None}
        futures = []
        for run_id, run in rows.items():
            row = RunRow(run_id=run_id, job=run.job, state=RowState.OVER, attempt=run.attempt, worker=run.instance)
            row = msgspec.structs.replace(
                row, status=run.status, started_ms=run.started_at_ms or 0, finished_ms=run.finished_at_ms or 0
            )
            futures.append(
                (
                    row,
                    await self._window.publish(
                        self.steps.subject(row), encode_run_row(row), self.steps.headers(row, 0)
                    ),
                )
            )
        for row, future in futures:
            try:
                ack = await asyncio.shield(future)
            except StorageError as error:
                if not is_wrong_sequence(error):
                    raise
            else:
                self._view.apply(row, ack.seq)

    async def redrive(self, run_id: str, newest: Callable[[str, str], Awaitable[Run | None]]) -> bool:
        """See :class:`~natscron.storage.queue.RunQueue`. ``newest``: the record of its newest try."""
        if not run_id or run_id in self._view.rows:
            return False
        letter = await self._dead.find(run_id)
        if letter is None:
            return False
        last = await newest(letter.run.job, run_id)
        if last is not None and (last.attempt != letter.run.attempt or last.status not in REDRIVABLE):
            return False
        subject = self.steps.subject(letter.run)
        found = await get_last(self.steps.connection, self._options.runs_stream, subject)
        if found is not None and not is_deleted(found.headers):
            known = decode_run_row(found.data)
            if known.state is not RowState.OVER or known.attempt != letter.run.attempt:
                return False
        row = letter.run.tried_again(self._view.now_ms(), Reason.REDRIVEN)
        if row.capacity:
            # Whether there is room for it only the leader knows for sure.
            row = msgspec.structs.replace(row, state=RowState.HELD, by_leader=True, reason=Reason.OVERLAP_WAIT)
        try:
            future = await self._window.publish(
                subject, encode_run_row(row), cas_headers(0 if found is None else found.seq)
            )
            ack = await asyncio.shield(future)
        except StorageError as error:
            if is_wrong_sequence(error):
                return False
            raise
        self._view.apply(row, ack.seq)
        await self._dead.remove(run_id)
        if row.state is RowState.HELD and self.steps.leads():
            await self.steps.release(row.job)
        return True
