"""The files for containers, compose and systemd agree with each other and with the program."""

import configparser
import re
import stat
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from natscron.config import Settings
from natscron.durations import parse_duration

ROOT = Path(__file__).parents[2]
SHUTDOWN_MS = Settings().service.shutdown_timeout_ms


@pytest.fixture
def compose() -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load((ROOT / "deploy" / "compose.yaml").read_text())
    return content


class Unit(configparser.RawConfigParser):
    """A systemd unit: names keep their case and may come more than once."""

    def optionxform(self, optionstr: str) -> str:
        return optionstr


@pytest.fixture
def unit() -> Unit:
    parser = Unit(strict=False, delimiters=("=",), interpolation=None)
    parser.read(ROOT / "deploy" / "nats-cron.service")
    return parser


def test_compose_has_nats_two_instances_and_a_worker_with_health_checks(compose: dict[str, Any]) -> None:
    services = compose["services"]
    assert set(services) == {"nats", "cron-a", "cron-b", "worker", "cli"}
    for name in ("nats", "cron-a", "cron-b"):
        assert services[name]["healthcheck"]["test"][0] == "CMD", name
    assert services["cron-a"]["healthcheck"]["test"][1:3] == ["nats-cron", "health"]
    assert services["nats"]["command"][:1] == ["--jetstream"]


def test_compose_starts_instances_when_nats_is_ready_and_lets_them_finish(compose: dict[str, Any]) -> None:
    for name in ("cron-a", "cron-b", "worker"):
        service = compose["services"][name]
        assert service["depends_on"] == {"nats": {"condition": "service_healthy"}}
        assert parse_duration(service["stop_grace_period"]) > SHUTDOWN_MS * 1_000_000


def test_compose_pins_images_and_names_files_that_exist(compose: dict[str, Any]) -> None:
    assert re.fullmatch(r"nats:\d+\.\d+\.\d+-alpine", compose["services"]["nats"]["image"])
    source, target, mode = compose["services"]["worker"]["volumes"][0].split(":")
    assert (ROOT / "deploy" / source).is_file()
    assert mode == "ro"
    assert target in compose["services"]["worker"]["entrypoint"]
    assert (ROOT / "deploy" / compose["services"]["cron-a"]["build"]["context"] / "Dockerfile").is_file()


def test_the_unit_starts_the_server_and_lets_it_finish(unit: Unit) -> None:
    service = unit["Service"]
    assert Path(service["ExecStart"]).name in tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    assert parse_duration(service["TimeoutStopSec"]) > SHUTDOWN_MS * 1_000_000
    assert service["Restart"] == "on-failure"
    assert service["KillSignal"] == "SIGTERM"


def test_the_unit_gives_the_server_no_rights_that_it_does_not_need(unit: Unit) -> None:
    service = unit["Service"]
    assert service["DynamicUser"] == "yes"
    assert service["NoNewPrivileges"] == "yes"
    assert service["ProtectSystem"] == "strict"
    assert service["CapabilityBoundingSet"] == ""


def instructions() -> list[tuple[str, str]]:
    text = re.sub(r"\\\n", " ", (ROOT / "Dockerfile").read_text())
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return [(word, rest.strip()) for word, _, rest in (line.partition(" ") for line in lines)]


def test_the_image_runs_the_server_without_root_and_checks_its_health() -> None:
    last_stage = instructions()
    while any(word == "FROM" for word, _ in last_stage[1:]):
        last_stage = last_stage[1:]
    found = dict(last_stage)
    assert found["ENTRYPOINT"] == '["nats-cron-server"]'
    assert found["USER"] not in {"root", "0", ""}
    assert '"nats-cron", "health"' in found["HEALTHCHECK"]
    assert found["STOPSIGNAL"] == "SIGTERM"


def test_the_image_is_built_in_stages_from_a_pinned_python() -> None:
    bases = [rest.split()[0] for word, rest in instructions() if word == "FROM"]
    assert len(bases) == 2
    assert len(set(bases)) == 1
    assert re.fullmatch(r"python:\d+\.\d+\.\d+-slim-[a-z]+", bases[0])


def test_the_image_installs_extras_that_exist() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    [wanted] = re.findall(r'"\.\[([a-z,]+)\]"', (ROOT / "Dockerfile").read_text())
    assert set(wanted.split(",")) <= set(extras)


def test_the_files_copied_into_the_image_exist() -> None:
    sources = [
        source
        for word, rest in instructions()
        if word == "COPY" and "--from" not in rest
        for source in rest.split()[:-1]
    ]
    assert sources
    assert [source for source in sources if not (ROOT / source).exists()] == []


def test_the_dockerfile_has_no_complaint_from_its_linter() -> None:
    linter = Path(sys.executable).with_name("hadolint")
    done = subprocess.run([linter, "Dockerfile"], cwd=ROOT, capture_output=True, text=True, check=False)  # noqa: S603 - our own file
    assert done.returncode == 0, done.stdout


def test_the_ci_script_can_be_run() -> None:
    script = ROOT / ".ci" / "run"
    assert script.stat().st_mode & stat.S_IXUSR
    subprocess.run(["bash", "-n", str(script)], check=True)  # noqa: S603, S607 - our own file
