"""All benchmarks in short, one after the other; what they print is one table. Takes about four minutes.

Run: ``make bench``, or ``python benchmarks/bench.py [name ...]``. Each script says in its first lines what it measures,
what is wanted of it and how to run it in full.
"""

import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Final

SHORT: Final[dict[str, tuple[str, ...]]] = {
    "schedule": (),
    "burst": ("--jobs", "10000", "--runs", "3"),
    "burst of 50,000": ("--jobs", "50000", "--runs", "2"),
    "steady": ("--seconds", "30"),
    "creates": ("--jobs", "10000", "--runs", "3"),
    "stored": (),
    "messages": ("--messages", "50000", "--runs", "2"),
    "failover": ("--only", "cold", "lone", "kills", "stop", "--kills", "3", "--rounds", "2"),
}


def main(names: list[str]) -> int:
    """Run them; 1 if one failed."""
    failed = 0
    for name, arguments in SHORT.items():
        script = name.partition(" ")[0]
        if names and script not in names:
            continue
        print(f"\n== {script} {' '.join(arguments)}  ({_machine()})", flush=True)
        here = Path(__file__).parent / f"{script}.py"
        failed |= subprocess.run([sys.executable, str(here), *arguments], check=False).returncode  # noqa: S603 - own
    return 1 if failed else 0


def _machine() -> str:
    load = os.getloadavg()[0]
    return f"Python {platform.python_version()}, {os.cpu_count()} processors, load {load:.1f} before it began"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
