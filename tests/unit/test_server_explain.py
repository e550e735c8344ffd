"""``jobs.explain`` without a network: what it reads of the history, and how it keeps to one message."""

from collections.abc import Sequence
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest

from natscron.codec import ms_to_text, text_to_ms
from natscron.config import HistorySettings
from natscron.engine.table import JobTable
from natscron.errors import JobNotFoundError, MalformedInputError, ValidationError
from natscron.ids import keyed_run_id
from natscron.model import (
    Delivery,
    Job,
    JobState,
    Mark,
    OpenRow,
    OpenState,
    Reason,
    Run,
    RunStatus,
    ScheduleSpec,
    Stamp,
    Trigger,
)
from natscron.server.explain import READ_MAX, Explain
from natscron.server.parts import history_in_words
from natscron.server.replies import encode
from natscron.storage.protocol import RunQuery

if TYPE_CHECKING:
    from natscron.server.context import Context

pytestmark = pytest.mark.anyio

NOW = text_to_ms("2027-06-15T12:00:30Z")
DAY = 86_400_000
BORN = NOW - 30 * DAY
KEEPS = "100 records per job, 7 days"


class History:
    """Records; knows what it was asked."""

    def __init__(self) -> None:
        self.runs: list[Run] = []
        self.asked: list[RunQuery] = []

    async def list_runs(self, query: RunQuery) -> Sequence[Run]:
        self.asked.append(query)
        until = query.until_ms or NOW + DAY
        found = [
            run
            for run in self.runs
            if query.status in {None, run.status} and (query.since_ms or 0) <= (run.finished_at_ms or 0) < until
        ]
        found.sort(key=lambda run: run.finished_at_ms or 0, reverse=query.descending)
        return found[: query.limit]


class World:
    def __init__(self, *, max_reply: int = 1 << 20, mark: Mark | None = None) -> None:
        self.history = History()
        self.table = JobTable(1)
        self.put("a.b", ScheduleSpec(cron="*/5 * * * *"))
        self.waiting: list[OpenRow] = []
        engine = SimpleNamespace(
            table=self.table, mark=mark, state_of=lambda _entry: JobState.ACTIVE, waiting=lambda _job_id: self.waiting
        )
        self.fresh = 0
        context = SimpleNamespace(
            engine=engine,
            store=self.history,
            target=SimpleNamespace(delivery_of=lambda _job: Delivery.CORE),
            clock=SimpleNamespace(now_ms=lambda: NOW),
            fresh=SimpleNamespace(catch_up=self._catch_up),
            max_reply=lambda: max_reply,
            keeps=KEEPS,
        )
        self.explain = Explain(cast("Context", context)).explain

    async def _catch_up(self) -> None:
        self.fresh += 1

    def put(self, job_id: str, spec: ScheduleSpec | None, **more: Any) -> None:  # noqa: ANN401 - a job's fields
        fields: dict[str, Any] = {"created_at_ms": BORN, "anchor_ms": BORN, "counts_from": Stamp(BORN, 3)}
        self.table.put(Job(id=job_id, schedule=spec, generation=3, revision=3, **fields, **more))

    def ran(self, slot: int, **more: Any) -> None:  # noqa: ANN401 - a record's fields
        fields: dict[str, Any] = {"run_id": keyed_run_id(slot, "x"), "scheduled_at_ms": slot, "finished_at_ms": slot}
        self.history.runs.append(Run(job="a.b", status=RunStatus.SENT, **(fields | more)))


MARK = Mark(instant_ms=NOW, jobs_seq=9)


async def test_without_anything_else_it_is_about_the_last_day_and_five_slots() -> None:
    world = World(mark=MARK)
    found = await world.explain({"subject": "a.b"})
    assert (found["since"], found["until"]) == (ms_to_text(NOW - DAY), ms_to_text(NOW))
    assert len(found["future"]) == 5
    assert world.fresh == 1
    assert [(query.job, query.since_ms, query.until_ms) for query in world.history.asked] == [("a.b", NOW - DAY, None)]


async def test_field_names_match_in_any_case_and_unknown_ones_are_ignored() -> None:
    found = await World(mark=MARK).explain(b'{"SUBJECT":"a.b","Next":1,"since":null,"more":true}')
    assert len(found["future"]) == 1


async def test_a_record_has_what_the_line_does_not_say() -> None:
    world = World(mark=MARK)
    world.ran(NOW - 30_000, lateness_ms=4, instance="i1")
    line = (await world.explain({"subject": "a.b"}))["past"][-1]
    assert (line["what"], line["at"], line["local"]) == (
        "ran",
        "2027-06-15T12:00:00.000Z",
        "2027-06-15T12:00:00+00:00",
    )
    assert line["run"] == {
        "run_id": keyed_run_id(NOW - 30_000, "x"),
        "finished_at": "2027-06-15T12:00:00.000Z",
        "status": "sent",
        "attempt": 1,
        "trigger": "schedule",
        "lateness_ms": 4,
        "instance": "i1",
    }


async def test_a_window_long_ago_asks_for_what_was_recorded_when_a_pause_was_over() -> None:
    world = World(mark=MARK)
    first, last = NOW - 8 * DAY, NOW - DAY
    world.history.runs.append(
        Run(
            job="a.b",
            status=RunStatus.SKIPPED,
            from_ms=first,
            to_ms=last,
            count=2016,
            reason=Reason.PAUSED,
            finished_at_ms=NOW,
        )
    )
    found = await world.explain(
        {"subject": "a.b", "since": ms_to_text(NOW - 6 * DAY), "until": ms_to_text(NOW - 5 * DAY)}
    )
    assert [(line["what"], line["reason"]) for line in found["past"]] == [("not_run", "paused")]
    assert [query.status for query in world.history.asked] == [None, RunStatus.SKIPPED]


async def test_more_records_than_are_read_are_said_to_be_so() -> None:
    world = World(mark=MARK)
    world.put("a.b", ScheduleSpec(every="1h"))
    for n in range(READ_MAX + 10):
        world.ran(NOW - 1 - n, run_id=f"{n:026}", trigger=Trigger.MANUAL)
    found = await world.explain({"subject": "a.b"})
    assert "only the newest 10,000 records were read" in found["warnings"][0]
    assert found["past"][0]["what"] == "cut"


@pytest.mark.parametrize("max_reply", [4_000, 20_000])
async def test_what_does_not_fit_into_one_message_is_cut_at_the_old_end_with_a_word(max_reply: int) -> None:
    world = World(mark=MARK, max_reply=max_reply)
    for n in range(200):
        world.ran(NOW - 30_000 - n * 300_000)
    found = await world.explain({"subject": "a.b"})
    assert len(encode(found)) <= max_reply
    assert (found["past"][0]["what"], found["past"][0]["reason"]) == ("cut", "limit")
    assert "do not fit into one message" in found["past"][0]["text"]
    if max_reply > 4_000:
        assert found["past"][-1]["at"] == "2027-06-15T12:00:00.000Z"


async def test_a_job_that_cannot_be_honoured_is_explained_as_such() -> None:
    world = World(mark=MARK)
    world.put("a.c", ScheduleSpec(cron="61 * * * *"))
    found = await world.explain({"subject": "a.c"})
    assert [line["what"] for line in found["past"]] == ["invalid"]
    assert "61" in found["description"]


async def test_without_a_leader_ever_nothing_is_decided() -> None:
    found = await World().explain({"subject": "a.b"})
    assert found["decided_until"] is None
    assert {line["what"] for line in found["past"]} == {"undecided"}


@pytest.mark.parametrize(
    ("request_", "error", "words"),
    [
        ({"subject": "x.y"}, JobNotFoundError, "no job 'x.y'"),
        ({}, ValidationError, "job subject is required"),
        ({"subject": 5}, MalformedInputError, "string"),
        ({"subject": "a.b", "since": 5}, MalformedInputError, "string"),
        (
            {"subject": "a.b", "next": -1},
            ValidationError,
            "next must be a whole number of at least 0 and at most 100; got -1",
        ),
        ({"subject": "a.b", "next": "many"}, ValidationError, "next"),
        ({"subject": "a.b", "until": "tomorrow"}, ValidationError, "RFC 3339"),
        ({"subject": "a.b", "since": ms_to_text(NOW)}, ValidationError, "must lie before until"),
        (b"[]", MalformedInputError, "struct"),
    ],
)
async def test_wrong_requests_are_refused(request_: Any, error: type[Exception], words: str) -> None:  # noqa: ANN401 - any JSON value
    with pytest.raises(error, match=words):
        await World(mark=MARK).explain(request_)


async def test_what_is_gone_is_told_with_what_the_history_keeps() -> None:
    world = World(mark=MARK)
    world.ran(NOW - 30_000)
    found = await world.explain({"subject": "a.b"})
    assert KEEPS in found["past"][0]["text"]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (HistorySettings(), "100 records per job, 7 days"),
        (HistorySettings(per_job=1, max_age_ms=DAY), "1 record per job, 1 day"),
        (HistorySettings(per_job=5_000, max_age_ms=90 * 60_000), "5,000 records per job, 1h30m"),
        (HistorySettings(enabled=False), "nothing: it is switched off ([history] enabled)"),
    ],
)
def test_what_the_history_keeps_is_told_as_it_is_configured(settings: HistorySettings, words: str) -> None:
    assert history_in_words(settings) == words


async def test_a_slot_that_waits_for_the_run_before_it_is_told_as_waiting() -> None:
    world = World(mark=MARK)
    row = OpenRow(run_id="w", job_id="a.b", generation=3, scheduled_at_ms=NOW - 30_000, state=OpenState.BUFFERED)
    world.waiting = [row]
    line = (await world.explain({"subject": "a.b"}))["past"][-1]
    assert (line["at"], line["what"], line["reason"]) == ("2027-06-15T12:00:00.000Z", "going", "waits")
    assert "until the run before it has ended" in line["text"]


async def test_the_future_is_no_past_without_slots() -> None:
    world = World(mark=MARK)
    later = {"since": ms_to_text(NOW + DAY), "until": ms_to_text(NOW + 2 * DAY)}
    with pytest.raises(ValidationError, match="lies in the future: what comes is told by 'next'"):
        await world.explain({"subject": "a.b", **later})
    found = await world.explain({"subject": "a.b", "until": ms_to_text(NOW + DAY), "since": ms_to_text(NOW - DAY)})
    assert found["until"] == found["now"]
