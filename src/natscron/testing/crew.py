"""Several scheduler processes on one storage, some of them killed, and an account of what their handlers did.

Each member appends a line to a file of its own when a handler begins and when it ends: the write is one system call, so
what a killed process did is there. :func:`account` compares these lines with what was due and with the history.
A handler takes as many seconds as its job's payload says, else as the crew's ``work_s``.
Run as a program (``python -m natscron.testing.crew URL FILE``) this module is one member.
"""

import asyncio
import contextlib
import logging
import os
import signal
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import msgspec

from natscron.model import Ms, Run, RunStatus
from natscron.scheduler import Scheduler
from natscron.worker.event import JobEvent

__all__ = ["Account", "Call", "Crew", "account", "settled"]

_READY: Final = "ready"
_STOP_S: Final = 60.0


class Call(msgspec.Struct, frozen=True):
    """One call of a handler: by whom, and whether it ended."""

    job: str
    run_id: str
    attempt: int
    slot_ms: Ms
    member: str
    ended: bool


class Account(msgspec.Struct, frozen=True):
    """What is wrong, a sentence each, and how much was looked at.

    ``left_out``: slots that were not run, by a policy, which the history says.
    """

    slots: int
    calls: int
    left_out: int
    wrong: tuple[str, ...]


class Crew:
    """Processes by name; use as a context manager, which kills what is left.

    ``options``: ``work_s``, and ``lease`` and ``worker_lease`` of the schedulers, if not their defaults.
    """

    def __init__(self, url: str, folder: Path, **options: str) -> None:
        self.url = url
        self.folder = folder
        self.killed: set[str] = set()
        """Members that were ended by SIGKILL; each process counts as a member of its own."""
        self._options = options
        self._processes: dict[str, subprocess.Popen[str]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in self._processes.values():
            process.kill()
            process.wait()

    @property
    def members(self) -> list[str]:
        """Those that run."""
        return [name for name, process in self._processes.items() if process.poll() is None]

    def start(self, name: str) -> None:
        """Start a member; returns when it runs. Raises RuntimeError with what it printed if it does not."""
        command = [sys.executable, "-m", "natscron.testing.crew", self.url, str(self.folder / f"{name}.calls"), name]
        environment = {**os.environ, **{f"CREW_{key.upper()}": value for key, value in self._options.items()}}
        with (self.folder / f"{name}.log").open("w") as errors:
            process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=errors, text=True)  # noqa: S603 - our own program
        self._processes[name] = process
        with process.stdout or contextlib.nullcontext() as output:
            line = output.readline() if output is not None else ""
        if line.strip() != _READY:
            process.kill()
            process.wait()
            raise RuntimeError(f"{name} did not start: {(self.folder / f'{name}.log').read_text()[-4_000:]}")

    def pid(self, name: str) -> int:
        """Of its process."""
        return self._processes[name].pid

    def kill(self, name: str) -> None:
        """End it at once."""
        self._processes[name].kill()
        self._processes[name].wait()
        self.killed.add(name)

    def stop(self) -> None:
        """End all in order, together. Raises RuntimeError for one that does not end cleanly."""
        running = self.members
        for name in running:
            self._processes[name].send_signal(signal.SIGTERM)
        for name in running:
            code = self._processes[name].wait(_STOP_S)
            if code:
                raise RuntimeError(f"{name} ended with {code}: {(self.folder / f'{name}.log').read_text()[-4_000:]}")

    def calls(self) -> list[Call]:
        """All calls of all members, in the order of each."""
        return [call for file in sorted(self.folder.glob("*.calls")) for call in _read(file)]


def _read(file: Path) -> Iterable[Call]:
    begun: dict[tuple[str, str], Call] = {}
    for line in file.read_text().splitlines():
        what, job, run_id, attempt, slot = line.split()
        call = Call(job, run_id, int(attempt), int(slot), file.stem, ended=what == "E")
        begun[run_id, attempt] = call
    return begun.values()


def account(
    calls: Sequence[Call], runs: Iterable[Run], due: Iterable[tuple[str, Ms]], killed: Iterable[str]
) -> Account:
    """Every slot that was due ran, or is recorded as left out; none twice, unless a killed member was inside it."""
    wrong: list[str] = []
    by_slot: defaultdict[tuple[str, Ms], list[Call]] = defaultdict(list)
    for call in calls:
        by_slot[call.job, call.slot_ms].append(call)
    recorded, skipped = _by_run(runs)
    dead, slots, left_out = set(killed), 0, 0
    for slot in due:
        slots += 1
        mine = by_slot.get(slot, [])
        if not mine and any(first <= slot[1] <= last for first, last in skipped.get(slot[0], ())):
            left_out += 1
            continue
        if not any(call.ended for call in mine):
            wrong.append(f"slot {slot} did not run to its end: {mine}")
        if len({call.run_id for call in mine}) > 1:
            wrong.append(f"slot {slot} has several ids: {mine}")
        again = [call for call in mine if call.member not in dead]
        if len(again) > 1:
            wrong.append(f"slot {slot} ran more than once in members that lived: {mine}")
        for run_id in {call.run_id for call in mine}:
            tries = recorded.get(run_id, {})
            if not tries or tries[max(tries)].status is not RunStatus.COMPLETED:
                wrong.append(f"run {run_id} of slot {slot} is not recorded as completed: {tries}")
    return Account(slots, len(calls), left_out, tuple(wrong))


def _by_run(runs: Iterable[Run]) -> tuple[Mapping[str, dict[int, Run]], Mapping[str, list[tuple[Ms, Ms]]]]:
    """The tries by run, and by job which slots were left out: from and to."""
    tries: defaultdict[str, dict[int, Run]] = defaultdict(dict)
    skipped: defaultdict[str, list[tuple[Ms, Ms]]] = defaultdict(list)
    for run in runs:
        if run.status is RunStatus.SKIPPED:
            skipped[run.job].append((run.from_ms or run.scheduled_at_ms or 0, run.to_ms or run.scheduled_at_ms or 0))
        elif run.run_id is not None:
            tries[run.run_id][run.attempt] = run
    return tries, skipped


async def settled(
    crew: Crew, scheduler: Scheduler, due: Sequence[tuple[str, Ms]], seconds: float = 30.0
) -> tuple[Account, list[Run]]:
    """The account and the history, as soon as there is nothing wrong; after so many seconds as it is then."""
    jobs = sorted({job for job, _ in due})
    deadline_s = asyncio.get_running_loop().time() + seconds
    while True:
        runs = [run for job in jobs for run in await scheduler.list_runs(job, limit=10_000)]
        found = account(await asyncio.to_thread(crew.calls), runs, due, crew.killed)
        if not found.wrong or asyncio.get_running_loop().time() > deadline_s:
            return found, runs
        await asyncio.sleep(0.5)


async def _member(url: str, file: str, name: str) -> None:
    log = os.open(file, os.O_CREAT | os.O_APPEND | os.O_WRONLY)

    async def handler(event: JobEvent) -> None:
        about = f"{event.id} {event.run_id} {event.attempt} {round(event.scheduled_at.timestamp() * 1000)}\n"
        os.write(log, f"B {about}".encode())
        await asyncio.sleep(float(os.environ.get("CREW_WORK_S", "0") if event.payload is None else event.payload))
        os.write(log, f"E {about}".encode())

    scheduler = Scheduler(
        url,
        handler,
        instance=name,
        lease=os.environ.get("CREW_LEASE"),
        worker_lease=os.environ.get("CREW_WORKER_LEASE", "8s"),
    )
    await scheduler.start()
    print(_READY, flush=True)  # noqa: T201 - what the parent waits for
    await scheduler.run_forever()


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
    asyncio.run(_member(*sys.argv[1:]))
