"""The API's calls about jobs. The endpoints and the embedding API both come here.

Who is authoritative: the store. Reads go to the hot table after it has caught up (:mod:`natscron.engine.freshness`);
every write names the revision it was decided on (:mod:`natscron.server.edits`), so that two writers never overwrite
each other unseen. What raises StorageUncertainError may have happened.
"""

import asyncio
from collections.abc import Mapping
from typing import Any, Final, TypeAlias

import msgspec

from natscron.codec import merge_job, ms_to_text
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
from natscron.model import Job, ScheduleSpec
from natscron.server.admission import Admitted, next_due, settled
from natscron.server.context import Context
from natscron.server.edits import Edits, unknown
from natscron.server.replies import encode
from natscron.server.requests import PatternRequest, SubjectRequest, read, revision_of
from natscron.server.subjects import go_accepts, matcher

__all__ = ["Input", "Jobs", "Reply", "counts_from_creation", "named"]

Input: TypeAlias = bytes | str | Mapping[str, Any]
Reply: TypeAlias = dict[str, Any]

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
        self.edits: Final = Edits(context)

    async def create(self, data: Input) -> Reply:
        """Store a job that is not there yet."""
        return await self.edits.knowing_calendars(lambda: self._create_job(data))

    async def put(self, data: Input) -> Reply:
        """Store a job in place of what is there, or as a new one."""
        return await self.edits.knowing_calendars(lambda: self._put_job(data))

    async def update(self, data: Input) -> Reply:
        """Change what is given and keep the rest; null resets a field."""
        return await self.edits.knowing_calendars(lambda: self._update_job(data))

    async def _create_job(self, data: Input) -> Reply:
        found = read_fields(data)
        parsed = job_from_fields(found, self._clock.now_ms())
        expected = _expected(found)
        job = settled(parsed.job, parsed.given)
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

    async def _put_job(self, data: Input) -> Reply:
        found = read_fields(data)
        parsed = job_from_fields(found, self._clock.now_ms())
        expected = _expected(found)
        job = settled(parsed.job, parsed.given)
        self._check_subject(job.id, "update")
        # The likely case is tried first; the store tells when the table was behind.
        if expected == 0 or (expected is None and self._engine.table.get(job.id) is None):
            admitted = self._admit(job, "update")
            try:
                return self._written("created", await self._create(admitted.job), admitted, parsed.warnings)
            except JobAlreadyExistsError:
                if expected == 0:
                    raise WrongRevisionError(
                        f"job {job.id!r} exists already, and expected_revision 0 expects that there is none"
                    ) from None
        last: list[Admitted] = []

        def change(old: Job) -> Job:
            new = msgspec.structs.replace(job, anchor_ms=old.anchor_ms)
            admitted = self._admit(new, "update", before=old)
            new = admitted.job
            if "skip" not in parsed.given and new.schedule == old.schedule:
                # What was skipped by hand is not the file's, from which the job is stored once more.
                new = msgspec.structs.replace(new, skip=old.skip)
            last[:] = [msgspec.structs.replace(admitted, job=new)]
            return new

        try:
            revision = await self.edits.edit(job.id, expected, change)
        except JobNotFoundError:
            if expected:
                raise WrongRevisionError(
                    f"job {job.id!r}: expected_revision is {expected}, and there is no such job"
                ) from None
        else:
            return self._written("updated", revision, last[0], parsed.warnings)
        admitted = self._admit(job, "update")
        try:
            return self._written("created", await self._create(admitted.job), admitted, parsed.warnings)
        except JobAlreadyExistsError:
            raise WrongRevisionError(
                f"job {job.id!r} was created by someone else in between; read it and decide again"
            ) from None

    async def _update_job(self, data: Input) -> Reply:
        found = read_fields(data)
        subject = subject_of(found)
        if not subject:
            raise ValidationError("job subject is required; name the job to change")
        last: list[tuple[ParsedJob, Admitted, tuple[str, ...]]] = []

        def change(old: Job) -> Job:
            if old.newer:
                raise ValidationError(
                    f"job {subject!r} cannot be changed by this instance ({old.invalid}); ask a newer one, put the job "
                    "anew, or delete it"
                )
            parsed = merge_job(old, data, self._clock.now_ms())
            job = settled(parsed.job, parsed.given)
            admitted = self._admit(job, "update", before=old, resolve="schedule" in parsed.given)
            job, more = admitted.job, tuple[str, ...]()
            if job.skip is not None and "skip" not in parsed.given and job.schedule != old.schedule:
                # It named slots of the old schedule; of the new one it could be any number.
                job, more = msgspec.structs.replace(job, skip=None), ("the skip is taken back: the schedule changed",)
            last[:] = [(parsed, msgspec.structs.replace(admitted, job=job), more)]
            return job

        revision = await self.edits.edit(subject, _expected(found), change)
        parsed, admitted, more = last[0]
        return self._written("updated", revision, admitted, parsed.warnings + more)

    async def delete(self, data: Input) -> Reply:
        """Remove one job."""
        request = read(SubjectRequest, data)
        subject = named(request.subject)
        try:
            await self._store.delete_job(subject, revision_of(request.expected_revision))
        except JobNotFoundError:
            raise unknown(subject) from None
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

    def _admit(self, job: Job, verb: str, *, before: Job | None = None, resolve: bool = True) -> Admitted:
        now_ms = self._clock.now_ms()
        calendars = self._engine.table.calendars()
        self._check_subject(job.id, verb)
        if resolve:
            job = self._admission.resolve(job, now_ms, calendars, before)
        return self._admission.admit(job, now_ms, calendars)

    def _check_subject(self, subject: str, verb: str) -> None:
        try:
            self._admission.policy.check(subject)
        except InvalidSubjectError as error:
            if go_accepts(subject):
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

    def _written(self, status: str, revision: int, admitted: Admitted, warnings: tuple[str, ...]) -> Reply:
        """Go's clients read these replies as maps of strings: every value is one, and keys are sorted."""
        job = admitted.job
        self._on_saved(job)
        reply: Reply = {}
        # An interval counts from the store's time of the creating write, which is not known here.
        if job.anchor_ms or not counts_from_creation(job.schedule):
            next_ms = next_due(job, admitted.schedule, self._clock.now_ms())
            if next_ms is not None:
                reply["next_run"] = ms_to_text(next_ms)
        reply["revision"] = str(revision)
        reply["status"] = status
        if warnings := warnings + admitted.warnings:
            reply["warning"] = "; ".join(warnings)
        return reply


def counts_from_creation(spec: ScheduleSpec | None) -> bool:
    """Whether the schedule, or a part of it, begins with the job's creation."""
    if spec is None:
        return False
    anchored = spec.every or spec.rrule or "@every" in (spec.cron or "").lower()
    return bool(anchored and not spec.start_at) or any(map(counts_from_creation, spec.any))


def _expected(found: Mapping[str, Any]) -> int | None:
    value = found.get(_REVISION)
    if value is None:
        value = next((item for key, item in found.items() if key.lower() == _REVISION), None)
    return revision_of(value)


def named(subject: str) -> str:
    """``subject``, if it names a job at all. Raises InvalidSubjectError, in the Go version's words."""
    if not subject:
        raise InvalidSubjectError("nats: invalid key: job subject is required; name the job")
    return subject
