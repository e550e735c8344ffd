"""The micro service on the wire, byte by byte, and its bounds."""

import asyncio
import json
import re
from collections.abc import AsyncIterator

import pytest
from nats.aio.client import Client

from natscron.testing.nats import NatsServer
from natscron.wire.connection import Connection
from natscron.wire.discovery import find_streams, ping_service
from natscron.wire.micro import MicroError, MicroService, Request
from natscron.wire.streams import ensure_stream

pytestmark = pytest.mark.anyio


class StillClock:
    """Stands still at a known instant."""

    timer_slack_s = 0.0

    def __init__(self) -> None:
        self.at_s = 100.0

    def now_ms(self) -> int:
        return 1_760_000_000_120

    def now_s(self) -> float:
        return 1_760_000_000.12

    def trust_s(self) -> float:
        return self.at_s


@pytest.fixture
def clock() -> StillClock:
    return StillClock()


@pytest.fixture
async def service(connection: Connection, clock: StillClock) -> AsyncIterator[MicroService]:
    service = MicroService(
        connection,
        name="nats-cron",
        version="1.0.0",
        description="NATS Cron Scheduler",
        clock=clock,
        metadata={"instance_id": "i<1>"},
        max_running=2,
        max_waiting=1,
    )
    gate = asyncio.Event()

    async def echo(request: Request) -> bytes:
        clock.at_s += 0.5
        return request.data + json.dumps(dict(request.headers)).encode()

    async def fail(request: Request) -> bytes:
        if request.data == b"crash":
            raise ZeroDivisionError
        raise MicroError(409, "it is there", b'{"error":"it is there","code":"409"}')

    async def block(request: Request) -> bytes:
        await gate.wait()
        return request.data

    async def free(_: Request) -> bytes:
        gate.set()
        return b""

    service.add_endpoint("jobs-list", "m.echo", echo)
    service.add_endpoint("jobs-fail", "m.fail", fail, metadata={"schema": "x"})
    service.add_endpoint("jobs-block", "m.block", block)
    service.add_endpoint("jobs-free", "m.free", free)
    await service.start()
    yield service
    gate.set()
    await service.stop()


async def test_ping_info_and_stats_are_the_protocols_bytes(connection: Connection, service: MicroService) -> None:
    head = f'"name":"nats-cron","id":"{service.id}","version":"1.0.0","metadata":{{"instance_id":"i\\u003c1\\u003e"}}'
    assert re.fullmatch("[0-9A-Za-z]{22}", service.id)
    for tail in ("", ".nats-cron", f".nats-cron.{service.id}"):
        ping = await connection.request(f"$SRV.PING{tail}")
        assert ping.data.decode() == f'{{{head},"type":"io.nats.micro.v1.ping_response"}}'
        assert ping.headers is None
    info = (await connection.request("$SRV.INFO.nats-cron")).data.decode()
    start = f'{{{head},"type":"io.nats.micro.v1.info_response","description":"NATS Cron Scheduler","endpoints":['
    assert info.startswith(start)
    assert '{"name":"jobs-list","subject":"m.echo","queue_group":"q","metadata":null},' in info
    assert '{"name":"jobs-fail","subject":"m.fail","queue_group":"q","metadata":{"schema":"x"}},' in info
    await connection.request("m.echo", b"1")
    await connection.request("m.fail", b"")
    stats = (await connection.request("$SRV.STATS.nats-cron")).data.decode()
    assert stats == (
        f'{{{head},"type":"io.nats.micro.v1.stats_response","started":"2025-10-09T08:53:20.12Z","endpoints":['
        '{"name":"jobs-list","subject":"m.echo","queue_group":"q","num_requests":1,"num_errors":0,"last_error":"",'
        '"processing_time":500000000,"average_processing_time":500000000},'
        '{"name":"jobs-fail","subject":"m.fail","queue_group":"q","num_requests":1,"num_errors":1,'
        '"last_error":"409:it is there","processing_time":0,"average_processing_time":0},'
        '{"name":"jobs-block","subject":"m.block","queue_group":"q","num_requests":0,"num_errors":0,"last_error":"",'
        '"processing_time":0,"average_processing_time":0},'
        '{"name":"jobs-free","subject":"m.free","queue_group":"q","num_requests":0,"num_errors":0,"last_error":"",'
        '"processing_time":0,"average_processing_time":0}]}'
    )


@pytest.mark.usefixtures("service")
async def test_success_has_no_headers_and_an_error_has_the_protocols(connection: Connection) -> None:
    good = await connection.request("m.echo", b"x", headers={"A": "b"})
    assert (good.data, good.headers) == (b'x{"A": "b"}', None)
    bad = await connection.request("m.fail", b"")
    assert bad.data == b'{"error":"it is there","code":"409"}'
    assert bad.headers == {"Nats-Service-Error": "it is there", "Nats-Service-Error-Code": "409"}


@pytest.mark.usefixtures("service")
async def test_a_handler_that_crashes_is_answered_and_the_service_lives(
    connection: Connection, caplog: pytest.LogCaptureFixture
) -> None:
    bad = await connection.request("m.fail", b"crash")
    assert bad.headers == {"Nats-Service-Error": "internal error", "Nats-Service-Error-Code": "500"}
    assert b"Zero" not in bad.data
    assert "ZeroDivisionError" in caplog.text
    assert (await connection.request("m.echo", b"y")).data.startswith(b"y")


@pytest.mark.usefixtures("service")
async def test_handlers_run_beside_each_other_within_their_bounds(connection: Connection) -> None:
    blocked = [asyncio.ensure_future(connection.request("m.block", b"%d" % n)) for n in range(2)]
    await connection.flush()
    freed = asyncio.ensure_future(connection.request("m.free", b""))
    await connection.flush()
    refused = await connection.request("m.block", b"over")
    assert refused.headers is not None
    assert refused.headers["Nats-Service-Error-Code"] == "503"
    done, _ = await asyncio.wait([*blocked, freed], timeout=0.05)
    assert not done  # both places are taken, and the third request waits for one


async def test_stopping_answers_what_was_already_sent(shared_nats: NatsServer, clock: StillClock) -> None:
    ours, theirs = Client(), Client()
    await ours.connect(shared_nats.url)
    await theirs.connect(shared_nats.url)
    connection = Connection.adopt(ours)
    service = MicroService(connection, name="s", version="1.0.0", description="", clock=clock)
    begun = asyncio.Event()

    async def slow(request: Request) -> bytes:
        begun.set()
        await asyncio.sleep(0)
        return request.data

    service.add_endpoint("slow", "m.slow", slow)
    await service.start()
    requests = [asyncio.ensure_future(theirs.request("m.slow", b"%d" % n, timeout=5)) for n in range(100)]
    await begun.wait()
    await service.stop()
    answers = await asyncio.gather(*requests, return_exceptions=True)
    served = [a for a in answers if not isinstance(a, BaseException)]
    # What came after the end found nobody, at once; nothing was taken and left without an answer.
    assert {type(a).__name__ for a in answers if isinstance(a, BaseException)} <= {"NoRespondersError"}
    assert served
    await service.stop()
    await connection.close()
    await ours.close()
    await theirs.close()


async def test_stopping_is_bounded(connection: Connection, clock: StillClock) -> None:
    service = MicroService(connection, name="s2", version="1.0.0", description="", clock=clock)
    begun = asyncio.Event()

    async def hang(_: Request) -> bytes:
        begun.set()
        await asyncio.Event().wait()
        return b""

    service.add_endpoint("hang", "m.hang", hang)
    await service.start()
    await connection.publish("m.hang", b"")
    await begun.wait()
    await asyncio.wait_for(service.stop(timeout_s=0.05), 2)


async def test_a_ping_finds_the_instances_of_a_name(connection: Connection, service: MicroService) -> None:
    found = await ping_service(connection, "nats-cron", wait_s=0.1)
    assert [one["id"] for one in found] == [service.id]
    assert await asyncio.wait_for(ping_service(connection, "nobody-of-that-name", wait_s=30), 5) == []


async def test_streams_that_capture_a_subject_are_found(connection: Connection) -> None:
    await ensure_stream(connection, {"name": "D1", "subjects": ["d.a.>"], "no_ack": True})
    await ensure_stream(connection, {"name": "D2", "subjects": ["d.b"], "duplicate_window": 5_000_000_000})
    (one,) = await find_streams(connection, "d.a.x")
    assert (one.name, one.no_ack, one.leaderless, one.subjects) == ("D1", True, False, ("d.a.>",))
    both = await find_streams(connection, "d.>")
    assert [(s.name, s.duplicate_window_s) for s in both][1] == ("D2", 5.0)
    assert await find_streams(connection, "nothing.here") == []
