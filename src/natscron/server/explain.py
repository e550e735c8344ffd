"""The API's call that explains a job: what became of its slots in a window, and what comes next.

Reads the history in one bounded read (two where the window lies further back than records usually do), and answers in
one message: of what is too much the oldest is cut, with a word about it.
"""

import asyncio
from collections.abc import Sequence
from typing import Annotated, Final, TypeAlias

import msgspec
from msgspec import Meta

from natscron.codec import ms_to_text, run_to_json, text_to_ms
from natscron.codec.gojson import fold, go_type_error
from natscron.engine.explain import Asked, Explanation, Line, What, Why, explain
from natscron.engine.explain.words import instant_of
from natscron.errors import JobNotFoundError, ValidationError
from natscron.model import Ms, Run, RunStatus
from natscron.server.context import Context
from natscron.server.jobs import Input, Reply, named
from natscron.server.replies import encode
from natscron.server.requests import fields_of, not_valid
from natscron.server.subjects import go_accepts
from natscron.storage.protocol import RunQuery

__all__ = ["READ_MAX", "Explain", "ExplainRequest"]

READ_MAX: Final = 10_000
"""Records that one explanation reads."""
DEFAULT_WINDOW_MS: Final[Ms] = 24 * 3_600_000
"""How far back ``since`` lies unless it is given."""

_LATER_MS: Final[Ms] = 24 * 3_600_000
"""How long after its slot a run's record is looked for at least; the catch-up window may be longer."""
_ROOM: Final = 2_048

_Instant: TypeAlias = Annotated[str, Meta(max_length=64)]


class ExplainRequest(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """``jobs.explain``: why a job ran, or did not, and what comes next."""

    subject: Annotated[str, Meta(description="the job's subject, which is its id")] = ""
    since: Annotated[_Instant, Meta(description="RFC 3339, inclusive; default 24 h before until")] | None = None
    until: Annotated[_Instant, Meta(description="RFC 3339, exclusive; default now")] | None = None
    next: Annotated[int, Meta(ge=0, le=100, description="slots to come")] = 5


class Explain:
    """Explanations. Works on every instance, whether it leads or not."""

    def __init__(self, context: Context) -> None:
        """``context.keeps`` is what the history keeps, in words; empty: where to look it up."""
        self._engine = context.engine
        self._store = context.store
        self._target = context.target
        self._clock = context.clock
        self._fresh = context.fresh
        self._max_reply = context.max_reply
        self._keeps = context.keeps

    async def explain(self, data: Input) -> Reply:
        """The past of the window and the next slots, each line with a word for programs and a text for people."""
        request = _read(data)
        now_ms = self._clock.now_ms()
        named(request.subject)
        until_ms = now_ms if request.until is None else text_to_ms(request.until)
        since_ms = until_ms - DEFAULT_WINDOW_MS if request.since is None else text_to_ms(request.since)
        if since_ms >= until_ms:
            raise ValidationError(
                f"since {ms_to_text(since_ms)} must lie before until {ms_to_text(until_ms)}: give both, or neither"
            )
        if since_ms > now_ms:
            raise ValidationError(
                f"since {ms_to_text(since_ms)} lies in the future: what comes is told by 'next', and by jobs.preview"
            )
        until_ms = min(until_ms, now_ms)
        await self._fresh.catch_up()
        entry = self._engine.table.get(request.subject)
        if entry is None:
            go = "nats: key not found" if go_accepts(request.subject) else "nats: invalid key"
            raise JobNotFoundError(f"{go}: there is no job {request.subject[:200]!r}")
        job = entry.job
        # Before the records: what the mark has passed by then was decided, and its record may be among them.
        mark = self._engine.mark
        late_ms = max(_LATER_MS, job.catchup.window_ms)
        runs, read_from_ms = await self._records(job.id, since_ms, until_ms, until_ms + late_ms, now_ms)
        valid = job.invalid is None
        asked = Asked(
            entry=entry,
            runs=runs,
            since_ms=since_ms,
            until_ms=until_ms,
            now_ms=now_ms,
            mark=mark,
            count=request.next,
            read_from_ms=read_from_ms,
            waiting=frozenset(row.scheduled_at_ms for row in self._engine.waiting(job.id)),
            delivery=self._target.delivery_of(job) if valid else None,
        )
        if self._keeps:
            asked = msgspec.structs.replace(asked, keeps=self._keeps)
        # Up to a thousand slots are looked at, which may take some ten milliseconds: not in the event loop.
        found = await asyncio.to_thread(explain, asked)
        reply: Reply = {
            "subject": job.id,
            "state": self._engine.state_of(entry).value,
            "description": found.description,
            "zone": found.zone,
            "now": ms_to_text(now_ms),
            "since": ms_to_text(since_ms),
            "until": ms_to_text(until_ms),
            "decided_until": None if mark is None else ms_to_text(mark.instant_ms),
            "policies": [_shown(line) for line in found.policies],
            "future": [_shown(line) for line in found.future],
        }
        reply["past"] = self._bounded(found, len(encode(reply)), since_ms)
        if read_from_ms is not None:
            read = f"only the newest {READ_MAX:,} records were read, back to {ms_to_text(read_from_ms)}"
            reply["warnings"] = [f"{read}: ask for a shorter window"]
        return reply

    async def _records(
        self, job_id: str, since_ms: Ms, until_ms: Ms, late_ms: Ms, now_ms: Ms
    ) -> tuple[Sequence[Run], Ms | None]:
        """Records about slots in [since, until), and how far back they go if there are more."""
        bound = late_ms if late_ms < now_ms else None
        query = RunQuery(job=job_id, since_ms=since_ms, until_ms=bound, limit=READ_MAX)
        found = list(await self._store.list_runs(query))
        read_from_ms = instant_of(found[-1]) if len(found) >= READ_MAX else None
        if bound is not None:
            # A pause or an outage is recorded when it is over, however much later that is.
            query = RunQuery(job=job_id, since_ms=bound, status=RunStatus.SKIPPED, descending=False, limit=READ_MAX)
            found += [
                run for run in await self._store.list_runs(query) if run.from_ms is not None and run.from_ms < until_ms
            ]
        return found, read_from_ms

    def _bounded(self, found: Explanation, used: int, since_ms: Ms) -> list[dict[str, object]]:
        """The lines of the past that fit into the reply, the newest."""
        room = max(self._max_reply() - _ROOM - used, 0)
        shown: list[dict[str, object]] = []
        for line in reversed(found.past):
            view = _shown(line)
            room -= len(encode(view)) + 1
            if room < 0:
                left = found.past[: len(found.past) - len(shown)]
                cut = Line(
                    what=What.CUT,
                    reason=Why.LIMIT,
                    text=f"{len(left)} earlier lines do not fit into one message: ask for a shorter window",
                    from_ms=since_ms,
                    to_ms=max(since_ms, left[-1].to_ms or left[-1].when_ms),
                    count=len(left),
                )
                shown.append(_shown(cut))
                break
            shown.append(view)
        shown.reverse()
        return shown


def _shown(line: Line) -> dict[str, object]:
    """A line as JSON: what has no value is left out; a run's record lies under ``run``."""
    given: dict[str, object] = {"what": line.what.value}
    more: dict[str, object] = {
        "reason": line.reason,
        "at": _text(line.at_ms),
        "local": line.local,
        "due": _text(line.due_ms),
        "from": _text(line.from_ms),
        "to": _text(line.to_ms),
        "count": line.count,
        "mark": line.mark,
        "source": line.source,
        "earlier": line.earlier or None,
        "if_going": line.if_going,
        "run": None if line.run is None else _run(line.run),
        "text": line.text,
    }
    return given | {key: value for key, value in more.items() if value is not None and value != ""}


def _run(run: Run) -> dict[str, object]:
    """The record without what is said beside it."""
    return {key: value for key, value in run_to_json(run).items() if key not in _BESIDE and value is not None}


_BESIDE: Final = frozenset({"job", "from", "to", "count", "reason", "scheduled_at"})


def _text(instant_ms: Ms | None) -> str | None:
    return None if instant_ms is None else ms_to_text(instant_ms)


def _read(data: Input) -> ExplainRequest:
    names = {name: name for name in ExplainRequest.__struct_fields__}
    given = {key: value for key, value in fold(fields_of(data), names).items() if value is not None and key in names}
    for name in ("subject", "since", "until"):
        if not isinstance(given.get(name, ""), str):
            raise go_type_error(given[name], f".{name}", "string")
    try:
        return msgspec.convert(given, ExplainRequest)
    except msgspec.ValidationError as error:
        raise not_valid(ExplainRequest, given, error) from None
