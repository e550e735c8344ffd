"""The API's calls about jobs. The endpoints and the embedding API both come here.

Who is authoritative: the store. Reads go to the hot table after it has caught up (:mod:`natscron.server.freshness`);
every write names the revision it was decided on, so that two writers never overwrite each other unseen. A write whose
caller named no revision is decided again on the row as the store has it, at most five times. What raises
StorageUncertainError may have happened.
"""

import asyncio
from collections.abc import Callable, Mapping
from typing import Any, Final, TypeAlias

import msgspec

from natscron.codec import merge_job, ms_to_text, successor
from natscron.codec.job import ParsedJob, job_from_fields, read_fields, subject_of
from natscron.errors import (
    InvalidSubjectError,
    JobAlreadyExistsError,
    JobNotFoundError,
    NatscronError,
    StorageError,
    ValidationError,
    WrongRevisionError,
)
from natscron.model import Job
from natscron.server.admission import Admitted
from natscron.server.context import Context
from natscron.server.replies import encode
from natscron.server.requests import PatternRequest, PauseRequest, SubjectRequest, read, revision_of
from natscron.server.subjects import go_accepts, matcher

__all__ = ["Input", "Jobs", "Reply"]

Input: TypeAlias = bytes | str | Mapping[str, Any]
Reply: TypeAlias = dict[str, Any]

_TRIES: Final = 5
_DELETES_AT_ONCE: Final = 64
_ROOM: Final = 1024
"""Bytes of a reply that are not names."""
_REVISION: Final = "expected_revision"


class Jobs:
    """Create, change and remove jobs."""

    def __init__(self, context: Context) -> None:
        self._store = context.store
        self._engine = context.engine
        self._admission = context.admission
        self._clock = context.clock
        self._fresh = context.fresh
        self._on_saved = context.on_saved
        self._max_reply = context.max_reply
        self._creating = 0

    async def create(self, data: Input) -> Reply:
        """Store a job that is not there yet."""
        found = read_fields(data)
        parsed = job_from_fields(found)
        expected = _expected(found)
        job = parsed.job
        admitted = self._admit(job, "create")
        if expected:
            raise WrongRevisionError(
                f"job {job.id!r}: expected_revision is {expected}, and create expects that there is no job; "
                "use jobs.put or jobs.update, or leave it out"
            )
        try:
            revision = await self._create(admitted.job)
        except JobAlreadyExistsError:
            raise JobAlreadyExistsError(
                f"job with subject {job.id} already exists; use jobs.update or jobs.put to change it"
            ) from None
        return self._written("created", revision, admitted, parsed.warnings)

    async def put(self, data: Input) -> Reply:
        """Store a job in place of what is there, or as a new one."""
        found = read_fields(data)
        parsed = job_from_fields(found)
        expected = _expected(found)
        admitted = self._admit(parsed.job, "update")
        job = admitted.job
        # The likely case is tried first; the store tells when the table was behind.
        if expected == 0 or (expected is None and self._engine.table.get(job.id) is None):
            try:
                return self._written("created", await self._create(job), admitted, parsed.warnings)
            except JobAlreadyExistsError:
                if expected == 0:
                    raise WrongRevisionError(
                        f"job {job.id!r} exists already, and expected_revision 0 expects that there is none"
                    ) from None
        try:
            revision = await self._edit(job.id, expected, lambda _old: job)
        except JobNotFoundError:
            if expected:
                raise WrongRevisionError(
                    f"job {job.id!r}: expected_revision is {expected}, and there is no such job"
                ) from None
        else:
            return self._written("updated", revision, admitted, parsed.warnings)
        try:
            return self._written("created", await self._create(job), admitted, parsed.warnings)
        except JobAlreadyExistsError:
            raise WrongRevisionError(
                f"job {job.id!r} was created by someone else in between; read it and decide again"
            ) from None

    async def update(self, data: Input) -> Reply:
        """Change what is given and keep the rest; null resets a field."""
        found = read_fields(data)
        subject = subject_of(found)
        if not subject:
            raise ValidationError("job subject is required; name the job to change")
        last: list[tuple[ParsedJob, Admitted]] = []

        def change(old: Job) -> Job:
            if old.newer:
                raise ValidationError(
                    f"job {subject!r} cannot be changed by this instance ({old.invalid}); ask a newer one, put the job "
                    "anew, or delete it"
                )
            parsed = merge_job(old, data)
            job = parsed.job
            if "schedule" in parsed.given:
                job = self._admission.resolve(job, self._clock.now_ms())
            admitted = self._admit(job, "update", resolve=False)
            last[:] = [(parsed, admitted)]
            return admitted.job

        revision = await self._edit(subject, _expected(found), change)
        parsed, admitted = last[0]
        return self._written("updated", revision, admitted, parsed.warnings)

    async def pause(self, data: Input) -> Reply:
        """Stop a job's schedule until it is resumed; triggers go on."""
        return await self._rest(data, paused=True)

    async def resume(self, data: Input) -> Reply:
        """Let a paused job's schedule go on; what was missed meanwhile is not run."""
        return await self._rest(data, paused=False)

    async def _rest(self, data: Input, *, paused: bool) -> Reply:
        request = read(PauseRequest, data)
        subject = _named(request.subject)

        def change(old: Job) -> Job:
            if old.invalid is not None:
                raise ValidationError(
                    f"job {subject!r} cannot be honoured ({old.invalid}) and never runs; put it anew, or delete it"
                )
            note = old.note if request.note is None else request.note
            return msgspec.structs.replace(old, paused=paused, note=note)

        revision = await self._edit(subject, revision_of(request.expected_revision), change)
        return {"revision": str(revision), "status": "paused" if paused else "active"}

    async def delete(self, data: Input) -> Reply:
        """Remove one job."""
        request = read(SubjectRequest, data)
        subject = _named(request.subject)
        try:
            await self._store.delete_job(subject, revision_of(request.expected_revision))
        except JobNotFoundError:
            raise _unknown(subject) from None
        return {"status": "deleted"}

    async def delete_pattern(self, data: Input) -> Reply:
        """Remove all jobs whose subject matches; ``{"count":0,"deleted":null}`` if there is none.

        Names that do not fit into one message are left out, and ``omitted`` says how many.
        """
        hit = matcher(read(PatternRequest, data).pattern)
        await self._fresh.catch_up()
        names = [entry.job.id for entry in self._engine.table.entries() if hit(entry.job.id)]
        todo = iter(names)
        done: set[str] = set()
        failures: list[NatscronError] = []

        async def remove_some() -> None:
            for name in todo:
                if failures:
                    return
                try:
                    await self._store.delete_job(name)
                except JobNotFoundError:
                    continue  # someone else was faster
                except NatscronError as error:
                    failures.append(error)
                else:
                    done.add(name)

        await asyncio.gather(*(remove_some() for _ in range(min(_DELETES_AT_ONCE, len(names)))))
        deleted = [name for name in names if name in done]
        if failures:
            raise StorageError(
                f"deleted {len(deleted)} of {len(names)} jobs ({', '.join(deleted[:100])}), then failed: "
                f"{failures[0]}; the same call goes on with the rest"
            ) from failures[0]
        reply: Reply = {"count": len(deleted), "deleted": deleted or None}
        room = self._max_reply() - _ROOM
        for shown, name in enumerate(deleted):
            room -= len(encode(name)) + 1
            if room < 0:
                reply["deleted"] = deleted[:shown]
                reply["omitted"] = len(deleted) - shown
                break
        return reply

    def _admit(self, job: Job, verb: str, *, resolve: bool = True) -> Admitted:
        now_ms = self._clock.now_ms()
        try:
            return self._admission.admit(self._admission.resolve(job, now_ms) if resolve else job, now_ms)
        except InvalidSubjectError as error:
            if go_accepts(job.id):
                raise
            raise InvalidSubjectError(f"failed to {verb} job in KV store: nats: invalid key: {error}") from None

    async def _create(self, job: Job) -> int:
        # Those on their way count: many at once must not slip past the limit together.
        self._admission.limits.check_count(len(self._engine.table) + self._creating)
        self._creating += 1
        try:
            return await self._store.create_job(job)
        finally:
            self._creating -= 1

    async def _edit(self, subject: str, expected: int | None, change: Callable[[Job], Job]) -> int:
        """Write ``change`` of the present row over it, provided that nobody else wrote meanwhile; its revision."""
        entry = self._engine.table.get(subject)
        old = entry.job if entry is not None else None
        # The table may be a moment behind; what it says is only believed where the store then confirms it.
        if old is None or (expected is not None and old.revision != expected):
            old = await self._store.fetch_job(subject)
        for attempt in range(_TRIES):
            if old is None:
                raise _unknown(subject)
            if expected is not None and old.revision != expected:
                raise WrongRevisionError(
                    f"job {subject!r} is at revision {old.revision}, and expected_revision is {expected}; "
                    "read it and decide again"
                )
            new = successor(old, change(old), self._engine.mark)
            try:
                return await self._store.put_job(new, old.revision)
            except WrongRevisionError:
                if attempt == _TRIES - 1:
                    raise
            old = await self._store.fetch_job(subject)
        raise AssertionError("unreachable")

    def _written(self, status: str, revision: int, admitted: Admitted, warnings: tuple[str, ...]) -> Reply:
        """Go's clients read these replies as maps of strings: every value is one, and keys are sorted."""
        job = admitted.job
        self._on_saved(job)
        reply: Reply = {}
        # An interval counts from the store's time of the creating write, which is not known here.
        if not job.paused and (job.anchor_ms or admitted.schedule.interval is None or admitted.schedule.start_at):
            next_ms = admitted.schedule.next_after_ms(self._clock.now_ms())
            if next_ms is not None:
                reply["next_run"] = ms_to_text(next_ms)
        reply["revision"] = str(revision)
        reply["status"] = status
        if warnings := warnings + admitted.warnings:
            reply["warning"] = "; ".join(warnings)
        return reply


def _expected(found: Mapping[str, Any]) -> int | None:
    value = found.get(_REVISION)
    if value is None:
        value = next((item for key, item in found.items() if key.lower() == _REVISION), None)
    return revision_of(value)


def _named(subject: str) -> str:
    if not subject:
        raise InvalidSubjectError("nats: invalid key: job subject is required; name the job")
    return subject


def _unknown(subject: str) -> JobNotFoundError:
    go = "nats: key not found" if go_accepts(subject) else "nats: invalid key"
    return JobNotFoundError(f"{go}: there is no job {subject[:200]!r}")
