"""``jobs.explain`` on a real server: a job that ran, was paused, was asked to be skipped, and failed."""

import asyncio
import json
import re
from collections.abc import AsyncIterator
from typing import Any

import nats
import pytest
from nats.aio.client import Client

from natscron.server import Server, ServerOptions
from natscron.testing.nats import NatsServer

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def own_nats(tmp_path_factory: pytest.TempPathFactory) -> Any:  # noqa: ANN401 - a fixture's own type
    """A server for this file: the service has one set of names an account."""
    with NatsServer(tmp_path_factory.mktemp("explain")) as server:
        yield server


@pytest.fixture
async def client(own_nats: NatsServer) -> AsyncIterator[Client]:
    client = await nats.connect(own_nats.url)
    yield client
    await client.close()


@pytest.fixture
async def server(own_nats: NatsServer) -> AsyncIterator[Server]:
    async with Server(ServerOptions(nats_url=own_nats.url)) as server:
        await server.delete_jobs(">")
        yield server


async def ask(client: Client, endpoint: str, /, **body: Any) -> Any:  # noqa: ANN401 - any JSON value
    message = await client.request(f"nats-cron.{endpoint}", json.dumps(body).encode(), timeout=5)
    return json.loads(message.data)


async def until_recorded(client: Client, subject: str, wanted: dict[str, Any], begin: Any) -> dict[str, Any]:  # noqa: ANN401 - a coroutine
    """Do ``begin`` and wait for a record of the job that has these fields."""
    records = await client.subscribe(f"nats-cron.log.{subject}")
    await client.flush()
    await begin
    async with asyncio.timeout(15):
        while True:
            record: dict[str, Any] = json.loads((await records.next_msg(timeout=15)).data)
            if wanted.items() <= record.items():
                await records.unsubscribe()
                return record


def lines(found: dict[str, Any], what: str) -> list[dict[str, Any]]:
    return [line for line in found["past"] if line["what"] == what]


async def test_what_ran_and_what_comes_is_told(client: Client, server: Server) -> None:
    job = {"subject": "told.ran", "schedule": {"every": "1s"}, "delivery": "core"}
    record = await until_recorded(client, "told.ran", {"status": "sent"}, server.create_job(job))
    found = await ask(client, "jobs.explain", subject="told.ran", next=2)
    [line] = [one for one in lines(found, "ran") if one["at"] == record["scheduled_at"]]
    assert (line["run"]["run_id"], line["run"]["status"]) == (record["run_id"], "sent")
    assert re.fullmatch(r"sent, (on time|.+ late)", line["text"])
    assert [one["reason"] for one in lines(found, "not_run")] == ["before_job"]
    assert [one["what"] for one in found["future"]] == ["will_run", "will_run"]
    assert found["description"] == "every 1s"
    assert found["decided_until"]
    assert {one["reason"] for one in found["policies"]} == {"catchup", "overlap", "delivery"}


async def test_a_failure_is_told_with_its_reason(client: Client, server: Server) -> None:
    job = {"subject": "told.failed", "schedule": {"every": "1s"}, "delivery": "request", "timeout": "500ms"}
    await until_recorded(client, "told.failed", {"status": "failed"}, server.create_job(job))
    found = await ask(client, "jobs.explain", subject="told.failed")
    assert {line["reason"] for line in lines(found, "failed")} == {"no_responders"}
    assert "nobody was subscribed" in lines(found, "failed")[0]["text"]


async def test_a_run_by_hand_is_told_beside_the_slots(client: Client, server: Server) -> None:
    await server.create_job({"subject": "told.hand", "schedule": {"every": "1h"}, "delivery": "core"})
    await until_recorded(client, "told.hand", {"trigger": "manual"}, server.trigger_job("told.hand"))
    found = await ask(client, "jobs.explain", subject="told.hand")
    assert [line["run"]["trigger"] for line in lines(found, "ran")] == ["manual"]


async def test_a_pause_is_told_while_it_lasts_and_when_it_is_over(client: Client, server: Server) -> None:
    job = {"subject": "told.paused", "schedule": {"every": "1s"}, "delivery": "core"}
    await until_recorded(client, "told.paused", {"status": "sent"}, server.create_job(job))
    await server.pause_job("told.paused")
    async with asyncio.timeout(10):
        found = await _explained(client)
        # A slot of the pause has to pass; nothing tells of it before the pause is over.
        while "paused" not in {line["reason"] for line in lines(found, "not_run")}:
            await asyncio.sleep(0.1)
            found = await _explained(client)
    assert found["state"] == "paused"
    assert {(one["what"], one["reason"]) for one in found["future"]} == {("will_not_run", "paused")}
    wanted = {"status": "skipped", "reason": "paused"}
    record = await until_recorded(client, "told.paused", wanted, server.resume_job("told.paused"))
    found = await _explained(client)
    assert record["count"] in {line.get("count") for line in lines(found, "not_run") if line["reason"] == "paused"}


async def _explained(client: Client) -> dict[str, Any]:
    found: dict[str, Any] = await ask(client, "jobs.explain", subject="told.paused")
    return found


async def test_slots_that_were_asked_to_be_left_out_are_told(client: Client, server: Server) -> None:
    job = {"subject": "told.skipped", "schedule": {"every": "1s"}, "delivery": "core"}
    await server.create_job(job)
    wanted = {"status": "skipped", "reason": "skip_next"}
    await until_recorded(client, "told.skipped", wanted, ask(client, "jobs.skip", subject="told.skipped", count=2))
    found = await ask(client, "jobs.explain", subject="told.skipped")
    assert "skip_next" in {line["reason"] for line in lines(found, "not_run")}
    skipped = await ask(client, "jobs.skip", subject="told.skipped", count=1000)
    assert "error" not in skipped
    found = await ask(client, "jobs.explain", subject="told.skipped", next=1)
    assert (found["future"][0]["what"], found["future"][0]["reason"]) == ("will_not_run", "skip_next")


@pytest.mark.parametrize(
    ("body", "code", "words"),
    [
        ({"subject": "told.nobody"}, "404", "there is no job"),
        ({"subject": "told.ran", "next": 101}, "422", "next"),
        ({"subject": "told.ran", "since": "yesterday"}, "422", "RFC 3339"),
        ({"subject": "told.ran", "since": "2027-01-02T00:00:00Z", "until": "2027-01-01T00:00:00Z"}, "422", "before"),
        ({"subject": 7}, "400", "string"),
    ],
)
async def test_what_cannot_be_explained_is_refused(
    client: Client, server: Server, body: dict[str, Any], code: str, words: str
) -> None:
    await server.create_job({"subject": "told.ran", "schedule": {"every": "1h"}})
    found = await ask(client, "jobs.explain", **body)
    assert found["code"] == code
    assert words in found["error"]
