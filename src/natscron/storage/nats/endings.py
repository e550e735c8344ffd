"""Endings: what follows when a worker ends its tries or gives them back.

A try's record follows the row that ends it, for of two who end a try at once one is refused, and what it says must not
stand in the history. The letter about a run that failed for good goes before the row; it is held against the history
when somebody asks for a further try.

Of a refused row (it was cancelled meanwhile, or taken over) the newest version is looked at again, and the ending made
anew if the try is still the worker's. An ending without an answer is uncertain; the worker hands it over once more, and
by the row's mark it is known whether the first was stored.
"""

from collections.abc import Mapping, Sequence
from itertools import count
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec

from natscron.errors import StorageError
from natscron.model import Claim, Ending, Ms, Run, RunStatus
from natscron.storage.nats.dead import DeadLetters, Letter
from natscron.storage.nats.runrow import RowState, RunRow
from natscron.storage.nats.steps import REPLACED, Steps, belongs
from natscron.wire.kv import is_wrong_sequence

if TYPE_CHECKING:
    import asyncio

    from natscron.storage.nats.lines import Open
    from natscron.wire.replies import PubAck

__all__ = ["REDRIVABLE", "TRIES", "Endings"]

TRIES: Final = 20
REDRIVABLE: Final = frozenset({RunStatus.FAILED, RunStatus.DEAD})


class _Try(NamedTuple):
    """A try whose end is on its way: which ending, over which version, what follows."""

    number: int
    version: "Open"
    row: "RunRow"
    record: "Run"
    answer: "asyncio.Future[PubAck]"


class _Begun:
    """What was handed over, and what kept the rest from it."""

    def __init__(self) -> None:
        self.tries: list[_Try] = []
        self.doubtful: list[_Try] = []
        """Of an earlier call, and maybe stored then."""
        self.letters: list[asyncio.Future[PubAck]] = []
        self.failure: StorageError | None = None


class Endings:
    """Ends tries."""

    def __init__(self, steps: Steps, dead: DeadLetters, node: str) -> None:
        self._node = node
        self._marks = count(1)
        self._doubt: dict[tuple[str, int], _Try] = {}
        """Endings without an answer."""
        self._steps = steps
        self._view = steps.view
        self._dead = dead

    async def finish(self, worker: str, endings: Sequence[Ending]) -> list[bool]:
        """See :class:`~natscron.storage.queue.RunQueue`."""
        return await self._steps.whole(self._finish(worker, endings))

    async def _finish(self, worker: str, endings: Sequence[Ending]) -> list[bool]:
        stored = [False] * len(endings)
        left = dict(enumerate(endings))
        for _ in range(TRIES):
            begun = await self._begin(worker, left)
            left = await self._answers(begun, left, stored)
            for one in begun.doubtful:
                try:
                    stored[one.number] = await self._steps.tells(one.row)
                except StorageError as error:
                    self._doubt[one.row.run_id, endings[one.number].attempt] = one
                    begun.failure = error
            begun.tries += begun.doubtful
            # Only of what was stored: somebody else may have ended the try, and recorded that.
            await self._steps.records.save([one.record for one in begun.tries if stored[one.number]])
            for job in dict.fromkeys(one.row.job for one in begun.tries if stored[one.number]):
                if job in self._view.held:
                    await self._steps.release(job)
            if begun.failure is not None:
                raise begun.failure
            if not left:
                break
        return stored

    async def _begin(self, worker: str, left: Mapping[int, Ending]) -> "_Begun":
        """Hand over what follows from each ending of a try that is the worker's."""
        begun = _Begun()
        now = self._view.now_ms()
        for i, given in left.items():
            one = self._view.rows.get(given.run_id)
            before = self._doubt.pop((given.run_id, given.attempt), None)
            if one is None or one.busy or not belongs(one, worker, given.attempt):
                if before is not None:
                    begun.doubtful.append(before._replace(number=i))
                continue
            ending = _readable(given)
            mark = f"{self._node}.{next(self._marks):x}" if before is None else before.row.mark
            one.busy = True
            try:
                row = msgspec.structs.replace(_after(one.row, ending, now), mark=mark)
                if row.state is RowState.OVER and ending.status in REDRIVABLE:
                    begun.letters.append(await self._steps.window.publish(*self._letter(one.row, ending)))
                begun.tries.append(_Try(i, one, row, one.row.ended(ending), await self._steps.put(one, row)))
            except StorageError as error:
                self._view.free(one)
                begun.failure = error
                break
        return begun

    async def _answers(self, begun: "_Begun", left: Mapping[int, Ending], stored: list[bool]) -> dict[int, Ending]:
        """Those of which another version was there, to be looked at again."""
        again: dict[int, Ending] = {}
        for one in begun.tries:
            try:
                ack = await one.answer
            except StorageError as error:
                try:
                    if not is_wrong_sequence(error):
                        raise
                    await self._steps.refresh(one.row)
                    stored[one.number] = await self._steps.tells(one.row)
                except StorageError as failure:
                    self._doubt[one.row.run_id, left[one.number].attempt] = one
                    self._view.free(one.version)
                    begun.failure = failure
                else:
                    if not stored[one.number]:
                        again[one.number] = left[one.number]
                continue
            self._view.apply(one.row, ack.seq)
            stored[one.number] = True
        for letter in begun.letters:
            await letter
        return again

    def _letter(self, row: RunRow, ending: Ending) -> tuple[str, bytes]:
        return self._dead.message(
            Letter(
                run=row,
                status=ending.status,
                reason=ending.reason,
                error=ending.error,
                finished_ms=ending.finished_ms,
            )
        )

    async def give_back(self, worker: str, claims: Sequence[Claim]) -> None:
        """See :class:`~natscron.storage.queue.RunQueue`."""
        await self._steps.whole(self._give_back(worker, claims))

    async def _give_back(self, worker: str, claims: Sequence[Claim]) -> None:
        for claim in claims:
            for _ in range(TRIES):
                one = self._view.rows.get(claim.run_id)
                if one is None or one.busy or not belongs(one, worker, claim.attempt):
                    break
                if one.row.cancel:
                    done = await self._steps.drop(one, one.row.cancel, REPLACED)
                else:
                    done = await self._steps.step(one, one.row.given_back())
                if done:
                    break


def _after(row: RunRow, ending: Ending, now: Ms) -> RunRow:
    """What follows from an ending. What was to end in favour of another is not tried again."""
    if ending.retry_in_ms is None or row.cancel:
        return row.over(ending.status, ending.finished_ms, ending.started_ms)
    return row.tried_again(now + ending.retry_in_ms, ending.retry_reason)


def _readable(ending: Ending) -> Ending:
    """Half a surrogate pair, which an exception's text may hold, is no text that can be stored."""
    texts = {name: text for name in ("reason", "error", "result") if (text := getattr(ending, name)) is not None}
    if all(text.isascii() for text in texts.values()):
        return ending
    cleaned = {name: text.encode("utf-8", "replace").decode() for name, text in texts.items()}
    return msgspec.structs.replace(ending, **cleaned)
