"""Claims: which of the runs that are due a worker takes, and how it comes to have them.

Of several processes with a handler each has a share of the runs, by their ids, so that they do not all reach for the
same; what lies longer than :data:`STEAL_S` anybody may take. Two who reach for one run all the same are told apart by
the store: the loser goes on to the next, and the watch shows what became of it.

A claim that is cancelled, by a worker that stops, goes on to its end, and what it got is given back. One whose answer
was lost may have taken runs: the worker is told of them with its next announcement, and gives them back.
"""

import asyncio
import contextlib
import zlib
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Final, NamedTuple

from natscron.clock import Clock
from natscron.errors import StorageError
from natscron.model import Claim, Claimed, Ms
from natscron.storage.nats.lines import Open, pick
from natscron.storage.nats.steps import Steps
from natscron.wire.kv import is_wrong_sequence

if TYPE_CHECKING:
    from natscron.storage.nats.runrow import RunRow
    from natscron.wire.replies import PubAck

__all__ = ["Claims"]

STEAL_S: Final = 0.02
_CONTESTED_S: Final = 0.25
_LEARN_S: Final = 0.5


class Before(NamedTuple):
    """What happened before the queue was opened here: jobs of a generation up to ``seq`` may have run then.

    ``look_up`` learns how the last runs of jobs ended.
    """

    seq: int
    look_up: Callable[[Sequence[str]], Awaitable[None]]


class Claims:
    """Claims through one storage. ``node`` is its name among those that share the queue."""

    def __init__(
        self,
        steps: Steps,
        node: str,
        clock: Clock,
        give_back: Callable[[str, Sequence[Claim]], Awaitable[None]],
        *,
        before: Before,
    ) -> None:
        self._before = before
        self._steps = steps
        self._view = steps.view
        self._node = node
        self._clock = clock
        self._return = give_back

    async def claim(self, worker: str, handlers: Sequence[str], limit: int) -> Claimed:
        """See :class:`~natscron.storage.queue.RunQueue`."""
        now = self._view.now_ms()
        task = self._steps.spawn(self._claim(worker, handlers, limit, now), "claim", awaited=True)
        try:
            claims, passed = await asyncio.shield(task)
        except asyncio.CancelledError:
            task.add_done_callback(lambda done: self._nobody_took(worker, done))
            raise
        following = None
        if len(claims) < limit:
            following = self._view.next_ms(handlers, now)
            if passed:
                soon = now + int(STEAL_S * 1_000)
                following = soon if following is None else min(soon, following)
        return Claimed(tuple(claims), following, now)

    def _nobody_took(self, worker: str, done: "asyncio.Task[tuple[list[Claim], bool]]") -> None:
        if not done.cancelled() and done.exception() is None and done.result()[0]:
            self._steps.spawn(self._give_back(worker, done.result()[0]), "give back")

    async def _claim(self, worker: str, handlers: Sequence[str], limit: int, now: Ms) -> tuple[list[Claim], bool]:
        claims: list[Claim] = []
        passed = False
        while len(claims) < limit:
            lines = self._view.lines(handlers)
            if not lines:
                break
            picked, passed = pick(lines, limit - len(claims), now, self._share(handlers))
            if not picked:
                break
            await self._learn(picked)
            try:
                await self._begin(worker, picked, now, claims)
            except StorageError:
                if not claims:
                    raise
                break  # the rest with the next claim, when the store is back
        return claims, passed

    async def _learn(self, picked: Sequence[Open]) -> None:
        """When the jobs of these runs last completed, where that was before our time. Best effort."""
        jobs = {one.row.job for one in picked if one.row.generation <= self._before.seq}
        unknown = [job for job in jobs if not self._view.ends_known(job)]
        if not unknown:
            return
        for one in picked:
            one.busy = True
        with contextlib.suppress(StorageError, TimeoutError):
            async with asyncio.timeout(_LEARN_S):
                await self._before.look_up(unknown)

    def _share(self, handlers: Sequence[str]) -> Callable[[Open], bool] | None:
        """Which runs may be taken here at once; None: all."""
        shares: dict[str, tuple[int, int]] = {}
        for handler in handlers:
            nodes = self._view.roster.nodes(handler)
            if len(nodes) > 1 and self._node in nodes:
                shares[handler] = nodes.index(self._node), len(nodes)
        if not shares:
            return None
        old_s = self._clock.trust_s() - STEAL_S

        def mine(one: Open) -> bool:
            index, count = shares.get(one.row.handler, (0, 1))
            return one.since_s < old_s or zlib.crc32(one.row.run_id.encode()) % count == index

        return mine

    async def _begin(self, worker: str, picked: list[Open], now: Ms, claims: list[Claim]) -> None:
        """Claim these; what is had is put into ``claims``. Raises StorageError, also when only some failed."""
        view = self._view
        announced = view.roster.find(worker)
        instance = worker if announced is None else announced.instance
        begun: list[tuple[Open, RunRow, asyncio.Future[PubAck]]] = []
        failure: StorageError | None = None
        for one in picked:
            one.busy = True
        try:
            for one in picked:
                row = one.row.claimed(worker, instance, now)
                begun.append((one, row, await self._steps.put(one, row)))
            self._steps.window.push()
        except StorageError as error:
            failure = error
            for one in picked[len(begun) :]:
                view.free(one)
        for one, row, future in begun:
            try:
                ack = await future
            except StorageError as error:
                if is_wrong_sequence(error):
                    asyncio.get_running_loop().call_later(_CONTESTED_S, self._contested, one)
                    continue
                # If it was stored all the same, the worker learns of it with its next announcement, and gives it back.
                failure = error
                view.free(one)
                continue
            view.apply(row, ack.seq)
            claims.append(row.as_claim(view.completed_ms(row.job)))
        if failure is not None:
            raise failure

    def _contested(self, one: Open) -> None:
        """Another took it, and the watch has not shown that yet."""
        if one.alive:
            self._steps.spawn(self._steps.refresh(one.row), "refresh")

    async def _give_back(self, worker: str, claims: Sequence[Claim]) -> None:
        await self._return(worker, claims)
