"""The example of the Scheduler on NATS does what it says, run as a reader would run it."""

import re
import subprocess
import sys
from pathlib import Path

from natscron.testing.nats import NatsServer

EXAMPLE = Path(__file__).parents[2] / "examples" / "library" / "nats_example.py"


def test_the_nats_example_runs_four_kinds_of_schedules(environment: dict[str, str], tmp_path: Path) -> None:
    with NatsServer(tmp_path / "nats") as server:
        done = subprocess.run(  # noqa: S603 - our own example
            [sys.executable, "-W", "error", str(EXAMPLE), server.url, "4.5"],
            cwd=environment["HOME"],
            env=environment,
            capture_output=True,
            text=True,
            timeout=40,
            check=False,
        )
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    counts = {name: int(count) for name, count in re.findall(r"^(\S+): (\d+) completed$", done.stdout, re.MULTILINE)}
    assert counts["single"] == 1
    assert counts["interval"] >= 2
    assert counts["cron"] >= 2
    assert counts["from-soon-on"] >= 2
    assert done.stdout.count("single runs for") == 1
