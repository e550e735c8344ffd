"""The service's endpoints: names, subjects, order, errors. What they do stands in :mod:`natscron.server.calls`.

Go's seven come first, in Go's order and under Go's names. An error is micro headers (with Go's description where Go
has one) and a body ``{"error", "code"}``; whatever a request holds, it gets one of the two and the process lives.
"""

import logging
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeAlias

import msgspec

from natscron.errors import NatscronError
from natscron.server import schemas
from natscron.server.calls import Calls
from natscron.server.explain import ExplainRequest
from natscron.server.jobs import Reply
from natscron.server.replies import encode, error_body
from natscron.server.requests import (
    BackfillRequest,
    BackfillsRequest,
    CalendarRequest,
    CalendarsRequest,
    CancelRequest,
    ListRequest,
    PatternRequest,
    PauseRequest,
    PreviewRequest,
    ReportRequest,
    ResumeRequest,
    RunRequest,
    RunsRequest,
    SkipRequest,
    SubjectRequest,
    TriggerRequest,
)

__all__ = ["Answer", "Endpoint", "endpoints"]

logger = logging.getLogger("natscron.server.api")

_Call: TypeAlias = Callable[[bytes], Awaitable[Reply]]
_UNREADABLE: Final = 400
_INTERNAL: Final = 500
_INVALID_REQUEST: Final = "Invalid request"


class Answer(msgspec.Struct, frozen=True):
    """A reply as it goes out; ``code`` 0: no error, and no headers."""

    body: bytes
    code: int = 0
    description: str = ""


class Endpoint(msgspec.Struct, frozen=True, kw_only=True):
    """One endpoint. ``subject`` lacks the service's prefix; ``descriptions`` by error code, 0 for all others."""

    name: str
    subject: str
    call: _Call
    descriptions: dict[int, str]
    request: dict[str, Any] | None = None
    reply: dict[str, Any] | None = None

    async def answer(self, data: bytes) -> Answer:
        """Do it; never raises but for cancellation."""
        try:
            return Answer(encode(await self.call(data)))
        except NatscronError as error:
            return self.refusal(str(error), error.code)
        except RecursionError:
            return self.refusal("the request nests too deep; 128 levels are enough for any job", _UNREADABLE)
        except Exception:
            logger.exception("An API request failed for a reason of our own", extra={"endpoint": self.name})
            return self.refusal("internal error; the server's log has the cause", _INTERNAL)

    def refusal(self, text: str, code: int) -> Answer:
        """An error reply."""
        description = self.descriptions.get(code) or self.descriptions[0]
        return Answer(error_body(text, code), code, description)

    @property
    def metadata(self) -> dict[str, str]:
        """The schemas of request and reply as JSON text."""
        found: dict[str, str] = {}
        if self.request is not None:
            found["request_schema"] = schemas.text(self.request)
        if self.reply is not None:
            found["reply_schema"] = schemas.text(self.reply)
        return found


def endpoints(calls: Calls) -> tuple[Endpoint, ...]:
    """All endpoints in the order in which INFO and STATS name them."""
    jobs, lookups, runs, info = calls.jobs, calls.lookups, calls.runs, calls.info
    policies, backfills, calendars = calls.policies, calls.backfills, calls.calendars
    one, texts, view = schemas.of(SubjectRequest), schemas.TEXTS, schemas.JOB_VIEW
    anything: dict[str, Any] = {"type": "object"}

    def entry(  # noqa: PLR0913, PLR0917 - one row of a table
        subject: str,
        call: _Call,
        failed: str,
        request: dict[str, Any] | None = None,
        reply: dict[str, Any] | None = None,
        descriptions: dict[int, str] | None = None,
    ) -> Endpoint:
        return Endpoint(
            name=subject.replace(".", "-"),
            subject=subject,
            call=call,
            descriptions={0: failed, **(descriptions or {})},
            request=request,
            reply=reply,
        )

    unreadable = {_UNREADABLE: _INVALID_REQUEST}
    job_not_found = {404: "Job not found", **unreadable}
    run_not_found = {404: "Run not found", **unreadable}
    calendar_not_found = {404: "Calendar not found", **unreadable}
    backfill_not_found = {404: "Backfill not found", **unreadable}
    page, deleted = schemas.JOB_PAGE, {"type": "object", "properties": {"count": {"type": "integer"}, "deleted": {}}}
    return (
        entry("jobs.list", lookups.page, "Failed to get jobs", schemas.of(ListRequest), page),
        entry("jobs.create", jobs.create, "Failed to create job", schemas.JOB, texts),
        entry("jobs.update", jobs.update, "Failed to update job", {**schemas.JOB, "required": ["subject"]}, texts),
        entry("jobs.delete", jobs.delete, "Failed to delete job", one, texts, unreadable),
        entry(
            "jobs.delete.pattern",
            jobs.delete_pattern,
            "Failed to delete jobs",
            schemas.of(PatternRequest),
            deleted,
            unreadable,
        ),
        entry("jobs.get", lookups.get, "Failed to get job", one, view, job_not_found),
        entry("status", info.status, "Failed to get status", None, anything),
        entry("jobs.put", jobs.put, "Failed to put job", schemas.JOB, texts),
        entry("jobs.pause", policies.pause, "Failed to pause job", schemas.of(PauseRequest), texts, job_not_found),
        entry("jobs.resume", policies.resume, "Failed to resume job", schemas.of(ResumeRequest), texts, job_not_found),
        entry("jobs.trigger", runs.trigger, "Failed to trigger job", schemas.of(TriggerRequest), texts, job_not_found),
        entry(
            "jobs.preview", lookups.preview, "Failed to preview", schemas.of(PreviewRequest), anything, job_not_found
        ),
        entry("runs.list", runs.page, "Failed to get runs", schemas.of(RunsRequest), anything, unreadable),
        entry("runs.get", runs.get, "Failed to get run", schemas.of(RunRequest), anything, run_not_found),
        entry("runs.report", runs.report, "Failed to record", schemas.of(ReportRequest), texts, run_not_found),
        entry("cluster.info", info.cluster, "Failed to get cluster info", None, anything),
        entry("jobs.skip", policies.skip, "Failed to skip", schemas.of(SkipRequest), anything, job_not_found),
        entry(
            "jobs.explain",
            calls.explain.explain,
            "Failed to explain",
            schemas.of(ExplainRequest),
            anything,
            job_not_found,
        ),
        entry(
            "jobs.backfill", backfills.start, "Failed to backfill", schemas.of(BackfillRequest), anything, job_not_found
        ),
        entry(
            "backfills.list",
            backfills.page,
            "Failed to get backfills",
            schemas.of(BackfillsRequest),
            anything,
            unreadable,
        ),
        entry(
            "backfills.cancel",
            backfills.cancel,
            "Failed to cancel backfill",
            schemas.of(CancelRequest),
            texts,
            backfill_not_found,
        ),
        entry("calendars.put", calendars.put, "Failed to put calendar", schemas.CALENDAR, anything, unreadable),
        entry(
            "calendars.get",
            calendars.get,
            "Failed to get calendar",
            schemas.of(CalendarRequest),
            schemas.CALENDAR_VIEW,
            calendar_not_found,
        ),
        entry(
            "calendars.list",
            calendars.page,
            "Failed to get calendars",
            schemas.of(CalendarsRequest),
            schemas.CALENDAR_PAGE,
            unreadable,
        ),
        entry(
            "calendars.delete",
            calendars.delete,
            "Failed to delete calendar",
            schemas.of(CalendarRequest),
            texts,
            calendar_not_found,
        ),
    )
