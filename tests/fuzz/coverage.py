"""The coverage-guided run: atheris drives the targets through the code of natscron, libFuzzer chooses the input.

Run: ``python -m tests.fuzz.coverage --seconds 60 [name ...]``, or ``make fuzz FUZZ_TIME=60``. The time is shared out
among the targets. Each runs in a process of its own, because libFuzzer ends the process it fuzzes in. Input that breaks
something is printed, and kept in ``.fuzz/``; found again by ``--input FILE NAME``.
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

KEPT: Final = Path(".fuzz")
MAX_INPUT: Final = 512
STARTING: Final = 60.0
"""Seconds that a process may take to instrument the code, besides its time to fuzz."""


def fuzz(name: str, seconds: int, seed: int) -> None:
    """Fuzz one target in this process, or all at once as "all"; does not return."""
    import atheris  # noqa: PLC0415 - a tool for developers, on Linux only; what names the targets needs it not

    with atheris.instrument_imports(include=["natscron"]):
        from tests.fuzz.targets import ALL, TARGETS, TOKENS  # noqa: PLC0415 - imported to be instrumented

    KEPT.mkdir(exist_ok=True)
    target = ALL if name == ALL.name else TARGETS[name]
    with tempfile.TemporaryDirectory() as folder:
        for place, data in enumerate(target.seeds):
            (Path(folder) / f"seed{place}").write_bytes(data)
        words = Path(folder) / "words.dict"
        words.write_text("".join('"' + "".join(map(r"\x{:02x}".format, token)) + '"\n' for token in TOKENS))
        corpus = Path(folder) / "corpus"
        corpus.mkdir()
        options = {
            "max_total_time": seconds,
            "seed": seed,
            "max_len": MAX_INPUT,
            "dict": words,
            "artifact_prefix": f"{KEPT}/{name}-",
            "timeout": 10,
            "rss_limit_mb": 2048,
            "print_final_stats": 1,
            "verbosity": 0,
        }
        flags = [f"-{key}={value}" for key, value in options.items()]
        atheris.Setup(["fuzz", *flags, str(corpus), folder], target.feed)
        atheris.Fuzz()


def run(name: str, seconds: int, seed: int) -> str:
    """Fuzz one target in a process of its own; what it said, if it broke something."""
    KEPT.mkdir(exist_ok=True)
    flags = ["--here", "--seconds", str(seconds), "--seed", str(seed), name]
    done = subprocess.run(  # noqa: S603 - ourselves
        [sys.executable, "-m", "tests.fuzz.coverage", *flags],
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
        timeout=seconds + STARTING,
    )
    if done.returncode:
        return done.stdout + done.stderr
    runs = [line.split()[-1] for line in done.stderr.splitlines() if "number_of_executed_units" in line]
    print(f"{name:14} {runs[0] if runs else '?':>9} inputs in {seconds} s", flush=True)
    return ""


def main() -> int:
    """Run them; 1 if one broke."""
    from tests.fuzz.targets import TARGETS  # noqa: PLC0415 - where fuzz() runs it has to come later

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"targets; default all of {' '.join(TARGETS)}")
    parser.add_argument("--seconds", type=int, default=60, help="for all targets together (60)")
    parser.add_argument("--seed", type=int, default=0, help="of the random choices; 0 takes another one each time")
    parser.add_argument("--input", type=Path, help="feed this file to the targets instead")
    arguments = parser.parse_args()
    names = arguments.names or list(TARGETS)
    if arguments.input:
        for name in names:
            TARGETS[name].feed(arguments.input.read_bytes())
        return 0
    broken = [said for name in names if (said := run(name, max(1, arguments.seconds // len(names)), arguments.seed))]
    print("\n".join(broken))
    return 1 if broken else 0


if __name__ == "__main__":
    if sys.argv[1:2] == ["--here"]:
        fuzz(sys.argv[-1], int(sys.argv[3]), int(sys.argv[5]))
    sys.exit(main())
