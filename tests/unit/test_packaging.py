"""What the package ships, what it depends on, and the rules that hold for every file."""

import ast
import importlib
import importlib.metadata
import re
import subprocess
import sys
import tomllib
import zipfile
from email.parser import Parser
from pathlib import Path
from typing import Any

import pytest
from hatchling.builders.sdist import SdistBuilder
from hatchling.builders.wheel import WheelBuilder

import natscron

ROOT = Path(__file__).parents[2]
MAX_LINES = 500
CODE_FOLDERS = ("src", "tests", "benchmarks", "examples")


def project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    builder = WheelBuilder(str(ROOT))
    [path] = list(builder.build(directory=str(tmp_path_factory.mktemp("dist")), versions=["standard"]))
    return zipfile.ZipFile(path)


def test_the_wheel_holds_every_module_and_the_type_marker_and_nothing_else(wheel: zipfile.ZipFile) -> None:
    names = {name for name in wheel.namelist() if ".dist-info/" not in name}
    sources = {
        str(path.relative_to(ROOT / "src"))
        for path in (ROOT / "src" / "natscron").rglob("*")
        if path.is_file() and path.suffix not in {".pyc", ".pyo"}
    }
    assert names == sources
    assert "natscron/py.typed" in names


def test_the_wheel_says_what_it_is(wheel: zipfile.ZipFile) -> None:
    [path] = [name for name in wheel.namelist() if name.endswith(".dist-info/METADATA")]
    metadata = Parser().parsestr(wheel.read(path).decode())
    assert metadata["Name"] == "natscron"
    assert metadata["Version"] == natscron.__version__
    assert metadata["Requires-Python"] == ">=3.11"
    assert metadata["License-Expression"] == "Apache-2.0"
    assert set(metadata.get_all("Provides-Extra", [])) == set(project()["project"]["optional-dependencies"])
    # The README is the page that an index shows.
    assert str(metadata.get_payload()).startswith("# natscron")
    assert any(name.endswith("/licenses/LICENSE") for name in wheel.namelist())


def test_the_sdist_holds_what_is_needed_to_run_the_tests(tmp_path: Path) -> None:
    import tarfile  # noqa: PLC0415 - only here

    [path] = list(SdistBuilder(str(ROOT)).build(directory=str(tmp_path), versions=["standard"]))
    with tarfile.open(path) as archive:
        names = {name.split("/", 1)[1] for name in archive.getnames()}
    assert {"pyproject.toml", "README.md", "LICENSE", "Makefile", "tests/unit/test_packaging.py"} <= names
    assert not [name for name in names if name.startswith((".venv", ".git/", ".ci"))]


@pytest.mark.parametrize("script", ["nats-cron", "nats-cron-cli", "nats-cron-server"])
def test_a_console_script_leads_to_a_function(script: str) -> None:
    module, _, function = project()["project"]["scripts"][script].partition(":")
    assert callable(getattr(importlib.import_module(module), function))


def test_the_package_runs_as_a_module() -> None:
    done = subprocess.run([sys.executable, "-m", "natscron", "version"], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["nats-cron", natscron.__version__]


def test_development_dependencies_are_pinned_exactly() -> None:
    loose = [
        line for line in project()["dependency-groups"]["dev"] if not re.fullmatch(r"[a-z0-9-]+==[0-9.]+(; .+)?", line)
    ]
    assert loose == []


def test_the_build_backend_is_the_pinned_one() -> None:
    [backend] = project()["build-system"]["requires"]
    assert backend in project()["dependency-groups"]["dev"]


def test_every_extra_installs_what_it_names() -> None:
    for name, requirements in project()["project"]["optional-dependencies"].items():
        assert requirements, name
        for requirement in requirements:
            distribution = re.split(r"[<>=\[]", requirement)[0]
            if distribution != "uvloop":  # developers need not have it
                importlib.metadata.version(distribution)


def python_files() -> list[Path]:
    return [
        path for folder in CODE_FOLDERS for path in (ROOT / folder).rglob("*.py") if "node_modules" not in path.parts
    ]


def test_no_file_is_longer_than_the_limit() -> None:
    lengths = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in python_files()}
    assert {name: lines for name, lines in lengths.items() if lines > MAX_LINES} == {}
    assert len(lengths) > 20  # the search finds the files


def test_only_the_clock_module_reads_a_clock() -> None:
    readers = {
        "time.time",
        "time.time_ns",
        "time.monotonic",
        "time.monotonic_ns",
        "time.perf_counter",
        "time.clock_gettime",
    }
    readers |= {"time.clock_gettime_ns", "datetime.now", "datetime.utcnow", "datetime.today", "date.today"}
    found = []
    for path in (ROOT / "src").rglob("*.py"):
        if path.name == "clock.py":
            continue
        found += [
            f"{path.relative_to(ROOT)}:{node.lineno}"
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.Attribute)
            and isinstance(node.value, ast.Name | ast.Attribute)
            and ".".join(ast.unparse(node).split(".")[-2:]) in readers
        ]
    assert found == []


def test_every_lint_exception_gives_its_reason() -> None:
    bare = [
        f"{path.relative_to(ROOT)}:{number}"
        for path in python_files()
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if re.search(r"# noqa(?!: [A-Z0-9, ]+ - \S)", line) and path != Path(__file__)
    ]
    assert bare == []
