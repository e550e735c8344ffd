"""Streams for schedules: made, checked, enabled; and what a server that cannot do it gets told."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from tests.support.messages import World, world_on

from natscron.errors import ConfigError, InvalidSubjectError, ServerTooOldError, StorageUnavailableError
from natscron.messages import At, MessageScheduler
from natscron.messages.streamsetup import PATIENCE_S
from natscron.testing.nats import NatsCluster, NatsServer
from natscron.wire.connection import Connection
from natscron.wire.failures import ApiError

pytestmark = pytest.mark.anyio


@pytest.fixture
async def bare(shared_nats: NatsServer) -> AsyncIterator[World]:
    """A world without its stream."""
    async with world_on(shared_nats.url, create=False) as world:
        yield world


async def make(world: World, **config: Any) -> None:  # noqa: ANN401 - any JSON value
    name = world.name.upper()
    whole = {"name": name, "subjects": [f"{world.name}.schedules.>", f"{world.name}.t.>"]} | config
    await world.connection.js_request(f"STREAM.CREATE.{name}", whole)


async def config_of(world: World) -> dict[str, Any]:
    config: dict[str, Any] = (await world.connection.js_request(f"STREAM.INFO.{world.name.upper()}"))["config"]
    return config


async def test_a_stream_is_made_with_what_schedules_need(bare: World) -> None:
    found = await bare.schedules.ensure_stream([bare.target("a"), bare.target("in.>")])
    assert (found.created, found.ok, found.warnings, found.recurring) == (True, True, (), True)
    config = await config_of(bare)
    assert config["subjects"] == [f"{bare.name}.schedules.>", bare.target("a"), bare.target("in.>")]
    assert config["allow_msg_schedules"]
    assert config["allow_msg_ttl"]
    assert config["allow_direct"]
    assert (config["retention"], config["discard"], config["num_replicas"]) == ("limits", "old", 1)
    again = await bare.schedules.ensure_stream([bare.target("a")])
    assert (again.created, again.changed) == (False, ())
    assert await bare.schedules.check_stream() == again


async def test_in_a_cluster_a_stream_has_three_replicas_and_is_made_by_many_at_once(
    shared_cluster: NatsCluster,
) -> None:
    async with world_on(shared_cluster.servers[0].url, create=False) as world:
        reports = await asyncio.gather(*(world.schedules.ensure_stream([world.target()]) for _ in range(5)))
        assert all(report.ok for report in reports)
        assert (await config_of(world))["num_replicas"] == 3


async def test_the_flag_that_cannot_be_undone_is_not_turned_on_unasked(bare: World) -> None:
    await make(bare, max_age=3_600_000_000_000)
    before = await config_of(bare)
    with pytest.raises(ConfigError, match="cannot be turned off again"):
        await bare.schedules.ensure_stream()
    with pytest.raises(ConfigError, match=r"ensure_stream\(enable=True\)"):
        await bare.schedules.at(bare.target(), "in 5m")
    report = await bare.schedules.check_stream()
    assert not report.ok
    assert await config_of(bare) == before
    enabled = await bare.schedules.ensure_stream(enable=True)
    assert set(enabled.changed) == {"allow_msg_schedules", "allow_msg_ttl"}
    assert "a schedule further ahead than that never fires" in enabled.warnings[0]
    after = await config_of(bare)
    assert after["max_age"] == before["max_age"]
    assert after["allow_msg_schedules"]
    await bare.schedules.at(bare.target(), "in 1ms", b"x")
    assert (await bare.receive()).data == b"x"


async def test_subjects_are_added_only_when_asked_to(bare: World) -> None:
    await bare.schedules.ensure_stream([bare.target("a")])
    with pytest.raises(ConfigError, match="adds subjects"):
        await bare.schedules.ensure_stream([bare.target("b")])
    enabled = await bare.schedules.ensure_stream([bare.target("b")], enable=True)
    assert enabled.changed == ("subjects",)
    assert (await config_of(bare))["subjects"][-2:] == [bare.target("a"), bare.target("b")]


@pytest.mark.parametrize(
    ("config", "why"),
    [
        ({"retention": "interest", "allow_msg_schedules": True}, "acknowledged and not stored"),
        ({"subjects": ["{name}.t.>"], "allow_msg_schedules": True}, "does not hold"),
        ({"no_ack": True, "allow_msg_schedules": True}, "cannot be known"),
    ],
)
async def test_a_stream_in_which_schedules_would_be_lost_is_refused_before_one_is(
    bare: World, config: dict[str, Any], why: str
) -> None:
    if "subjects" in config:
        config = config | {"subjects": [one.format(name=bare.name) for one in config["subjects"]]}
    await make(bare, **config)
    with pytest.raises(ConfigError, match=why):
        await bare.schedules.at(bare.target(), "in 1s")
    with pytest.raises(ConfigError, match=why):
        await bare.schedules.ensure_stream()


async def test_a_mirror_is_refused(bare: World) -> None:
    await make(bare)
    mirror = MessageScheduler(bare.nc, f"{bare.name}-mirror", f"{bare.name}.schedules")
    await bare.connection.js_request(
        f"STREAM.CREATE.{bare.name}-mirror", {"name": f"{bare.name}-mirror", "mirror": {"name": bare.name.upper()}}
    )
    with pytest.raises(ConfigError, match="is a mirror"):
        await mirror.ensure_stream(enable=True)
    await mirror.close()


async def test_a_work_queue_works_while_its_consumers_keep_to_the_targets(bare: World) -> None:
    await bare.schedules.ensure_stream([f"{bare.name}.t.>"], retention="workqueue")
    await bare.schedules.at(bare.target(), "in 1ms", b"x")
    message = await bare.receive()
    assert message.data == b"x"
    assert await bare.schedules.receive(message) is not None
    far = await bare.schedules.at(bare.target(), "in 1h", b"y")
    assert [one.id async for one in bare.schedules.list()] == [far.id]
    assert (await bare.schedules.check_stream()).ok
    await bare.js.pull_subscribe(f"{bare.name}.schedules.>", durable="glutton", stream=bare.name.upper())
    [problem] = (await bare.schedules.check_stream()).problems
    assert "consumer glutton" in problem
    assert "they never fire" in problem
    with pytest.raises(ConfigError, match="glutton"):
        await bare.schedules.ensure_stream()


async def test_a_stream_that_is_not_there_is_named_with_the_remedy(bare: World) -> None:
    for call in (bare.schedules.check_stream(), bare.schedules.at(bare.target(), "in 1s")):
        with pytest.raises(ConfigError, match="does not exist; ensure_stream"):
            await call


async def test_subjects_of_another_stream_are_refused(bare: World) -> None:
    await make(bare, name=bare.name.upper())
    other = MessageScheduler(bare.nc, f"{bare.name}-other", f"{bare.name}.schedules")
    with pytest.raises(ConfigError, match="10065"):
        await other.ensure_stream()
    with pytest.raises(ConfigError, match="list of subjects"):
        await other.ensure_stream(bare.target())
    with pytest.raises(InvalidSubjectError):
        await other.ensure_stream(["a b"])
    with pytest.raises(ConfigError, match="'file' or 'memory'"):
        await other.ensure_stream(storage="tape")
    with pytest.raises(ConfigError, match="'limits' or 'workqueue'"):
        await other.ensure_stream(retention="interest")
    await other.close()


async def test_a_stream_that_loses_its_flag_or_subject_is_looked_at_again(bare: World) -> None:
    """Deleted and made anew under the same name, in another way, while the client is at work."""
    await bare.schedules.ensure_stream([f"{bare.name}.t.>"])
    await bare.schedules.at(bare.target(), "in 1h")
    await bare.connection.js_request(f"STREAM.DELETE.{bare.name.upper()}")
    with pytest.raises(StorageUnavailableError, match="no such subject"):
        await bare.schedules.at(bare.target(), "in 1h")
    await make(bare)
    with pytest.raises(ConfigError, match="allow_msg_schedules"):
        await bare.schedules.at(bare.target(), "in 1h")
    await bare.schedules.ensure_stream(enable=True)
    await bare.schedules.at(bare.target(), "in 1h")
    await bare.update(subjects=[f"{bare.name}.schedules.>"])
    with pytest.raises(InvalidSubjectError, match="10190"):
        await bare.schedules.at(bare.target(), "in 1h")


def pretend(monkeypatch: pytest.MonkeyPatch, level: str, version: str, **config: Any) -> None:  # noqa: ANN401 - any JSON value
    """Only a new server is at hand: what an old one answers about its streams is put in the place of its answers."""
    asked = Connection.js_request

    async def answer(self: Connection, api: str, payload: object = None, *, timeout_s: float = 5.0) -> dict[str, Any]:
        reply = await asked(self, api, payload, timeout_s=timeout_s)
        if api.startswith("STREAM.INFO."):
            reply["config"] |= {"metadata": {"_nats.level": level, "_nats.ver": version}} | config
        return reply

    monkeypatch.setattr(Connection, "js_request", answer)


async def test_2_11_which_would_acknowledge_and_never_fire_is_refused(
    bare: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await bare.schedules.ensure_stream([f"{bare.name}.t.>"])
    bare.schedules._link.forget()
    pretend(monkeypatch, "1", "2.11.11", allow_msg_schedules=False)
    for call in (
        bare.schedules.at(bare.target(), "in 1s"),
        bare.schedules.every(bare.target(), "1s"),
        bare.schedules.ensure_stream(enable=True),
    ):
        with pytest.raises(ServerTooOldError, match=r"2\.12\.0 or newer .*2\.11\.11 \(API level 1\)"):
            await call
    assert await bare.subjects() == {}


async def test_2_12_takes_single_messages_and_refuses_the_rest(bare: World, monkeypatch: pytest.MonkeyPatch) -> None:
    await bare.schedules.ensure_stream([f"{bare.name}.t.>"])
    bare.schedules._link.forget()
    pretend(monkeypatch, "3", "2.12.8")
    await bare.schedules.at(bare.target(), "in 1ms", b"x")
    assert (await bare.receive()).data == b"x"
    for call in (
        bare.schedules.every(bare.target(), "1s"),
        bare.schedules.cron(bare.target(), "* * * * * *"),
        bare.schedules.sample(bare.target(), source=bare.target("in"), every="1s"),
        bare.schedules.at(bare.target(), "in 1h", rollup=True),
    ):
        with pytest.raises(ServerTooOldError, match=r"2\.14\.0 or newer .*2\.12\.8 \(API level 3\)"):
            await call
    [plain, rolled] = [
        outcome.error
        async for outcome in bare.schedules.at_many(
            [At(bare.target(), "in 1h", b"1"), At(bare.target(), "in 1h", b"2", rollup=True)]
        )
    ]
    assert plain is None
    assert isinstance(rolled, ServerTooOldError)
    report = await bare.schedules.ensure_stream()
    assert (report.ok, report.recurring) == (True, False)


async def test_an_old_server_gets_no_stream_made(bare: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Connection, "server_info", {"version": "2.11.11"})
    with pytest.raises(ServerTooOldError, match=r"2\.11\.11"):
        await bare.schedules.ensure_stream()
    monkeypatch.undo()
    with pytest.raises(ConfigError, match="does not exist"):
        await bare.schedules.check_stream()


async def test_jetstream_that_is_not_ready_yet_is_waited_for(bare: World, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = Connection.js_request
    failures = [ApiError(503, 10008, "JetStream system temporarily unavailable")] * 3

    async def answer(self: Connection, api: str, payload: object = None, *, timeout_s: float = 5.0) -> dict[str, Any]:
        if failures:
            raise failures.pop()
        return await asked(self, api, payload, timeout_s=timeout_s)

    monkeypatch.setattr(Connection, "js_request", answer)
    assert (await bare.schedules.ensure_stream()).created
    assert PATIENCE_S > 5
    failures[:] = [ApiError(400, 10003, "bad request")]
    with pytest.raises(ApiError):
        await bare.schedules.ensure_stream()


async def test_what_is_known_of_the_stream_is_asked_again_after_the_link_was_lost(bare: World) -> None:
    await bare.schedules.ensure_stream([f"{bare.name}.t.>"])
    link = bare.schedules._link
    first = await link.facts()
    assert await link.facts() is first
    link.on_down()
    assert await link.facts() is not first
    link.on_up()
    assert link._facts is None
