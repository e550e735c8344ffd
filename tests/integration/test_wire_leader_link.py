"""The leader's own connection on a real server: one order, and nothing left over."""

import asyncio
import socket
from collections.abc import Iterator
from typing import NamedTuple

import pytest
from nats.aio.client import Client
from nats.aio.transport import TcpTransport
from tests.support.certificates import authority, server_tls

from natscron.errors import (
    LeadershipLostError,
    MalformedInputError,
    StorageUnavailableError,
    StorageUncertainError,
)
from natscron.testing.nats import NatsServer, TcpProxy, free_ports
from natscron.wire.connection import Connection
from natscron.wire.failures import ApiError, Message
from natscron.wire.kv import bucket_config, cas_headers, get_last, subject_of
from natscron.wire.leader_link import LeaderConnection
from natscron.wire.options import ConnectOptions
from natscron.wire.publisher import encode, read_token, safe_token
from natscron.wire.reading import read_range
from natscron.wire.streams import ensure_stream
from natscron.wire.window import PublishWindow

pytestmark = [
    pytest.mark.anyio,
    # The client gives aiohttp a plain number where it now wants an object.
    pytest.mark.filterwarnings("ignore:parameter 'timeout':DeprecationWarning"),
]


class Way(NamedTuple):
    """How to reach one server."""

    plain: ConnectOptions
    chosen: ConnectOptions


@pytest.fixture(scope="module")
def every_way(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Way]]:
    """Servers that are reached over TCP and WebSocket, and over TLS."""
    folder = tmp_path_factory.mktemp("ways")
    trusted = authority(folder, "trusted")
    (web,) = free_ports(1)
    config = f"websocket {{ listen: 127.0.0.1:{web}, no_tls: true }}"
    secure = server_tls(folder, trusted)
    with NatsServer(folder / "plain", config=config) as one, NatsServer(folder / "tls", config=secure) as two:
        plain = ConnectOptions(url=one.url)
        tls = ConnectOptions(url=two.url.replace("nats:", "tls:"), tls_ca=str(trusted))
        yield {
            "tcp": Way(plain, plain),
            "ws": Way(plain, ConnectOptions(url=f"ws://127.0.0.1:{web}")),
            "tls": Way(tls, tls),
        }


@pytest.fixture(params=["tcp", "tls", "ws"])
async def way(every_way: dict[str, Way], request: pytest.FixtureRequest) -> Way:
    chosen = every_way[request.param]
    connection = await Connection.connect(chosen.plain)
    await ensure_stream(connection, bucket_config("state"))
    await connection.close()
    return chosen


async def test_messages_arrive_before_the_note_that_was_written_behind_them(way: Way) -> None:
    observer = await Connection.connect(way.plain)
    seen: list[str] = []
    await observer.subscribe("job.*", lambda m: seen.append(m.subject))
    await observer.subscribe("$KV.state.>", lambda m: seen.append(m.subject))
    await observer.flush()
    link = await LeaderConnection.open(way.chosen.dial())
    futures = []
    for chunk in range(20):
        jobs = b"".join(link.encode(f"job.{chunk}x{n}", [("A", "b")], b"x" * 100) for n in range(50))
        note, future = link.encode_acked(subject_of("state", f"sent.{chunk}"), b"n")
        link.write(jobs + note)
        await link.drain()
        futures.append(future)
    acks = await asyncio.gather(*futures)
    await observer.flush()
    wanted = [s for c in range(20) for s in (*(f"job.{c}x{n}" for n in range(50)), f"$KV.state.sent.{c}")]
    assert seen == wanted
    assert [ack.seq for ack in acks] == list(range(acks[0].seq, acks[0].seq + 20))
    await link.close()
    await observer.close()


async def test_answers_come_back_under_their_token(way: Way) -> None:
    worker = await Connection.connect(way.plain)

    def work(message: Message) -> None:
        worker.publish_soon(message.reply, message.data + b"!")

    await worker.subscribe("job.work", work)
    await worker.flush()
    got: dict[str, tuple[str, bytes]] = {}
    both = asyncio.Event()

    def on_reply(token: str, status: str, _: object, data: bytes) -> None:
        got[token] = (status, data)
        if len(got) == 2:
            both.set()

    link = await LeaderConnection.open(way.chosen.dial(), on_reply)
    link.write(link.encode("job.work", [], b"hi", "run one.1"))
    link.write(link.encode("job.nobody", [("X", "y")], b"", "01ARZ3"))
    await asyncio.wait_for(both.wait(), 5)
    assert got == {"run one.1": ("", b"hi!"), "01ARZ3": ("503", b"")}
    await link.close()
    await worker.close()


async def test_a_compare_and_set_and_a_read_go_over_the_same_connection(way: Way) -> None:
    link = await LeaderConnection.open(way.chosen.dial())
    subject = subject_of("state", "lease.0")
    first = await link.publish_acked(subject, b"1")
    reply = await link.js_request("STREAM.MSG.GET.KV_state", {"last_by_subj": subject})
    assert reply["message"]["seq"] == first.seq
    with pytest.raises(ApiError) as caught:
        await link.publish_acked(subject, b"2", cas_headers(0))
    assert caught.value.err_code == 10071
    entries = await read_range(link, "KV_state", [subject], 1, first.seq)
    assert [entry.data for entry in entries] == [b"1"]
    await link.close()


async def test_the_shared_connection_publishes_and_asks_over_it_too(way: Way) -> None:
    shared = await Connection.connect(way.chosen)
    async with PublishWindow(shared) as window:
        ack = await (await window.publish(subject_of("state", "shared"), b"1", {"A": "b"}))
    entry = await get_last(shared, "KV_state", subject_of("state", "shared"))
    assert entry is not None
    assert (entry.seq, entry.data, entry.headers) == (ack.seq, b"1", {"A": "b"})
    link = await LeaderConnection.open(shared.dial)
    await link.flush()
    await link.close()
    await shared.close()


async def test_an_aborted_link_says_so_everywhere(way: Way) -> None:
    link = await LeaderConnection.open(way.chosen.dial())
    waiting = link.publish_acked("nobody.listens", b"")
    link.abort()
    link.abort()
    assert link.broken.is_set()
    with pytest.raises(StorageUncertainError):
        await waiting
    for call in (link.drain, link.flush, lambda: link.js_request("INFO")):
        with pytest.raises(LeadershipLostError):
            await call()
    with pytest.raises(LeadershipLostError):
        link.write(b"PING\r\n")
    assert link.buffered() == 0
    await link.close()


async def test_a_write_leaves_without_the_event_loop_turning(nats_server: NatsServer) -> None:
    link = await LeaderConnection.open(ConnectOptions(url=nats_server.url).dial())
    with socket.create_connection(("127.0.0.1", nats_server.port), 5) as plain:
        plain.sendall(b'CONNECT {"verbose":false}\r\nSUB job.now 1\r\nPING\r\n')
        data = b""
        while b"PONG" not in data:
            data += plain.recv(4096)
        link.write(link.encode("job.now", [], b"now"))
        assert plain.recv(4096) == b"MSG job.now 1 3\r\nnow\r\n"
    await link.close()


async def test_drain_waits_until_the_socket_has_taken_everything(proxy: TcpProxy) -> None:
    link = await LeaderConnection.open(ConnectOptions(url=proxy.url).dial())
    proxy.freeze()
    for _ in range(16):
        link.write(link.encode("job.big", [], b"x" * 1_000_000))
    assert link.buffered() > 1_000_000
    drained = asyncio.ensure_future(link.drain())
    done, _ = await asyncio.wait([drained], timeout=0.1)
    assert not done
    await proxy.mend()
    await asyncio.wait_for(drained, 5)
    assert link.buffered() == 0
    await link.close()


async def test_what_the_socket_has_not_taken_never_leaves_after_an_abort(
    nats_server: NatsServer, proxy: TcpProxy
) -> None:
    observer = await Connection.connect(ConnectOptions(url=nats_server.url))
    seen: list[int] = []
    await observer.subscribe("job.*", lambda m: seen.append(int(m.subject[4:])))
    await observer.flush()
    link = await LeaderConnection.open(ConnectOptions(url=proxy.url).dial())
    proxy.freeze()
    for number in range(400):
        link.write(link.encode(f"job.{number}", [], b"x" * 50_000))
    unsent = link.buffered()
    assert unsent > 0
    link.abort()
    await proxy.mend()
    await proxy.ended()
    assert proxy.passed < 400 * 50_100 - unsent
    await link.close()
    await observer.flush()
    assert seen == list(range(len(seen)))
    await observer.close()


@pytest.mark.parametrize("how", ["kill", "cut"])
async def test_a_lost_link_is_broken_at_once_and_never_comes_back(
    how: str, nats_server: NatsServer, proxy: TcpProxy
) -> None:
    link = await LeaderConnection.open(ConnectOptions(url=proxy.url).dial())
    waiting = link.publish_acked("nobody.listens", b"")
    if how == "kill":
        nats_server.suspend()
        waiting = link.publish_acked("nobody.listens", b"")
        nats_server.kill()
    else:
        await proxy.cut()
    await asyncio.wait_for(link.broken.wait(), 2)
    with pytest.raises(StorageUncertainError):
        await waiting
    if how == "kill":
        await asyncio.to_thread(nats_server.start)
    else:
        await proxy.mend()
    with pytest.raises(LeadershipLostError):
        await link.js_request("INFO")
    await link.close()


async def test_opening_where_nobody_listens_is_an_error_soon() -> None:
    (port,) = free_ports(1)
    with pytest.raises(StorageUnavailableError, match="took the leader's connection"):
        await LeaderConnection.open(ConnectOptions(url=f"nats://127.0.0.1:{port}").dial(), timeout_s=3)


async def test_a_tls_url_refuses_a_server_without_tls_before_the_password_leaves(nats_server: NatsServer) -> None:
    options = ConnectOptions(url=f"tls://u:hunter2@127.0.0.1:{nats_server.port}")
    with pytest.raises(StorageUnavailableError) as caught:
        await LeaderConnection.open(options.dial(), timeout_s=3)
    assert "does not offer TLS" in str(caught.value.__cause__)


async def test_the_client_still_has_the_internals_that_are_relied_on(nats_server: NatsServer) -> None:
    client = Client()
    await client.connect(nats_server.url)
    assert isinstance(client._transport, TcpTransport)
    assert isinstance(client._transport._io_writer, asyncio.StreamWriter)
    assert isinstance(client._transport._bare_io_writer, asyncio.StreamWriter)
    assert client._pending == []
    assert client._pending_data_size == 0
    assert isinstance(client._flush_queue, asyncio.Queue)
    assert isinstance(client._server_info, dict)
    assert client._status == Client.CONNECTED
    for name in ("_process_op_err", "_attempt_reconnect", "_close", "_connect_command", "_send_unsubscribe"):
        assert callable(getattr(client, name))
    for name in ("_disconnected_cb", "_reconnected_cb", "_closed_cb", "_inbox_prefix", "_user_credentials"):
        assert hasattr(client, name)
    for name in ("_nkeys_seed", "_nkeys_seed_str", "_signature_cb", "_user_jwt_cb"):
        assert hasattr(client, name)
    await client.publish("t.pending", b"x")
    assert [bytes(one) for one in client._pending] == [b"PUB t.pending  1\r\nx\r\n"]
    assert client._pending_data_size == 21
    await client.close()


def test_bytes_are_the_protocol() -> None:
    assert encode("a.b", [], b"hi") == b"PUB a.b  2\r\nhi\r\n"
    assert encode("a.b", [("X", "1"), ("Y", "ü")], b"hi", "r") == (
        b"HPUB a.b r 25 27\r\nNATS/1.0\r\nX: 1\r\nY: \xc3\xbc\r\n\r\nhi\r\n"
    )


@pytest.mark.parametrize(
    ("subject", "headers"),
    [("", []), ("a b", []), ("a\r\nPUB x", []), ("a\tb", []), ("a", [("X", "1\r\nY: 2")]), ("a", [("X\n", "1")])],
)
def test_text_that_would_break_the_protocol_is_refused(subject: str, headers: list[tuple[str, str]]) -> None:
    with pytest.raises(MalformedInputError):
        encode(subject, headers, b"")


@pytest.mark.parametrize("text", ["01ARZ3NDEKTSV4", "a.b", "", "ü x", "=abc", "*"])
def test_any_text_is_a_token_and_comes_back(text: str) -> None:
    token = safe_token(text)
    assert read_token(token) == text
    assert not set(token) & set(" .*>\r\n")
