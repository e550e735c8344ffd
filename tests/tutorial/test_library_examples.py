"""The examples of the Scheduler library do what they say, run as a reader would run them."""

import re
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from types import ModuleType
from typing import Any, TypeAlias

import httpx
import pytest

pytestmark = pytest.mark.anyio

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples" / "library"
PATIENCE_S = 40.0
INSTANT = r"20\d\d-\d\d-\d\d \d\d:\d\d:\d\d(\.\d+)?\+00:00"
Start: TypeAlias = Callable[[list[str], dict[str, str]], "subprocess.Popen[str]"]


def output_of(environment: dict[str, str], name: str, *arguments: str) -> str:
    """Run an example to its end; what it printed."""
    done = subprocess.run(  # noqa: S603 - our own examples
        [sys.executable, "-W", "error", str(EXAMPLES / name), *arguments],
        cwd=environment["HOME"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    return done.stdout


def test_the_cron_example_shows_when_its_jobs_run_next_and_runs_them(environment: dict[str, str]) -> None:
    output = output_of(environment, "cron_example.py", "2.5")
    for job in ("every-second", "every-quarter", "weekdays-at-nine"):
        assert re.search(rf"^{job}: next run {INSTANT}$", output, re.MULTILINE), output
    assert re.search(r"^weekdays-at-nine: next run \S+ 0[78]:00:00\+00:00$", output, re.MULTILINE)
    slots = re.findall(r"^every-second runs for (\d\d:\d\d:\d\d), \d+ ms late$", output, re.MULTILINE)
    assert len(slots) >= 2
    assert len(set(slots)) == len(slots)
    assert output.endswith("stopped\n")


def test_the_cron_spec_example_shows_the_expressions(environment: dict[str, str]) -> None:
    output = output_of(environment, "cron_spec_example.py", "2.5")
    for expression in (
        r"every-second: \* \* \* \* \* \*",
        r"hourly: 30 \* \* \* \*",
        r"weekdays: 0 9 \* \* MON-FRI",
        r"monthly: 0 0 1 \* \*",
    ):
        assert re.search(rf"^{expression}, next run {INSTANT}$", output, re.MULTILINE), output
    assert len(re.findall(r"^every-second runs for \d\d:\d\d:\d\d$", output, re.MULTILINE)) >= 2
    assert output.endswith("stopped\n")


def test_the_sql_example_restores_what_it_created(environment: dict[str, str], tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/example.db"
    first = output_of(environment, "sql_example.py", url, "2.5")
    assert first.startswith("created: report\n")
    second = output_of(environment, "sql_example.py", url, "1.5")
    assert re.match(rf"restored: report \(last run {INSTANT}\)\n", second), second
    runs = re.findall(r"^report runs, attempt 1, run (\w{26})$", first + second, re.MULTILINE)
    assert len(runs) >= 3
    assert len(set(runs)) == len(runs)
    assert (
        re.findall(r"^history: (.*) in \d+ ms, (.*)$", second, re.MULTILINE) == [("completed", '"done for ACME"')] * 3
    )


def test_the_migrate_example_copies_and_may_be_repeated(environment: dict[str, str], tmp_path: Path) -> None:
    source, destination = f"sqlite:///{tmp_path}/old.db", f"sqlite:///{tmp_path}/new.db"
    first = output_of(environment, "migrate_example.py", source, destination, "1.5")
    assert "seeded: heartbeat, cleanup\n" in first
    assert re.search(r"^migrated: 2 jobs, [12] executions\nskipped: 0 jobs, 0 executions$", first, re.MULTILINE), first
    assert "migrating jobs: 2 of 2\n" in first
    assert re.search(rf"^heartbeat: next run {INSTANT}$", first, re.MULTILINE)
    assert first.split("skipped:")[1].count("heartbeat runs\n") >= 1
    second = output_of(environment, "migrate_example.py", source, destination, "0.1")
    assert "seeded" not in second
    assert re.search(r"^migrated: 0 jobs, 0 executions\nskipped: 2 jobs, [12] executions$", second, re.MULTILINE), (
        second
    )


# Web applications.


def load(path: Path) -> ModuleType:
    import importlib.util  # noqa: PLC0415 - only here

    spec = importlib.util.spec_from_file_location(f"library_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # FastAPI resolves annotations by the module's name.
    sys.modules[module.__name__] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture
async def fastapi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[httpx.AsyncClient]:
    monkeypatch.setenv("JOBS_URL", f"sqlite:///{tmp_path}/jobs.db")
    monkeypatch.setenv("JOBS_EVERY", "100ms")
    module = load(EXAMPLES / "fastapi_app.py")
    async with (
        module.app.router.lifespan_context(module.app),
        httpx.AsyncClient(transport=httpx.ASGITransport(module.app), base_url="http://app") as http,
    ):
        yield http
    assert module.scheduler.is_running is False


async def test_the_fastapi_application_runs_jobs_while_it_lives(
    fastapi: httpx.AsyncClient, capfd: pytest.CaptureFixture[str]
) -> None:
    assert [job["id"] for job in (await fastapi.get("/jobs")).json()] == ["refresh"]
    assert (await fastapi.get("/health")).json()["running"] is True
    assert (await fastapi.post("/jobs/unknown/trigger")).status_code == 404

    triggered = await fastapi.post("/jobs/refresh/trigger")
    assert triggered.status_code == 202
    mail = (await fastapi.post("/mails", params={"to": "ann@example.org", "seconds": 0.2})).json()["job"]

    async def runs(job: str) -> dict[str, tuple[str, str | None]]:
        return {run["run"]: (run["status"], run["result"]) for run in (await fastapi.get(f"/jobs/{job}/runs")).json()}

    end = time.monotonic() + PATIENCE_S
    while (
        ("completed", '"sent to ann@example.org"') not in (await runs(mail)).values()
        or (await runs("refresh")).get(triggered.json()["run"]) is None
        or ("completed", '"fresh"') not in (await runs("refresh")).values()
    ):
        assert time.monotonic() < end, (await runs(mail), await runs("refresh"))
    assert "refreshing for " in capfd.readouterr().out


class Site:
    """An application behind a real server on loopback."""

    def __init__(self, process: "subprocess.Popen[str]", port: int) -> None:
        self.process = process
        self._web = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=20)

    def ask(self, method: str, path: str, expected: int = 200) -> Any:  # noqa: ANN401 - any JSON
        """The answer, as soon as there is one."""
        end = time.monotonic() + PATIENCE_S
        while True:
            try:
                answer = self._web.request(method, path)
            except httpx.TransportError:
                assert time.monotonic() < end
                assert self.process.poll() is None
                time.sleep(0.05)
            else:
                assert answer.status_code == expected, answer.text
                return answer.json()

    def refused(self, method: str, path: str, status: int) -> None:
        """It answers with an error, for people."""
        answer = self._web.request(method, path)
        assert answer.status_code == status
        assert "unknown" in answer.text

    def until(self, condition: Callable[[], bool]) -> None:
        """Ask until it is so."""
        end = time.monotonic() + PATIENCE_S
        while not condition():
            assert time.monotonic() < end
            time.sleep(0.05)

    def stop(self, number: signal.Signals = signal.SIGTERM) -> str:
        """End it as a service manager, or a user, would; what it printed."""
        self._web.close()
        self.process.send_signal(number)
        output, _ = self.process.communicate(timeout=PATIENCE_S)
        return output


def completed(runs: list[dict[str, Any]]) -> list[str]:
    return [run["result"] for run in runs if run["status"] == "completed"]


def test_the_flask_application_runs_jobs_while_it_serves(
    environment: dict[str, str], start: Start, free_port: int, tmp_path: Path
) -> None:
    environment |= {"JOBS_URL": f"sqlite:///{tmp_path}/jobs.db", "JOBS_EVERY": "100ms"}
    process = start([sys.executable, str(EXAMPLES / "flask_app.py"), str(free_port)], environment)
    site = Site(process, free_port)
    [job] = site.ask("GET", "/jobs")
    assert job["id"] == "refresh"
    site.refused("POST", "/jobs/unknown/trigger", 404)
    triggered = site.ask("POST", "/jobs/refresh/trigger", 202)["run"]
    site.until(lambda: triggered in [run["run"] for run in site.ask("GET", "/jobs/refresh/runs")])
    site.until(lambda: len(completed(site.ask("GET", "/jobs/refresh/runs"))) >= 3)
    assert set(completed(site.ask("GET", "/jobs/refresh/runs"))) == {f'"by {process.pid}"'}
    assert "refreshing for " in site.stop(signal.SIGINT)


def test_the_flask_application_runs_under_gunicorn_with_one_set_of_jobs(
    environment: dict[str, str], start: Start, free_port: int, tmp_path: Path
) -> None:
    environment |= {"JOBS_URL": f"sqlite:///{tmp_path}/jobs.db", "JOBS_EVERY": "200ms"}
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-m", "gunicorn", "--chdir", str(EXAMPLES)]
    command += ["--workers", "2", "--preload", "--bind", f"127.0.0.1:{free_port}", "flask_app:create_app()"]
    process = start(command, environment)
    site = Site(process, free_port)
    assert [job["id"] for job in site.ask("GET", "/jobs")] == ["refresh"]
    site.until(lambda: len(completed(site.ask("GET", "/jobs/refresh/runs"))) >= 5)
    output = site.stop()
    assert process.returncode == 0, output
    assert "Traceback" not in output
    slots = re.findall(r"^refreshing for (\S+)$", output, re.MULTILINE)
    assert len(slots) >= 5


DJANGO = EXAMPLES / "django_site"


def django(environment: dict[str, str], *arguments: str) -> list[str]:
    environment |= {"SHOP_HOME": environment["HOME"], "JOBS_EVERY": "200ms", "PYTHONDONTWRITEBYTECODE": "1"}
    return [sys.executable, str(DJANGO / "manage.py"), *arguments]


@pytest.mark.parametrize("options", [["--noreload"], []])
def test_the_django_site_runs_jobs_in_its_web_process_and_once_only(
    environment: dict[str, str], start: Start, free_port: int, options: list[str]
) -> None:
    process = start(django(environment, "runserver", f"127.0.0.1:{free_port}", *options), environment)
    site = Site(process, free_port)
    [job] = site.ask("GET", "/jobs")["jobs"]
    assert job["id"] == "cleanup"
    assert "no job 'unknown'" in site.ask("POST", "/jobs/unknown/trigger", 404)["error"]
    triggered = site.ask("POST", "/jobs/cleanup/trigger", 202)["run"]
    site.until(lambda: triggered in [run["run"] for run in site.ask("GET", "/jobs/cleanup/runs")["runs"]])
    site.until(lambda: len(completed(site.ask("GET", "/jobs/cleanup/runs")["runs"])) >= 2)
    assert set(completed(site.ask("GET", "/jobs/cleanup/runs")["runs"])) == {'"0 tables"'}
    assert "cleanup for " in site.stop(signal.SIGINT)


def test_djangos_commands_start_no_scheduler_but_one(environment: dict[str, str], start: Start) -> None:
    for command in ("check", "migrate"):
        done = subprocess.run(  # noqa: S603 - our own example
            django(environment, command),
            env=environment,
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )
        assert (done.returncode, done.stderr) == (0, "")
        assert not (Path(environment["HOME"]) / "jobs.db").exists()

    process = start(django(environment, "run_scheduler"), environment)
    assert process.stdout is not None
    assert process.stdout.readline() == "the scheduler runs\n"
    assert process.stdout.readline().startswith("cleanup for ")
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0, output
    assert output.endswith("the scheduler has stopped\n")


def test_every_example_is_run_by_a_test() -> None:
    told = "".join(path.read_text() for path in Path(__file__).parent.glob("test_library_*.py"))
    for path in EXAMPLES.iterdir():
        assert path.name.startswith("__") or f'"{path.name}"' in told, path.name
