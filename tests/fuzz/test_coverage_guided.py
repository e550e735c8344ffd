"""A short coverage-guided run over all targets at once; ``make fuzz`` is the long one."""

import platform
import subprocess
import sys

import pytest

ON_LINUX = sys.platform == "linux" and platform.machine() == "x86_64"


@pytest.mark.skipif(not ON_LINUX, reason="atheris has wheels for Linux on x86-64 only")
def test_nothing_breaks_in_a_short_run_guided_by_coverage() -> None:
    command = [sys.executable, "-m", "tests.fuzz.coverage", "--here", "--seconds", "8", "--seed", "1", "all"]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False, timeout=55)  # noqa: S603 - ours
    assert done.returncode == 0, done.stdout + done.stderr
    [runs] = [line.split()[-1] for line in done.stderr.splitlines() if "number_of_executed_units" in line]
    assert int(runs) > 1_000
