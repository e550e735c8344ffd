"""The examples do what they say, run as a reader would run them."""

import asyncio
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from types import ModuleType
from typing import NamedTuple, TypeAlias

import httpx
import nats
import pytest
from nats.aio.client import Client

from natscron.server import Server

pytestmark = pytest.mark.anyio

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
TOOLCHAIN_S = 240
Start: TypeAlias = Callable[[list[str], dict[str, str]], "subprocess.Popen[str]"]


def run(command: list[str], environment: dict[str, str], *, cwd: Path = ROOT, seconds: float = 30) -> str:
    done = subprocess.run(  # noqa: S603 - our own examples
        command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=seconds, check=False
    )
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}{done.stderr}"
    return done.stdout


@pytest.fixture
async def client(nats_url: str) -> AsyncIterator[Client]:
    connection = await nats.connect(nats_url)
    yield connection
    await connection.close()


async def test_the_basic_embedded_example_shows_three_messages(environment: dict[str, str]) -> None:
    output = await asyncio.to_thread(
        run, [sys.executable, "-W", "error", str(EXAMPLES / "embedded" / "basic.py")], environment
    )
    assert len(re.findall(r"^\S+Z demo\.tick run [0-9A-Z]{26}$", output, re.MULTILINE)) == 3
    assert re.search(r"^next run of demo\.tick: \S+Z$", output, re.MULTILINE)


async def test_the_shared_connection_outlives_the_server(environment: dict[str, str], nats_url: str) -> None:
    output = await asyncio.to_thread(
        run,
        [sys.executable, "-W", "error", str(EXAMPLES / "embedded" / "shared_connection.py")],
        {**environment, "NATS_URL": nats_url},
    )
    assert output.splitlines() == ['app.nightly: {"full":true}', "the scheduler is stopped, the connection is up"]


def load(path: Path) -> ModuleType:
    import importlib.util  # noqa: PLC0415 - only here

    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # FastAPI resolves annotations by the module's name.
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module


async def test_the_fastapi_application_serves_jobs_while_it_lives(
    nats_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NATS_URL", nats_url)
    app = load(EXAMPLES / "embedded" / "fastapi_app.py").app
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://app") as http,
    ):
        put = await http.put("/jobs", json={"subject": "app.nightly", "schedule": {"cron": "0 3 * * *"}})
        assert put.status_code == 200, put.text
        job = (await http.get("/jobs/app.nightly")).json()
        assert job["schedule"] == {"cron": "0 3 * * *"}
        assert job["next_run"].endswith("T03:00:00.000Z")
        assert (await http.get("/jobs/app.unknown")).status_code == 404
        assert (
            await http.put("/jobs", json={"subject": "app.x", "schedule": {"cron": "61 * * * *"}})
        ).status_code == 422
        assert (await http.get("/health")).json()["running"] is True
    assert app.state.cron.is_running is False


JOB_FILES = sorted((EXAMPLES / "jobs").rglob("*.json"))


@pytest.mark.parametrize("path", JOB_FILES, ids=lambda path: str(path.relative_to(EXAMPLES / "jobs")))
async def test_a_job_file_is_created_without_a_warning(path: Path, service: Server) -> None:
    data = path.read_bytes()  # noqa: ASYNC240 - a small file, and nothing else is going on
    job = json.loads(data)
    reply = await service.create_job(data)
    assert "warning" not in reply
    job = await service.get_job(job.get("subject") or job["target"]["subject"])
    assert job["state"] == "active"
    assert job["next_run"] is not None


def test_each_job_is_there_in_both_formats() -> None:
    names = {
        folder: {path.name for path in (EXAMPLES / "jobs" / folder).glob("*.json")} for folder in ("", "older-format")
    }
    assert names[""] == names["older-format"] == {"cleanup.json", "heartbeat.json", "report.json", "cache-warming.json"}


class Worker(NamedTuple):
    """How to start a worker that was made ready, or why it cannot be started here."""

    command: list[str]
    problem: str = ""


def python_worker(_folder: Path) -> Worker:
    return Worker([sys.executable, "-W", "error", str(EXAMPLES / "workers" / "worker.py")])


def go_worker(folder: Path) -> Worker:
    source = EXAMPLES / "workers" / "go"
    assert run(["gofmt", "-l", "."], TOOLCHAIN, cwd=source) == ""
    if problem := failure(["go", "mod", "download"], cwd=source):
        return Worker([], problem)
    run(["go", "vet", "./..."], TOOLCHAIN, cwd=source, seconds=TOOLCHAIN_S)
    run(["go", "build", "-o", str(folder / "worker"), "."], TOOLCHAIN, cwd=source, seconds=TOOLCHAIN_S)
    return Worker([str(folder / "worker")])


def node_worker(folder: Path) -> Worker:
    shutil.copytree(
        EXAMPLES / "workers" / "node", folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("node_modules")
    )
    run(["node", "--check", "worker.mjs"], TOOLCHAIN, cwd=folder)
    if problem := failure(["npm", "install", "--no-audit", "--no-fund", "--ignore-scripts"], cwd=folder):
        return Worker([], problem)
    return Worker(["node", str(folder / "worker.mjs")])


def failure(command: list[str], *, cwd: Path) -> str:
    """Fetch what a worker needs; what went wrong, if the network or the index is not there."""
    try:
        done = subprocess.run(  # noqa: S603 - our own commands
            command, cwd=cwd, env=TOOLCHAIN, capture_output=True, text=True, timeout=TOOLCHAIN_S, check=False
        )
    except subprocess.TimeoutExpired:
        return f"{' '.join(command)}: no end within {TOOLCHAIN_S} s"
    return "" if done.returncode == 0 else f"{' '.join(command)}: {done.stderr.strip()[-300:]}"


# Caches of the toolchains lie in the real home.
TOOLCHAIN = dict(os.environ)
MAKERS: dict[str, Callable[[Path], Worker]] = {"python": python_worker}
if shutil.which("go"):
    MAKERS["go"] = go_worker
if shutil.which("node") and shutil.which("npm"):
    MAKERS["node"] = node_worker


@pytest.mark.timeout(3 * TOOLCHAIN_S)
@pytest.mark.parametrize("language", MAKERS)
async def test_two_workers_of_a_group_share_the_runs(
    language: str,
    environment: dict[str, str],
    nats_url: str,
    service: Server,
    client: Client,
    start: Start,
    tmp_path: Path,
) -> None:
    worker = await asyncio.to_thread(MAKERS[language], tmp_path)
    if worker.problem:
        # Without its packages it can only be read; that was done.
        print(f"the {language} worker was not run: {worker.problem}")
        return
    processes = [start([*worker.command, "demo.>"], {**environment, "NATS_URL": nats_url}) for _ in range(2)]
    for process in processes:
        assert "listening on" in await line_of(process)
    records = await client.subscribe("nats-cron.log.demo.>")
    for number in range(4):
        job = {"subject": f"demo.job{number}", "schedule": {"cron": "0 0 1 1 *"}, "payload": f"work {number}"}
        await service.create_job({**job, "delivery": "request"})
        await service.trigger_job(f"demo.job{number}")
    outcomes = [json.loads((await records.next_msg(timeout=20)).data) for _ in range(4)]
    assert [(run["status"], run["result"]) for run in outcomes] == [("completed", "done")] * 4
    for _ in range(8):
        answer = await client.request("demo.direct", b"twice", timeout=10, headers={"Nats-Cron-Run": "RUN1"})
        assert answer.data == b"done"
    done: list[str] = []
    for process in processes:
        done += await asyncio.to_thread(finish, process)
    jobs = sorted(line.split(": ")[1] for line in done if "demo.job" in line)
    assert jobs == [f"work {number}" for number in range(4)]
    # Each process remembers what it has done.
    assert 1 <= len([line for line in done if "demo.direct run RUN1" in line]) <= len(processes)


async def line_of(process: "subprocess.Popen[str]") -> str:
    assert process.stdout is not None
    return await asyncio.wait_for(asyncio.to_thread(process.stdout.readline), 20)


def finish(process: "subprocess.Popen[str]") -> list[str]:
    """End it as a service manager would; the lines of what it has done."""
    assert process.stdout is not None
    process.terminate()
    lines = [line.strip() for line in process.stdout]
    assert process.wait(20) == 0, lines
    return [line for line in lines if line.startswith("done ")]


async def test_the_reporting_worker_ends_its_runs_and_they_do_not_overlap(
    environment: dict[str, str], nats_url: str, service: Server, client: Client, start: Start
) -> None:
    command = [sys.executable, "-W", "error", str(EXAMPLES / "workers" / "reporting.py"), "render.>"]
    process = start(command, {**environment, "NATS_URL": nats_url})
    assert "listening on" in await line_of(process)
    records = await client.subscribe("nats-cron.log.render.film")
    await service.create_job(
        {
            "subject": "render.film",
            "schedule": {"cron": "0 0 1 1 *"},
            "payload": "frames",
            "delivery": "core",
            "reports": True,
            "overlap": "buffer_all",
        }
    )
    for _ in range(3):
        await service.trigger_job("render.film")
    told: list[tuple[str, str | None]] = []
    while [status for status, _ in told].count("completed") < 3:
        run = json.loads((await records.next_msg(timeout=20)).data)
        told.append((run["status"], run.get("result")))
    assert told == [("running", None), ("completed", "6 bytes")] * 3
    process.terminate()
    assert await asyncio.to_thread(process.wait, 20) == 0
