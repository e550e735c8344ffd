"""The API's calls on a store in memory: shapes, errors, paging, concurrency, and input that means harm."""

import asyncio
import json
from collections.abc import Sequence
from typing import Any, cast

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from natscron.clock import SystemClock
from natscron.codec import decode_row, encode_row, key_of
from natscron.engine.engine import EngineStatus
from natscron.engine.table import Entry, JobTable
from natscron.errors import (
    InvalidSubjectError,
    JobAlreadyExistsError,
    JobNotFoundError,
    LimitExceededError,
    StorageUnavailableError,
    ValidationError,
    WrongRevisionError,
)
from natscron.ids import ulid
from natscron.model import Delivery, Job, JobState, Mark, Run, RunStatus, Stamp
from natscron.server.admission import Admission
from natscron.server.api import Answer, Endpoint, endpoints
from natscron.server.context import Context
from natscron.server.delivery import CapturingStream, StreamMap, SubjectTarget
from natscron.server.freshness import Freshness
from natscron.server.info import Info
from natscron.server.jobs import Jobs
from natscron.server.limits import Limits
from natscron.server.lookups import Lookups
from natscron.server.runs import Runs
from natscron.server.subjects import SubjectPolicy
from natscron.storage.protocol import RunQuery, Storage

pytestmark = pytest.mark.anyio


class Store:
    """Jobs as bytes under keys, with a sequence; each write is in the table when it returns, unless told to lag."""

    def __init__(self, table: JobTable) -> None:
        self.seq = 0
        self.lag = False
        self.down = False
        self.lookups = 0
        self.gate: asyncio.Event | None = None
        self.rows: dict[str, Job] = {}
        self.runs: list[Run] = []
        self._table = table

    def write(self, key: str, value: bytes) -> int:
        self.seq += 1
        job = decode_row(key, value, Stamp(1_700_000_000_000 + self.seq, self.seq))
        self.rows.pop(job.id, None)
        self.rows[job.id] = job
        if not self.lag:
            self._table.put(job)
            self._table.complete(self.seq)
        return self.seq

    async def _breath(self) -> None:
        await asyncio.sleep(0)
        if self.down:
            raise StorageUnavailableError("the store is away")

    async def create_job(self, job: Job) -> int:
        await self._breath()
        if job.id in self.rows:
            raise JobAlreadyExistsError(job.id)
        return self.write(key_of(job.id), encode_row(job))

    async def put_job(self, job: Job, expected_revision: int | None = None) -> int:
        await self._breath()
        present = self.rows.get(job.id)
        if expected_revision is not None and (present.revision if present else 0) != expected_revision:
            raise WrongRevisionError(job.id)
        return self.write(key_of(job.id), encode_row(job))

    async def delete_job(self, job_id: str, expected_revision: int | None = None) -> None:
        await self._breath()
        present = self.rows.get(job_id)
        if present is None:
            raise JobNotFoundError(job_id)
        if expected_revision is not None and present.revision != expected_revision:
            raise WrongRevisionError(job_id)
        del self.rows[job_id]
        self.seq += 1
        self._table.delete(job_id, self.seq)
        self._table.complete(self.seq)

    async def fetch_job(self, job_id: str) -> Job | None:
        await self._breath()
        return self.rows.get(job_id)

    async def last_jobs_seq(self) -> int:
        self.lookups += 1
        seq = self.seq
        await self._breath()
        if self.gate is not None:
            await self.gate.wait()
        return seq

    async def list_runs(self, query: RunQuery) -> Sequence[Run]:
        await self._breath()
        found = [
            run
            for run in self.runs
            if query.job in (None, run.job)
            and query.run_id in (None, run.run_id)
            and query.status in (None, run.status)
        ]
        if query.descending:
            found.reverse()
        return found[query.offset : query.offset + query.limit]


class Engine:
    """Knows the table and nothing of time."""

    def __init__(self) -> None:
        self.table = JobTable(10_000_000)
        self.is_leader = False
        self.mark: Mark | None = None
        self.triggered: list[tuple[str, Any, str | None]] = []
        self.recorded: list[Run] = []

    def status(self) -> EngineStatus:
        return EngineStatus(
            is_leader=False,
            leader="i2",
            epoch=3,
            mark_ms=1_700_000_000_000,
            instances=["i1", "i2"],
            jobs=len(self.table),
            lateness_p50_ms=0.5,
            lateness_p99_ms=None,
            started_at_ms=SystemClock().now_ms(),
            blocked=None,
            warnings=["w"],
        )

    def last_run_ms(self, _job_id: str) -> int | None:
        return None

    def next_run_ms(self, job_id: str) -> int | None:
        entry = self.table.get(job_id)
        return None if entry is None or entry.schedule is None else entry.schedule.next_after_ms(1_800_000_000_000)

    def state_of(self, entry: Entry) -> JobState:
        if entry.job.invalid is not None:
            return JobState.INVALID
        return JobState.PAUSED if entry.job.paused else JobState.ACTIVE

    async def trigger(self, job_id: str, payload: Any = msgspec.UNSET, key: str | None = None) -> str:  # noqa: ANN401 - any JSON value
        self.triggered.append((job_id, payload, key))
        return ulid(1_700_000_000_000)

    def record(self, run: Run) -> None:
        self.recorded.append(run)


class World:
    """A service without a network."""

    def __init__(self, limits: Limits | None = None, max_reply: int = 1 << 20) -> None:
        self.engine = Engine()
        self.store = Store(self.engine.table)
        self.streams = StreamMap()
        policy = SubjectPolicy.for_service("nats-cron")
        store = cast("Storage", self.store)
        context = Context(
            name="nats-cron",
            instance_id="i1",
            store=store,
            engine=self.engine,
            target=SubjectTarget(policy, self.streams),
            admission=Admission(policy, limits or Limits(), self.streams, 10_000_000),
            clock=SystemClock(),
            fresh=Freshness(store, self.engine.table, timeout_s=0.2),
            max_reply=lambda: max_reply,
            on_saved=lambda _job: None,
            notes=lambda: ["n"],
        )
        self.jobs = Jobs(context)
        self.lookups = Lookups(context)
        self.runs = Runs(context)
        self.all = endpoints(self.jobs, self.lookups, self.runs, Info(context))

    async def ask(self, subject: str, data: bytes | dict[str, Any] = b"") -> Answer:
        endpoint = next(one for one in self.all if one.subject == subject)
        return await endpoint.answer(data if isinstance(data, bytes) else json.dumps(data).encode())

    async def body(self, subject: str, data: bytes | dict[str, Any] = b"") -> Any:  # noqa: ANN401 - any JSON value
        answer = await self.ask(subject, data)
        assert answer.code == 0, answer
        return json.loads(answer.body)

    async def error(self, subject: str, data: bytes | dict[str, Any] = b"") -> tuple[int, str, str]:
        answer = await self.ask(subject, data)
        assert answer.code != 0, answer
        body = json.loads(answer.body)
        assert set(body) == {"error", "code"}
        assert body["code"] == str(answer.code)
        return answer.code, answer.description, body["error"]


@pytest.fixture
def world() -> World:
    return World()


def job(subject: str = "a.b", every: str = "30s", **more: Any) -> dict[str, Any]:  # noqa: ANN401 - any JSON value
    return {"subject": subject, "schedule": {"every": every}, **more}


# Shapes.


async def test_endpoints_come_in_the_go_versions_order_then_ours(world: World) -> None:
    assert [one.name for one in world.all] == [
        "jobs-list",
        "jobs-create",
        "jobs-update",
        "jobs-delete",
        "jobs-delete-pattern",
        "jobs-get",
        "status",
        "jobs-put",
        "jobs-pause",
        "jobs-resume",
        "jobs-trigger",
        "jobs-preview",
        "runs-list",
        "runs-get",
        "runs-report",
        "cluster-info",
    ]
    assert all(one.subject == one.name.replace("-", ".") for one in world.all)


async def test_every_endpoints_metadata_is_json_text_and_small(world: World) -> None:
    for one in world.all:
        for text in one.metadata.values():
            assert json.loads(text)["type"] == "object"
    assert sum(len(text) for one in world.all for text in one.metadata.values()) < 32_000


async def test_replies_to_writes_are_maps_of_strings_with_sorted_keys(world: World) -> None:
    for subject, data in (
        ("jobs.create", job(colour="red")),
        ("jobs.update", job()),
        ("jobs.put", job()),
        ("jobs.pause", {"subject": "a.b"}),
        ("jobs.resume", {"subject": "a.b"}),
        ("jobs.delete", {"subject": "a.b"}),
    ):
        reply = await world.body(subject, data)
        assert all(isinstance(value, str) for value in reply.values()), subject
        assert list(reply) == sorted(reply)


async def test_the_words_for_what_was_done_are_the_go_versions(world: World) -> None:
    assert (await world.body("jobs.create", job()))["status"] == "created"
    assert (await world.body("jobs.update", job()))["status"] == "updated"
    assert (await world.ask("jobs.delete", {"subject": "a.b"})).body == b'{"status":"deleted"}'


async def test_an_empty_list_is_null_as_in_go(world: World) -> None:
    assert (await world.ask("jobs.list")).body == b'{"jobs":null}'
    assert (await world.ask("jobs.delete.pattern", {"pattern": "x.>"})).body == b'{"count":0,"deleted":null}'


async def test_get_begins_with_what_go_shows(world: World) -> None:
    await world.body("jobs.create", job())
    answer = await world.ask("jobs.get", {"subject": "a.b"})
    assert answer.body.startswith(b'{"subject":"a.b","schedule":{"every":"30s"},')
    shown = json.loads(answer.body)
    assert shown["revision"] == 1
    assert shown["state"] == "active"
    assert shown["delivery_effective"] == "core"
    assert shown["next_run"].endswith("Z")
    assert shown["last_run"] is None


async def test_html_characters_are_escaped_as_go_escapes_them(world: World) -> None:
    await world.body("jobs.create", job(note="<a> & b\u2028"))
    answer = await world.ask("jobs.get", {"subject": "a.b"})
    assert rb'"note":"\u003ca\u003e \u0026 b\u2028"' in answer.body


async def test_status_has_the_go_versions_fields_among_sorted_keys(world: World) -> None:
    await world.body("jobs.create", job())
    reply = await world.body("status", b"whatever")
    assert (reply["service"], reply["is_leader"], reply["jobs"]) == ("nats-cron", False, 1)
    assert (reply["leader"], reply["epoch"], reply["instances"]) == ("i2", 3, ["i1", "i2"])
    assert reply["mark"] == "2023-11-14T22:13:20.000Z"
    assert reply["lateness_ms"] == {"p50": 0.5, "p99": None}
    assert reply["warnings"] == ["w", "n"]
    assert list(reply) == sorted(reply)


async def test_cluster_info_names_the_leader_and_the_streams_that_matter(world: World) -> None:
    world.streams.replace([CapturingStream("S", ("x.>",)), CapturingStream("KV_b", ("$KV.b.>",))])
    reply = await world.body("cluster.info")
    assert reply["leader"] == "i2"
    assert [one["name"] for one in reply["streams"]] == ["S"]
    assert reply["instances"] == [{"instance_id": "i1", "is_leader": False}, {"instance_id": "i2", "is_leader": True}]


# Errors of the Go version.


@pytest.mark.parametrize(
    ("data", "code", "text"),
    [
        (b"", 400, "unexpected end of JSON input"),
        (b"{bad", 400, "invalid character 'b' looking for beginning of object key string"),
        (b"[]", 400, "json: cannot unmarshal array into Go value of type scheduler.JobDefinition"),
        (
            b'{"subject":5}',
            400,
            "json: cannot unmarshal number into Go struct field JobDefinition.subject of type string",
        ),
        (b'{"subject":"a"} t', 400, "invalid character 't' after top-level value"),
        (b"null", 422, "job subject is required"),
        (b"{}", 422, "job subject is required"),
        (b'{"subject":"a"}', 422, "invalid schedule: schedule must specify either 'every' or 'cron'"),
        (b'{"subject":"a","schedule":{}}', 422, "invalid schedule: schedule must specify either 'every' or 'cron'"),
        (
            b'{"subject":"a","schedule":{"every":"1s","cron":"* * * * *"}}',
            422,
            "invalid schedule: schedule cannot specify both 'every' and 'cron'",
        ),
        (
            b'{"subject":"a","schedule":{"every":"30"}}',
            422,
            "invalid schedule: invalid duration '30': time: missing unit in duration \"30\"",
        ),
        (
            b'{"subject":"a","schedule":{"cron":"60 * * * *"}}',
            422,
            "invalid schedule: invalid cron expression '60 * * * *': end of range (60) above maximum (59): 60",
        ),
        (b'{"subject":"x","schedule":{"cron":"TZ=UTC"}}', 422, "invalid schedule: invalid cron expression"),
        (b'{"subject":"x","schedule":{"every":"0s"}}', 422, "invalid schedule: invalid duration"),
        (b'{"subject":"x","schedule":{"every":"1ns"}}', 422, "below the minimum"),
        (b'{"subject":"a b","schedule":{"every":"1s"}}', 422, "failed to create job in KV store: nats: invalid key"),
        (b'{"subject":"a.*","schedule":{"every":"1s"}}', 422, "nats: invalid key"),
        (b'{"subject":"$SYS.x","schedule":{"every":"1s"}}', 422, "reserved"),
        (b'{"subject":"nats-cron.status","schedule":{"every":"1s"}}', 422, "reserved"),
    ],
)
async def test_a_refused_create_says_what_go_says(world: World, data: bytes, code: int, text: str) -> None:
    got, description, said = await world.error("jobs.create", data)
    assert got == code
    assert description == "Failed to create job"
    assert text in said
    assert not world.store.rows


async def test_a_second_create_is_refused_in_gos_words(world: World) -> None:
    await world.body("jobs.create", job())
    code, _, text = await world.error("jobs.create", job())
    assert code == 409
    assert "job with subject a.b already exists" in text


@pytest.mark.parametrize(
    ("subject", "data", "code", "description", "text"),
    [
        ("jobs.get", b"", 400, "Invalid request", "unexpected end of JSON input"),
        ("jobs.get", b'{"subject":"x"}', 404, "Job not found", "nats: key not found"),
        ("jobs.get", b'{"subject":"a b"}', 404, "Job not found", "nats: invalid key"),
        ("jobs.get", b"{}", 404, "Job not found", "nats: invalid key"),
        ("jobs.get", b'{"subject":[]}', 400, "Invalid request", "json: cannot unmarshal array into Go struct field"),
        ("jobs.delete", b"", 400, "Invalid request", "unexpected end of JSON input"),
        ("jobs.delete", b"{}", 422, "Failed to delete job", "nats: invalid key"),
        ("jobs.delete", b'{"subject":"x"}', 404, "Failed to delete job", "nats: key not found"),
        ("jobs.delete.pattern", b"x", 400, "Invalid request", "invalid character 'x'"),
        ("jobs.delete.pattern", b'{"pattern":"a.>.b"}', 422, "Failed to delete jobs", "only come last"),
        ("jobs.delete.pattern", b"{}", 422, "Failed to delete jobs", "empty"),
        ("jobs.update", b'{"subject":"x","schedule":{"every":"1s"}}', 404, "Failed to update job", "key not found"),
        ("jobs.update", b"{}", 422, "Failed to update job", "job subject is required"),
        ("jobs.pause", b'{"subject":"x"}', 404, "Job not found", "key not found"),
        ("jobs.trigger", b'{"subject":"x"}', 404, "Job not found", "key not found"),
        ("jobs.list", b'{"pattern":"te*"}', 422, "Failed to get jobs", "whole token"),
        ("jobs.list", b'{"cursor":"x"}', 422, "Failed to get jobs", "cursor"),
        ("jobs.list", b'{"limit":0}', 422, "Failed to get jobs", "limit"),
        ("jobs.list", b'{"state":"odd"}', 422, "Failed to get jobs", "odd"),
        ("jobs.preview", b'{"schedule":{"cron":"x"}}', 422, "Failed to preview", "invalid cron expression"),
        ("jobs.preview", b'{"schedule":{"every":"1s"},"after":"now"}', 422, "Failed to preview", "RFC 3339"),
        ("runs.get", b'{"run_id":"x"}', 422, "Failed to get run", "not a ULID"),
        ("runs.get", b'{"run_id":"01JQ0000000000000000000000"}', 404, "Run not found", "no run"),
        ("runs.report", b'{"run_id":"01JQ0000000000000000000000"}', 422, "Failed to record", "status"),
        ("runs.list", b'{"since":"x"}', 422, "Failed to get runs", "RFC 3339"),
    ],
)
async def test_a_refused_request_names_what_is_wrong(
    world: World, subject: str, data: bytes, code: int, description: str, text: str
) -> None:
    got, described, said = await world.error(subject, data)
    assert (got, described) == (code, description)
    assert text in said


# Writes.


async def test_an_update_keeps_what_is_not_given_and_null_resets(world: World) -> None:
    await world.body("jobs.create", job(payload="keep", note="why", headers={"X": "1"}))
    await world.body("jobs.update", job(every="1m", note=None))
    shown = await world.body("jobs.get", {"subject": "a.b"})
    assert shown["schedule"] == {"every": "1m"}
    assert shown["payload"] == "keep"
    assert shown["headers"] == {"X": "1"}
    assert "note" not in shown


async def test_put_replaces_as_a_whole_and_creates(world: World) -> None:
    assert (await world.body("jobs.put", job(note="first")))["status"] == "created"
    assert (await world.body("jobs.put", job(every="5m")))["status"] == "updated"
    shown = await world.body("jobs.get", {"subject": "a.b"})
    assert shown["schedule"] == {"every": "5m"}
    assert "note" not in shown


@pytest.mark.parametrize("subject", ["jobs.update", "jobs.put", "jobs.delete", "jobs.pause", "jobs.resume"])
@pytest.mark.parametrize("as_text", [True, False])
async def test_a_write_on_an_old_revision_is_refused(world: World, subject: str, *, as_text: bool) -> None:
    await world.body("jobs.create", job())
    await world.body("jobs.update", job(every="1m"))
    code, _, text = await world.error(subject, job(expected_revision="1" if as_text else 1))
    assert code == 409
    assert world.store.rows["a.b"].revision == 2, text
    assert (await world.ask(subject, job(expected_revision="2" if as_text else 2))).code == 0


async def test_put_and_create_may_insist_that_there_is_no_job(world: World) -> None:
    assert (await world.body("jobs.put", job(expected_revision=0)))["status"] == "created"
    assert (await world.error("jobs.put", job(expected_revision=0)))[0] == 409
    assert (await world.error("jobs.create", job("c", expected_revision=4)))[0] == 409
    assert (await world.error("jobs.put", job("c", expected_revision=4)))[0] == 409


@pytest.mark.parametrize("value", [-1, 1.5, "x", True, [], "9" * 30])
async def test_a_revision_that_is_none_is_refused(world: World, value: Any) -> None:  # noqa: ANN401 - any JSON value
    assert (await world.error("jobs.put", job(expected_revision=value)))[0] == 422


async def test_concurrent_edits_of_one_job_are_all_kept(world: World) -> None:
    await world.body("jobs.create", job())
    await asyncio.gather(*(world.body("jobs.update", {"subject": "a.b", f"x{n}": n}) for n in range(4)))
    shown = await world.body("jobs.get", {"subject": "a.b"})
    assert {f"x{n}" for n in range(4)} <= set(shown)


async def test_an_edit_decided_on_an_old_copy_is_decided_again(world: World) -> None:
    await world.body("jobs.create", job())
    world.store.lag = True
    world.store.write("a.b", b'{"subject":"a.b","schedule":{"every":"30s"},"note":"theirs"}')
    await world.body("jobs.update", {"subject": "a.b", "labels": {"l": "1"}})
    assert world.store.rows["a.b"].note == "theirs"
    assert world.store.rows["a.b"].labels == {"l": "1"}


async def test_pausing_keeps_the_job_and_takes_a_note(world: World) -> None:
    await world.body("jobs.create", job(payload="p"))
    await world.body("jobs.pause", {"subject": "a.b", "note": "holidays"})
    shown = await world.body("jobs.get", {"subject": "a.b"})
    assert (shown["state"], shown["note"], shown["payload"]) == ("paused", "holidays", "p")
    await world.body("jobs.resume", {"subject": "a.b"})
    shown = await world.body("jobs.get", {"subject": "a.b"})
    assert (shown["state"], shown["note"]) == ("active", "holidays")


async def test_in_five_minutes_becomes_an_instant_when_it_is_saved(world: World) -> None:
    reply = await world.body("jobs.create", {"subject": "a", "schedule": {"at": "in 5m"}})
    at = world.store.rows["a"].schedule.at  # type: ignore[union-attr]
    assert at == reply["next_run"]
    await world.body("jobs.update", {"subject": "a", "note": "x"})
    assert world.store.rows["a"].schedule.at == at  # type: ignore[union-attr]


async def test_unknown_fields_are_kept_and_warned_about(world: World) -> None:
    reply = await world.body("jobs.create", job(colour="red"))
    assert "colour" in reply["warning"]
    assert (await world.body("jobs.get", {"subject": "a.b"}))["colour"] == "red"


async def test_a_timeout_needs_a_delivery_that_waits(world: World) -> None:
    assert "timeout" in (await world.error("jobs.create", job(delivery="core", timeout="5s")))[2]
    assert "timeout" in (await world.body("jobs.create", job("a", timeout="5s")))["warning"]
    world.streams.replace([CapturingStream("S", ("b",))])
    assert "warning" not in await world.body("jobs.create", job("b", timeout="5s"))


async def test_the_older_form_is_taken_and_shown(world: World) -> None:
    old = {"target": {"subject": "j.a"}, "payload": {"type": "json", "data": "{}"}, "schedule": {"every": "10s"}}
    await world.body("jobs.create", old)
    shown = await world.body("jobs.get", {"subject": "j.a"})
    assert shown["target"] == {"subject": "j.a"}
    assert shown["subject"] == "j.a"


async def test_a_pattern_deletes_what_it_matches_in_the_order_of_the_list(world: World) -> None:
    for subject in ("a", "a.c", "a.b", "b"):
        await world.body("jobs.create", job(subject))
    await world.body("jobs.update", job("a.c", every="1m"))
    answer = await world.ask("jobs.delete.pattern", {"pattern": "a.>"})
    assert answer.body == b'{"count":2,"deleted":["a.b","a.c"]}'
    assert set(world.store.rows) == {"a", "b"}


async def test_rows_that_cannot_be_honoured_are_listed_and_can_be_mended_or_deleted(world: World) -> None:
    world.store.write("bad", b"not json")
    world.store.write("worse", b'{"subject":"worse","schedule":{"cron":"99 * * * *"}}')
    listed = (await world.body("jobs.list", {"state": "invalid"}))["jobs"]
    assert [(one["subject"], one["state"], bool(one["invalid"])) for one in listed] == [
        ("bad", "invalid", True),
        ("worse", "invalid", True),
    ]
    assert (await world.error("jobs.trigger", {"subject": "bad"}))[0] == 422
    assert (await world.error("jobs.pause", {"subject": "bad"}))[0] == 422
    await world.body("jobs.update", job("bad"))
    await world.body("jobs.delete", {"subject": "worse"})
    assert (await world.body("jobs.get", {"subject": "bad"}))["state"] == "active"


# Limits.


@pytest.mark.parametrize(
    ("more", "what"),
    [
        ({"payload": "x" * 101}, "payload: 101 bytes, and the limit is 100"),
        ({"headers": {"A": "1", "B": "2", "C": "3"}}, "headers: 3 entries, and the limit is 2"),
        ({"headers": {"A": "x" * 20_000}}, "headers: "),
        ({"labels": {"a": "1", "b": "2", "c": "3"}}, "labels: 3 entries, and the limit is 2"),
        ({"labels": {"x" * 129: "1"}}, "label name"),
        ({"labels": {"x": "y" * 1025}}, "label 'x'"),
        ({"note": "x" * 5000}, "note: 5000 characters"),
        ({"odd": "x" * 70_000}, "unknown fields"),
    ],
)
async def test_what_is_too_large_is_refused_with_value_limit_and_remedy(more: dict[str, Any], what: str) -> None:
    world = World(Limits(max_payload=100, max_headers=2, max_labels=2))
    code, _, text = await world.error("jobs.create", job(**more))
    assert code == 413
    assert what in text
    assert ";" in text


async def test_there_are_never_more_jobs_than_allowed_also_when_created_at_once() -> None:
    world = World(Limits(max_jobs=5))
    answers = await asyncio.gather(*(world.ask("jobs.create", job(f"a.{n}")) for n in range(20)))
    assert sorted(answer.code for answer in answers) == [0] * 5 + [413] * 15
    assert (await world.ask("jobs.put", job("new"))).code == 413
    assert (await world.ask("jobs.put", job("a.0"))).code == 0


# Reads.


async def test_a_read_sees_every_write_before_it(world: World) -> None:
    world.store.lag = True
    world.store.write("a.b", b'{"subject":"a.b","schedule":{"every":"1s"}}')

    async def later() -> None:
        await asyncio.sleep(0.02)
        world.engine.table.put(world.store.rows["a.b"])
        world.engine.table.complete(world.store.seq)

    shown, _ = await asyncio.gather(world.body("jobs.get", {"subject": "a.b"}), later())
    assert shown["subject"] == "a.b"


async def test_a_read_that_cannot_be_fresh_says_so_instead_of_lying(world: World) -> None:
    world.store.lag = True
    world.store.write("a.b", b'{"subject":"a.b","schedule":{"every":"1s"}}')
    code, _, text = await world.error("jobs.get", {"subject": "a.b"})
    assert code == 503
    assert "try again" in text


async def test_reads_at_once_share_a_lookup_that_began_after_them(world: World) -> None:
    await world.body("jobs.create", job())
    world.store.gate = asyncio.Event()
    first = asyncio.create_task(world.body("jobs.get", {"subject": "a.b"}))
    while world.store.lookups == 0:  # noqa: ASYNC110 - the store counts, there is no event
        await asyncio.sleep(0)
    rest = [asyncio.create_task(world.body("jobs.get", {"subject": "a.b"})) for _ in range(50)]
    await asyncio.sleep(0.01)
    world.store.gate.set()
    await asyncio.gather(first, *rest)
    assert world.store.lookups == 2


async def test_a_cancelled_read_leaves_the_others_their_lookup(world: World) -> None:
    await world.body("jobs.create", job())
    world.store.gate = asyncio.Event()
    one = asyncio.create_task(world.body("jobs.get", {"subject": "a.b"}))
    other = asyncio.create_task(world.body("jobs.get", {"subject": "a.b"}))
    await asyncio.sleep(0.01)
    one.cancel()
    world.store.gate.set()
    assert (await other)["subject"] == "a.b"
    assert one.cancelled() or one.cancelling()


async def test_a_store_that_is_away_is_a_503_everywhere(world: World) -> None:
    await world.body("jobs.create", job())
    world.store.down = True
    for subject in ("jobs.create", "jobs.update", "jobs.put", "jobs.delete", "jobs.get", "jobs.list", "jobs.pause"):
        assert (await world.error(subject, job("c" if subject == "jobs.create" else "a.b")))[0] == 503
    assert (await world.ask("status")).code == 0


async def test_the_list_is_in_the_order_of_the_last_change(world: World) -> None:
    for subject in ("b", "a", "c"):
        await world.body("jobs.create", job(subject))
    await world.body("jobs.update", job("b", every="1m"))
    listed = await world.body("jobs.list")
    assert [one["subject"] for one in listed["jobs"]] == ["a", "c", "b"]
    assert listed["total"] == 3
    assert "next" not in listed


@pytest.fixture
def many() -> World:
    world = World(max_reply=20_000)
    for n in range(200):
        label = '"labels":{"team":"red"},' if n % 2 else ""
        world.store.write(f"j.{n}", b'{"subject":"j.%d",%s"schedule":{"every":"30s"}}' % (n, label.encode()))
    return world


async def test_pages_cover_everything_once_and_each_fits_in_a_message(many: World) -> None:
    found: list[str] = []
    request: dict[str, Any] = {}
    pages = 0
    while True:
        answer = await many.ask("jobs.list", request)
        assert len(answer.body) <= 20_000
        page = json.loads(answer.body)
        assert page["total"] == 200
        found += [one["subject"] for one in page["jobs"]]
        pages += 1
        if "next" not in page:
            break
        request = {"cursor": page["next"]}
    assert found == [f"j.{n}" for n in range(200)]
    assert pages > 2


async def test_filters_and_limits_work_together(many: World) -> None:
    page = await many.body("jobs.list", {"label": "team=red", "limit": 3})
    assert [one["subject"] for one in page["jobs"]] == ["j.1", "j.3", "j.5"]
    assert page["total"] == 100
    page = await many.body("jobs.list", {"label": "team", "limit": 2, "cursor": page["next"]})
    assert [one["subject"] for one in page["jobs"]] == ["j.7", "j.9"]
    page = await many.body("jobs.list", {"pattern": "j.7", "state": "active"})
    assert page["total"] == 1


async def test_a_job_edited_between_two_pages_is_seen_again_rather_than_missed(many: World) -> None:
    page = await many.body("jobs.list", {"limit": 10})
    await many.body("jobs.update", job("j.50", every="1m"))
    seen = [one["subject"] for one in page["jobs"]]
    while "next" in page:
        page = await many.body("jobs.list", {"cursor": page["next"]})
        seen += [one["subject"] for one in page["jobs"]]
    assert set(seen) == {f"j.{n}" for n in range(200)}


async def test_a_job_too_large_for_a_page_does_not_hide_the_others() -> None:
    world = World(max_reply=4000)
    await world.body("jobs.create", job("big", payload="x" * 5000))
    await world.body("jobs.create", job("small"))
    page = await world.body("jobs.list")
    more = await world.body("jobs.list", {"cursor": page["next"]}) if "next" in page else {"jobs": []}
    assert [one["subject"] for one in page["jobs"] + more["jobs"]] == ["big", "small"]


async def test_what_is_listed_can_be_created_again(world: World) -> None:
    await world.body("jobs.create", job(payload={"a": [1]}, headers={"X": "y"}, labels={"l": "m"}, overlap="skip"))
    (shown,) = (await world.body("jobs.list"))["jobs"]
    await world.body("jobs.delete", {"subject": "a.b"})
    assert "warning" not in await world.body("jobs.create", shown)
    (again,) = (await world.body("jobs.list"))["jobs"]
    owned = {"revision", "created_at", "updated_at", "next_run"}
    assert {k: v for k, v in again.items() if k not in owned} == {k: v for k, v in shown.items() if k not in owned}


async def test_preview_shows_the_next_slots(world: World) -> None:
    reply = await world.body(
        "jobs.preview", {"schedule": {"cron": "0 9 * * MON"}, "after": "2026-11-20T00:00:00Z", "count": 2}
    )
    assert reply["slots"] == ["2026-11-23T09:00:00.000Z", "2026-11-30T09:00:00.000Z"]
    await world.body("jobs.create", job())
    assert len((await world.body("jobs.preview", {"subject": "a.b"}))["slots"]) == 5


# Runs.


async def test_a_trigger_names_its_run_and_passes_payload_and_key_on(world: World) -> None:
    await world.body("jobs.create", job())
    reply = await world.body("jobs.trigger", {"subject": "a.b", "payload": {"n": 1}, "key": "k"})
    assert len(reply["run_id"]) == 26
    assert world.engine.triggered == [("a.b", {"n": 1}, "k")]
    await world.body("jobs.trigger", {"subject": "a.b", "payload": None})
    assert world.engine.triggered[1] == ("a.b", msgspec.UNSET, None)


async def test_a_triggers_payload_has_the_jobs_limit() -> None:
    world = World(Limits(max_payload=10))
    await world.body("jobs.create", job())
    assert (await world.error("jobs.trigger", {"subject": "a.b", "payload": "x" * 11}))[0] == 413


async def test_runs_are_listed_newest_first_in_pages(world: World) -> None:
    world.store.runs = [Run(job="a", status=RunStatus.SENT, run_id=ulid(n), scheduled_at_ms=n) for n in range(5)]
    page = await world.body("runs.list", {"job": "a", "limit": 2})
    assert [one["scheduled_at"][-5:] for one in page["runs"]] == [".004Z", ".003Z"]
    page = await world.body("runs.list", {"job": "a", "limit": 3, "cursor": page["next"]})
    assert len(page["runs"]) == 3
    assert "next" not in page
    assert (await world.body("runs.list", {"job": "zz"})) == {"runs": []}


async def test_a_run_shows_all_its_attempts(world: World) -> None:
    run_id = ulid(1)
    world.store.runs = [
        Run(job="a", status=RunStatus.FAILED, run_id=run_id, attempt=1),
        Run(job="a", status=RunStatus.COMPLETED, run_id=run_id, attempt=2),
    ]
    reply = await world.body("runs.get", {"run_id": run_id})
    assert reply["run"]["status"] == "completed"
    assert [one["attempt"] for one in reply["attempts"]] == [1, 2]


async def test_a_workers_report_becomes_a_record_of_its_run(world: World) -> None:
    run_id = ulid(1_700_000_000_000)
    world.store.runs = [
        Run(job="a", status=RunStatus.SENT, run_id=run_id, scheduled_at_ms=5, delivery=Delivery.CORE, instance="i9")
    ]
    await world.body("runs.report", {"run_id": run_id, "status": "failed", "error": "no disk\x00" + "x" * 3000})
    (run,) = world.engine.recorded
    assert (run.job, run.run_id, run.scheduled_at_ms, run.instance) == ("a", run_id, 5, "i9")
    assert (run.status, run.reason) == (RunStatus.FAILED, "worker_error")
    assert run.error is not None
    assert len(run.error) == 1024
    assert run.finished_at_ms is not None


async def test_a_report_before_the_record_needs_the_job(world: World) -> None:
    await world.body("jobs.create", job())
    run_id = ulid(1_700_000_000_000)
    assert (await world.error("runs.report", {"run_id": run_id, "status": "running"}))[0] == 404
    await world.body("runs.report", {"run_id": run_id, "status": "running", "job": "a.b"})
    (run,) = world.engine.recorded
    assert (run.scheduled_at_ms, run.finished_at_ms) == (1_700_000_000_000, None)


# Input that means harm.

_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
_fields = st.sampled_from(
    [
        *("subject", "schedule", "payload", "headers", "delivery", "catchup", "overlap", "timeout", "retry", "labels"),
        *("paused", "note", "target", "expected_revision", "pattern", "state", "label", "limit", "cursor", "run_id"),
        *("status", "attempt", "count", "after", "SUBJECT", "Schedule", "key", "job", "since"),
    ]
)
_requests = st.one_of(
    st.binary(max_size=60),
    _values.map(lambda value: json.dumps(value).encode()),
    st.dictionaries(_fields, _values, max_size=5).map(lambda value: json.dumps(value).encode()),
    st.dictionaries(
        st.sampled_from(["every", "cron", "at", "tz", "start_at", "run_at_start"]), _values, max_size=3
    ).map(lambda spec: json.dumps({"subject": "fuzz", "schedule": spec}).encode()),
)


@given(_requests)
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_any_request_gets_a_reply_that_is_json_and_a_sound_job_stays_as_it_is(data: bytes) -> None:
    async def scenario() -> None:
        world = World()
        await world.body("jobs.create", job("sound"))
        for endpoint in world.all:
            if endpoint.subject in {"jobs.delete.pattern", "jobs.delete"} and b"sound" in data:
                continue
            answer = await endpoint.answer(data)
            assert isinstance(json.loads(answer.body), dict)
            assert answer.code != 500, (endpoint.name, data, answer)
            if answer.code:
                assert json.loads(answer.body)["error"]
        assert world.store.rows["sound"].schedule is not None

    asyncio.run(scenario())


@pytest.mark.parametrize(
    "data",
    [
        b"\xff\xfe\x00",
        b'{"subject":"\xff"}',
        b'{"subject":"a","schedule":{"every":"' + b"9" * 100_000 + b's"}}',
        b'{"subject":"a","schedule":{"cron":"' + b"* " * 50_000 + b'"}}',
        b"[" * 100_000,
        b'{"a":' * 50_000 + b"1" + b"}" * 50_000,
        b'{"subject":"a","schedule":{"every":"1s"},"payload":' + b"[" * 500 + b"]" * 500 + b"}",
        b'{"subject":"a","schedule":{"every":1e999}}',
        b'{"subject":"a","retry":{"attempts":' + b"9" * 5000 + b"}}",
        b'{"subject":"\\ud800","schedule":{"every":"1s"}}',
        b'{"subject":"a","schedule":{"every":"1s"},"timeout":"-1s"}',
        b'{"subject":"a","schedule":{"at":"9999-12-31T23:59:59.999999999Z","tz":"../../etc/passwd"}}',
    ],
)
async def test_hostile_bytes_get_an_error_that_is_short_and_named(world: World, data: bytes) -> None:
    for subject in ("jobs.create", "jobs.put", "jobs.update", "jobs.get", "jobs.delete", "jobs.list", "jobs.preview"):
        answer = await world.ask(subject, data)
        assert len(answer.body) < 4000
        assert answer.code != 500, (subject, answer)
    assert (await world.error("jobs.create", data))[0] in {400, 422}
    assert not world.store.rows


async def test_numbers_beyond_64_bits_in_a_payload_survive(world: World) -> None:
    await world.body(
        "jobs.create", b'{"subject":"a","schedule":{"every":"1s"},"payload":{"n":123456789012345678901234}}'
    )
    answer = await world.ask("jobs.get", {"subject": "a"})
    assert json.loads(answer.body)["payload"]["n"] in (123456789012345678901234, 1.2345678901234568e23)


async def test_an_error_of_our_own_is_told_as_such_and_the_log_has_its_cause(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def broken(_data: bytes) -> dict[str, Any]:
        await asyncio.sleep(0)
        raise ZeroDivisionError("oops")

    answer = await Endpoint(name="x", subject="x", call=broken, descriptions={0: "Failed"}).answer(b"")
    assert answer.code == 500
    assert b"oops" not in answer.body
    assert "oops" in caplog.text


# The embedding API raises what the API replies.


async def test_the_calls_raise_typed_errors_for_those_who_embed(world: World) -> None:
    await world.jobs.create(job())
    with pytest.raises(JobAlreadyExistsError):
        await world.jobs.create(job())
    with pytest.raises(JobNotFoundError):
        await world.lookups.get({"subject": "x"})
    with pytest.raises(InvalidSubjectError):
        await world.jobs.create(job("$SYS.a"))
    with pytest.raises(LimitExceededError):
        await world.jobs.create(job("c", note="x" * 9999))
    with pytest.raises(ValidationError):
        await world.jobs.create(job("c", every="-1s"))
