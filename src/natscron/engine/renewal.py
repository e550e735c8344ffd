"""Keeps one term's lease: renews it with the mark, lays down open rows, watches clocks and views.

Every third of the lease's life, one compare-and-set writes the record; never is a second one in flight. Before it, the
runs that the new mark would leave behind unfinished are stored as open rows. What the answer is, and what follows:

* accepted: trust runs from the start of the attempt; notes that the mark covers are purged.
* refused, or no answer: the record is read from the stream's leader. Own nonce and epoch: its revision is adopted and
  the next attempt follows. Anything else, or no answer until trust ends: the term is over.

Each renewal also compares this host's clock with the store's timestamp of the record (over 1 s is warned about, over
``max_skew`` ends the term and this instance may not lead for a while), and the jobs stream's last sequence with the
table's: a table that is behind at two renewals in a row has a deaf watch, which is made anew.
"""

import asyncio
import logging
from collections.abc import Callable
from typing import Final

import msgspec

from natscron.engine.term import Term
from natscron.engine.trust import read
from natscron.errors import LeadershipLostError, StorageError, StorageUncertainError, WrongRevisionError
from natscron.model import Holder, Lease, LeaseRecord, Mark, Ms, NoteRef

log = logging.getLogger("natscron.leader")

SKEW_WARN_MS: Final[Ms] = 1_000


class ClockSkewError(LeadershipLostError):
    """This host's clock is too far from the store's: it may not lead."""


class Renewal:
    """Renews one term's lease until it is stopped or lost."""

    def __init__(self, term: Term, holder: Holder, record: LeaseRecord, *, jobs_behind: Callable[[], None]) -> None:
        self.skew_ms: Ms = 0
        """This host's clock minus the store's, as of the last renewal; 0 within what can be told."""
        self.mark = record.lease.mark
        """The mark that is in the store."""
        self._term = term
        self._clock = term.clock.host
        self._holder = holder
        self._lease = record.lease
        self._revision = record.revision
        self._jobs_behind = jobs_behind
        self._expected_seq: int | None = None
        self._attempts: dict[int, tuple[Ms, Ms]] = {}
        self._purged = NoteRef()
        self._stop = asyncio.Event()
        self._every_s = term.options.lease_ms / 3000

    def stop(self) -> None:
        """End :meth:`run` after the attempt in flight."""
        self._stop.set()

    async def run(self) -> None:
        """Renew until stopped. Raises LeadershipLostError."""
        # The first time soon: what was caught up with stays decided, also if this leader does not live for long.
        pause_s = self._every_s / 4
        while not self._stop.is_set():
            try:
                async with asyncio.timeout(pause_s):
                    await self._stop.wait()
            except TimeoutError:
                pause_s = self._every_s
                await self.renew(self._holder)
                await self._look_around()

    async def renew(self, holder: Holder | None) -> None:
        """Write the lease with the mark as far as it may go; ``holder`` None releases it."""
        term = self._term
        mark = await self._mark_with_rows()
        takeover = self._lease.takeover_ms
        lease = msgspec.structs.replace(
            self._lease,
            holder=holder,
            mark=mark,
            takeover_ms=None if takeover is not None and mark.instant_ms > takeover else takeover,
        )
        while True:
            term.journal.ensure_trusted()
            started = read(self._clock)
            try:
                # Half of what is left, so that there is time to read back what became of it.
                async with asyncio.timeout(min(term.trust.remaining_s(started) / 2, self._every_s)):
                    revision = await term.link.write_lease(lease, self._revision)
            except (TimeoutError, StorageUncertainError, WrongRevisionError) as error:
                if await self._adopt(lease, error):
                    continue
                return
            break
        self._written(lease, revision)
        term.trust.renewed(started)
        self._attempts[revision] = (int(started.wall_s * 1000), self._clock.now_ms() + 1)
        while len(self._attempts) > 8:  # noqa: PLR2004 - a few renewals' worth; older ones are no longer asked about
            del self._attempts[next(iter(self._attempts))]

    async def _mark_with_rows(self) -> Mark:
        """The mark as far as it may go, after the open rows that it needs were stored."""
        term = self._term
        confirmed = term.confirmed
        rows, instant = term.rows_before(confirmed.instant_ms)
        if rows:
            try:
                async with asyncio.timeout(term.trust.remaining_s(read(self._clock))):
                    await term.link.save_rows(rows)
            except (TimeoutError, StorageUncertainError) as error:
                term.link.abort()
                raise LeadershipLostError("open rows could not be laid down before trust ended") from error
            term.rows_saved(rows)
        if instant < confirmed.instant_ms:
            # Too many open runs to lay down at once: the notes from there on are still needed.
            if instant <= self.mark.instant_ms:
                return self.mark
            return msgspec.structs.replace(confirmed, instant_ms=instant, note=self.mark.note)
        return confirmed if confirmed.instant_ms >= self.mark.instant_ms else self.mark

    async def _adopt(self, lease: Lease, error: Exception) -> bool:
        """After a doubtful attempt: True to try again, False if it had been written after all. Else raises."""
        term = self._term
        log.warning("lease renewal in doubt, reading it back", extra={"error": str(error) or type(error).__name__})
        while True:
            term.journal.ensure_trusted()
            try:
                async with asyncio.timeout(term.trust.remaining_s(read(self._clock))):
                    record = await term.link.read_lease()
            except (TimeoutError, StorageError):
                await asyncio.sleep(0.02)
                continue
            break
        if record is None or record.lease.epoch != lease.epoch or (record.lease.holder != self._holder):
            if record is not None and lease.holder is None and record.lease.epoch == lease.epoch:
                self._written(lease, record.revision)
                return False
            term.link.abort()
            raise LeadershipLostError("another instance has the lease") from error
        self._revision = record.revision
        return True

    def _written(self, lease: Lease, revision: int) -> None:
        self._lease = lease
        self._term.lease = lease
        self._revision = revision
        self.mark = lease.mark

    async def _look_around(self) -> None:
        """What a renewal is also the occasion for. Failures here are no reason to stop leading."""
        term = self._term
        try:
            async with asyncio.timeout(self._every_s):
                if self.mark.note > self._purged:
                    await term.link.purge_notes(self.mark.note)
                    self._purged = self.mark.note
                await term.delete_closed_rows()
                await self._check_view(await term.link.jobs_seq())
        except (TimeoutError, StorageError) as error:
            log.debug("housekeeping put off", extra={"error": str(error)})

    async def _check_view(self, seq: int) -> None:
        if seq < self.mark.jobs_seq:
            self._jobs_behind()
            raise LeadershipLostError("the jobs' stream was made anew")
        if self._expected_seq is not None and self._term.table.seq < self._expected_seq:
            log.warning(
                "the view of the jobs is behind; making its watch anew",
                extra={"seen": self._term.table.seq, "stored": seq},
            )
            self._expected_seq = None
            self._jobs_behind()
            return
        self._expected_seq = seq

    def seen(self, record: LeaseRecord) -> None:
        """The watch saw the lease: compare clocks. Raises ClockSkewError when they are too far apart."""
        attempt = self._attempts.pop(record.revision, None)
        if attempt is None:
            return
        self.skew_ms = skew_between(attempt, record.stored_at_ms)
        self._term.clock.ahead_ms = self.skew_ms
        if abs(self.skew_ms) > self._term.options.max_skew_ms:
            raise ClockSkewError(skew_text(self.skew_ms, self._term.options.max_skew_ms))
        if abs(self.skew_ms) > SKEW_WARN_MS:
            log.warning("this host's clock is off against the store's", extra={"skew_ms": self.skew_ms})


def skew_between(attempt: tuple[Ms, Ms], stored_at_ms: Ms) -> Ms:
    """This host's clock minus the store's, from a write that was stored between two readings; 0 if within them."""
    start, end = attempt
    if stored_at_ms < start:
        return start - stored_at_ms
    if stored_at_ms > end:
        return end - stored_at_ms
    return 0


def skew_text(skew_ms: Ms, max_skew_ms: Ms) -> str:
    """For people."""
    side = "ahead of" if skew_ms > 0 else "behind"
    return (
        f"this host's clock is {abs(skew_ms)} ms {side} the NATS server's, more than the {max_skew_ms} ms that a "
        "leader may be; set the clock right (NTP)"
    )
