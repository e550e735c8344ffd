"""The shared connection on a real server."""

import asyncio
import os
from pathlib import Path

import nats
import nkeys
import pytest

from natscron.errors import ConfigError, LimitExceededError, StorageUnavailableError, StorageUncertainError
from natscron.testing.nats import NatsServer, TcpProxy, free_ports
from natscron.wire.connection import Connection, ConnectionEvent
from natscron.wire.failures import ApiError, Message, NoRespondersError
from natscron.wire.options import ConnectOptions

pytestmark = pytest.mark.anyio


async def quiet(_: Exception) -> None:
    """For a client that would log every try."""


class Ups:
    """Waits for ups and downs."""

    def __init__(self) -> None:
        self.up = asyncio.Event()
        self.down = asyncio.Event()

    def on_up(self) -> None:
        self.up.set()

    def on_down(self) -> None:
        self.down.set()


async def test_a_request_is_answered_by_a_subscriber(connection: Connection) -> None:
    async def answer(message: Message) -> None:
        await connection.publish(message.reply, message.data + b"!", headers={"X": "1"})

    tasks: set[asyncio.Task[None]] = set()
    await connection.subscribe("t.echo", lambda m: tasks.add(asyncio.ensure_future(answer(m))))
    message = await connection.request("t.echo", b"hi")
    assert (message.data, message.headers) == (b"hi!", {"X": "1"})


async def test_a_request_that_nobody_serves_says_so_at_once(connection: Connection) -> None:
    with pytest.raises(NoRespondersError):
        await connection.request("t.nobody", timeout_s=30)


async def test_a_request_without_an_answer_is_uncertain(connection: Connection) -> None:
    await connection.subscribe("t.silent", lambda _: None)
    with pytest.raises(StorageUncertainError):
        await connection.request("t.silent", timeout_s=0.05)


async def test_jetstream_errors_are_typed(connection: Connection) -> None:
    with pytest.raises(ApiError) as caught:
        await connection.js_request("STREAM.INFO.none")
    assert (caught.value.status, caught.value.err_code) == (404, 10059)


async def test_an_exception_in_a_callback_leaves_the_connection_alive(shared_nats: NatsServer) -> None:
    said: list[str] = []
    connection = await Connection.connect(
        ConnectOptions(url=shared_nats.url), on_event=lambda _, text: said.append(text)
    )
    got = asyncio.Event()

    def callback(message: Message) -> None:
        if message.data == b"bad":
            raise ZeroDivisionError
        got.set()

    await connection.subscribe("t.raise", callback)
    await connection.publish("t.raise", b"bad")
    await connection.publish("t.raise", b"good")
    await asyncio.wait_for(got.wait(), 5)
    assert any("ZeroDivisionError" in text for text in said)
    await connection.close()


async def test_a_flush_that_is_given_up_leaves_the_connection_hearing(connection: Connection) -> None:
    for turns in range(6):
        flush = asyncio.create_task(connection.flush())
        for _ in range(turns):
            await asyncio.sleep(0)
        flush.cancel()
        await asyncio.wait([flush])
    await connection.flush()
    heard = asyncio.Event()
    await connection.subscribe("t.given.up", lambda _: heard.set())
    await connection.publish("t.given.up")
    async with asyncio.timeout(2):
        await heard.wait()


async def test_flush_proves_that_what_was_published_before_was_handled(
    shared_nats: NatsServer, connection: Connection
) -> None:
    other = await Connection.connect(ConnectOptions(url=shared_nats.url))
    seen: list[bytes] = []
    await other.subscribe("t.flush", lambda m: seen.append(m.data))
    await other.flush()
    for number in range(2_000):
        await connection.publish("t.flush", b"%d" % number)
    await connection.flush()
    await other.flush()
    assert len(seen) == 2_000
    await other.close()


async def test_too_large_a_message_is_refused_before_it_is_sent(connection: Connection) -> None:
    with pytest.raises(LimitExceededError):
        await connection.publish("t.large", b"x" * (connection.max_payload + 1))


async def test_the_server_tells_its_version_and_that_it_stands_alone(connection: Connection) -> None:
    assert connection.server_version >= (2, 12, 0)
    assert connection.cluster == ""


async def test_it_waits_for_a_server_that_is_not_there_yet_and_says_so(tmp_path: Path) -> None:
    (port,) = free_ports(1)
    events: list[ConnectionEvent] = []
    waiting = asyncio.Event()

    def on_event(event: ConnectionEvent, _: str) -> None:
        events.append(event)
        waiting.set()

    url = f"nats://user:secret@127.0.0.1:{port}"
    task = asyncio.ensure_future(Connection.connect(ConnectOptions(url=url), on_event=on_event))
    await asyncio.wait_for(waiting.wait(), 5)
    with NatsServer(tmp_path, port=port):
        connection = await asyncio.wait_for(task, 5)
        assert events == [ConnectionEvent.WAITING, ConnectionEvent.CONNECTED]
        await connection.flush()
        await connection.close()


async def test_a_bounded_connect_gives_up() -> None:
    (port,) = free_ports(1)
    with pytest.raises(StorageUnavailableError, match="no NATS server answered"):
        await Connection.connect(ConnectOptions(url=f"nats://127.0.0.1:{port}"), on_event=print, timeout_s=0.3)


async def test_subscriptions_survive_the_kill_and_restart_of_the_server(nats_server: NatsServer) -> None:
    connection = await Connection.connect(ConnectOptions(url=nats_server.url))
    ups = Ups()
    connection.add_listener(ups)
    got = asyncio.Event()
    await connection.subscribe("t.a", lambda _: got.set())
    nats_server.kill()
    await asyncio.wait_for(ups.down.wait(), 5)
    with pytest.raises(StorageUnavailableError):
        await connection.publish("t.a")
    await asyncio.to_thread(nats_server.start)
    await asyncio.wait_for(ups.up.wait(), 5)
    await connection.publish("t.a")
    await asyncio.wait_for(got.wait(), 5)
    await connection.close()


async def test_a_request_under_way_ends_at_once_when_the_link_is_cut(proxy: TcpProxy) -> None:
    connection = await Connection.connect(ConnectOptions(url=proxy.url))
    await connection.subscribe("t.silent", lambda _: None)
    request = asyncio.ensure_future(connection.request("t.silent", timeout_s=30))
    await connection.flush()
    await proxy.cut()
    with pytest.raises(StorageUncertainError, match="lost"):
        await asyncio.wait_for(request, 5)
    await connection.close()


async def test_a_frozen_link_with_bytes_under_way_is_given_up_after_the_pings(
    proxy: TcpProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("natscron.wire.connection.PING_S", 0.2)
    connection = await Connection.connect(ConnectOptions(url=proxy.url))
    ups = Ups()
    connection.add_listener(ups)
    proxy.freeze()
    for _ in range(30):
        await connection.publish("t.big", b"x" * 1_000_000)
    await asyncio.wait_for(ups.down.wait(), 15)
    await proxy.mend()
    await asyncio.wait_for(ups.up.wait(), 5)
    await connection.close()


async def test_closing_towards_a_frozen_server_is_bounded(proxy: TcpProxy) -> None:
    connection = await Connection.connect(ConnectOptions(url=proxy.url))
    proxy.freeze()
    for _ in range(30):
        await connection.publish("t.big", b"x" * 1_000_000)
    await asyncio.wait_for(connection.close(), 4)


async def test_listeners_that_raise_do_no_harm(proxy: TcpProxy) -> None:
    class Broken(Ups):
        def on_down(self) -> None:
            raise ZeroDivisionError

    def on_event(*_: object) -> None:
        raise ZeroDivisionError

    connection = await Connection.connect(ConnectOptions(url=proxy.url), on_event=on_event)
    ups = Broken()
    connection.add_listener(ups)
    await proxy.cut()
    await proxy.mend()
    await asyncio.wait_for(ups.up.wait(), 5)
    await connection.flush()
    await connection.close()


async def test_when_the_client_gives_up_for_good_a_new_one_takes_over(nats_server: NatsServer) -> None:
    connection = await Connection.connect(ConnectOptions(url=nats_server.url), on_event=lambda *_: None)
    ups = Ups()
    connection.add_listener(ups)
    got = asyncio.Event()
    await connection.subscribe("t.a", lambda _: got.set())
    first = connection._client
    assert first is not None
    await first._process_err("'user authentication expired'")
    await asyncio.wait_for(ups.up.wait(), 5)
    assert connection._client is not first
    await connection.publish("t.a")
    await asyncio.wait_for(got.wait(), 5)
    await connection.close()


async def test_an_adopted_client_is_used_and_left_open(shared_nats: NatsServer) -> None:
    calls: list[str] = []

    async def own() -> None:
        calls.append("reconnected")

    client = await nats.connect(shared_nats.url, reconnected_cb=own)
    connection = Connection.adopt(client)
    with pytest.raises(NoRespondersError):
        await connection.request("t.nobody")
    second = await Connection.connect(connection.dial)
    await second.flush()
    await second.close()
    await connection.close()
    assert client.is_connected
    assert client._reconnected_cb is own
    await client.close()


async def test_an_adopted_client_tells_of_its_ups_and_downs_and_of_its_end(nats_server: NatsServer) -> None:
    client = await nats.connect(nats_server.url, reconnect_time_wait=0, max_reconnect_attempts=-1, error_cb=quiet)
    connection = Connection.adopt(client)
    ups = Ups()
    connection.add_listener(ups)
    nats_server.kill()
    await asyncio.wait_for(ups.down.wait(), 5)
    await asyncio.to_thread(nats_server.start)
    await asyncio.wait_for(ups.up.wait(), 5)
    await connection.flush()
    await client.close()
    assert connection.is_closed
    with pytest.raises(StorageUnavailableError):
        await connection.publish("t.a")
    await connection.close()


async def test_an_nkey_is_read_from_its_file(tmp_path: Path) -> None:
    seed = nkeys.encode_seed(os.urandom(32), nkeys.PREFIX_BYTE_USER)
    public = nkeys.from_seed(bytearray(seed)).public_key.decode()
    path = tmp_path / "user.nk"
    path.write_bytes(seed)
    config = f"authorization {{ users: [ {{ nkey: {public} }} ] }}"
    with NatsServer(tmp_path / "nats", config=config) as server:
        connection = await Connection.connect(ConnectOptions(url=server.url, nkey=str(path)), timeout_s=5)
        await connection.flush()
        await connection.close()
        path.write_text("SUnusable")
        with pytest.raises(ConfigError) as caught:
            await Connection.connect(ConnectOptions(url=server.url, nkey=str(path)), timeout_s=5)
        assert "SUnusable" not in str(caught.value)


async def test_credentials_of_a_url_are_decoded_and_never_shown(tmp_path: Path) -> None:
    config = 'authorization { user: "a b", password: "p@ss/word" }'
    with NatsServer(tmp_path, config=config) as server:
        options = ConnectOptions(url=f"nats://a%20b:p%40ss%2Fword@127.0.0.1:{server.port}")
        events: list[str] = []
        connection = await Connection.connect(options, on_event=lambda _, text: events.append(text), timeout_s=5)
        await connection.close()
        shown = f"{options} {options!r} {connection.dial!r} {events}"
        assert "word" not in shown
        assert "a%20b" not in shown
        wrong = ConnectOptions(url=f"nats://a:b@127.0.0.1:{server.port}")
        with pytest.raises(StorageUnavailableError):
            await Connection.connect(wrong, on_event=lambda _, text: events.append(text), timeout_s=0.5)
        assert any("Authorization" in text for text in events)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (ConnectOptions(url=""), "url: empty"),
        (ConnectOptions(url="http://h"), "unknown scheme"),
        (ConnectOptions(url="nats://h:99999"), "not a URL"),
        (ConnectOptions(url="nats://h,ws://h"), "mixes"),
        (ConnectOptions(creds="/nowhere/x.creds"), "creds: /nowhere/x.creds cannot be read"),
        (ConnectOptions(tls_ca="/nowhere/ca.pem"), "tls_ca: cannot be used"),
        (ConnectOptions(user="u"), "password: missing"),
    ],
)
async def test_options_that_cannot_work_are_refused(options: ConnectOptions, text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        options.dial()


async def test_a_websocket_url_without_its_package_names_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(ConfigError, match=r"pip install 'natscron\[ws\]'"):
        ConnectOptions(url="wss://h").dial()
