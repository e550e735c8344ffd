"""The examples do what they say, run as a reader would run them."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples" / "messages"
SHOWN = {
    "deferred_order": (
        r"order-1 changed in time: True\n"
        r"order-3 cancelled in time: True\n"
        r"(warehouse: order-1: 4 cups\nwarehouse: order-2: 1 pot\n|"
        r"warehouse: order-2: 1 pot\nwarehouse: order-1: 4 cups\n)"
    ),
    "hourly_report": (
        r"office-hours: 0 0 9-17 \* \* 1-5 \[America/New_York\], next at 20\S+ \S+\n"
        r"making the report of \d\d:\d\d, by hand: True\n"
        r"still there: True\n"
    ),
    "downsample": r"(\d\d:\d\d:\d\d 2\d C\n){3}stopped: True\n",
    "retry_with_backoff": r"ann@example.com: delivered at the 3rd try\nnobody@example.com: given up after 4 tries\n",
}


def test_every_example_is_run() -> None:
    assert {path.stem for path in EXAMPLES.glob("*.py")} == set(SHOWN)


@pytest.mark.parametrize("name", sorted(SHOWN))
def test_an_example_shows_what_it_says(name: str, tmp_path: Path) -> None:
    kept = {key: value for key, value in os.environ.items() if not key.startswith("NATS")}
    path = os.pathsep.join([str(Path(sys.executable).parent), kept.get("PATH", "")])
    done = subprocess.run(  # noqa: S603 - our own examples
        [sys.executable, "-W", "error", str(EXAMPLES / f"{name}.py")],
        env=kept | {"PATH": path, "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(SHOWN[name], done.stdout), done.stdout
