"""Scheduler processes on a NATS cluster of three; the leader, a node, and workers inside a handler are killed in turn.

Run: ``python benchmarks/kills.py [leader] [node] [worker] [--rounds 10] [--members 4] [--jobs 40]``. Each kind has a
cluster and members of its own, and that many rounds of one SIGKILL each, with jobs due every second, a few of which
take 3 s. Everything has the default options. A killed process is replaced at once, a killed node started again after
10 s, and a round is over when all streams have all their replicas again. Afterwards: every slot ran or is recorded as
left out, none under two ids, none twice unless a killed process was inside it, and what a killed process had begun has
begun elsewhere within 10 s. Ends with 1 if something of this is not so.
"""

import argparse
import asyncio
import datetime as dt
import itertools
import logging
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import msgspec
import rig as bench

from natscron.model import Ms, Run
from natscron.schedule import every
from natscron.scheduler import Scheduler
from natscron.testing.crew import Crew, settled
from natscron.testing.nats import NatsCluster, replicated
from natscron.wire.connection import Connection
from natscron.wire.options import ConnectOptions

WORK_S: Final = "0.05"
SLOW: Final = 6
"""Jobs whose handler takes SLOW_S, so that most kills fall into one."""
SLOW_S: Final = 3
TAKEN_OVER_MS: Final[Ms] = 10_000
DOWN_S: Final = 10.0
QUIET_S: Final = 4.0
"""Between the end of a round and the next kill."""
HEALTHY_S: Final = 60.0
STREAMS: Final = ("KV_SCHEDULER_EXECUTIONS", "KV_SCHEDULER_STATE", "SCHEDULER_LOG", "KV_SCHEDULER_JOBS")


class Kill(msgspec.Struct, frozen=True):
    """What was killed, and when."""

    what: str
    at_ms: Ms


class Story:
    """One kind of kill on a cluster of its own."""

    def __init__(self, kind: str, cluster: NatsCluster, crew: Crew, watch: Connection) -> None:
        self.kills: list[Kill] = []
        self.leaders: list[str] = []
        """All that ever led, the present one last."""
        self._kind = kind
        self._cluster = cluster
        self._crew = crew
        self._watch = watch
        self._number = itertools.count(len(crew.members))

    async def round(self, number: int) -> None:
        """Kill something, and wait until everything is whole again."""
        await asyncio.sleep(QUIET_S)
        # In the midst of a slot's runs.
        await asyncio.sleep(1.02 - time.time() % 1)
        if self._kind == "node":
            await self._kill_node(STREAMS[number % len(STREAMS)])
        else:
            await self._kill_member(self.leaders[-1] if self._kind == "leader" else self._busy())
        await self._healthy()
        print(f"  {number + 1}: {self.kills[-1].what}", flush=True)

    async def _kill_member(self, name: str) -> None:
        self._crew.kill(name)
        self.kills.append(Kill(name, round(time.time() * 1000)))
        await asyncio.to_thread(self._crew.start, f"m{next(self._number)}")
        # Until its runs have been taken over.
        await asyncio.sleep(max(0.0, self.kills[-1].at_ms / 1000 + TAKEN_OVER_MS / 1000 - time.time()))

    def _busy(self) -> str:
        """A member that is inside a handler and does not lead."""
        members = set(self._crew.members) - {self.leaders[-1]}
        slow = [call.member for call in self._crew.calls() if not call.ended and call.job.startswith("slow")]
        return next(name for name in [*slow, *members] if name in members)

    async def _kill_node(self, stream: str) -> None:
        info = await self._watch.js_request(f"STREAM.INFO.{stream}")
        node = self._cluster.named(info["cluster"]["leader"])
        node.kill()
        self.kills.append(Kill(f"{info['cluster']['leader']}, which led {stream}", round(time.time() * 1000)))
        await asyncio.sleep(DOWN_S)
        await asyncio.to_thread(node.start)

    async def _healthy(self) -> None:
        async with asyncio.timeout(HEALTHY_S):
            await replicated(self._watch, STREAMS, len(self._cluster.servers))


async def play(kind: str, rounds: int, members: int, jobs: int) -> bool:
    """The rounds of one kind; whether all is as it should be."""
    slow = [f"slow-{n}" for n in range(SLOW)]
    names = [f"job-{n}" for n in range(jobs)] + slow
    with (
        tempfile.TemporaryDirectory(prefix="natscron-kills-") as folder,
        NatsCluster(Path(folder) / "nats") as cluster,
        Crew(cluster.url, Path(folder), work_s=WORK_S) as crew,
    ):
        for n in range(members):
            await asyncio.to_thread(crew.start, f"m{n}")
        watch = await Connection.connect(ConnectOptions(url=cluster.url))
        story = Story(kind, cluster, crew, watch)
        scheduler = Scheduler(cluster.url, worker=False, plan=False, instance="driver")
        scheduler.on("leader_changed", story.leaders.append)
        async with scheduler:
            begin = dt.datetime.fromtimestamp(int(time.time()) + 3, dt.UTC)
            schedule, busy = every("1s", start_at=begin), every(SLOW_S, start_at=begin)
            await asyncio.gather(
                *(scheduler.add_job(name, schedule, overlap="allow") for name in names if name not in slow),
                *(scheduler.add_job(name, busy, overlap="allow", payload=SLOW_S) for name in slow),
            )
            for number in range(rounds):
                await story.round(number)
            await asyncio.sleep(QUIET_S)
            end_ms = int(time.time()) * 1000 - 1
            await asyncio.gather(*(scheduler.pause(name) for name in names))
            first = int(begin.timestamp() * 1000)
            due = [
                (name, slot) for name in names for slot in range(first, end_ms, 1000 * (SLOW_S if name in slow else 1))
            ]
            found, runs = await settled(crew, scheduler, due, 60.0)
        await asyncio.to_thread(crew.stop)
        await watch.close()
    wrong = list(found.wrong)
    late = sorted(run.lateness_ms for run in runs if run.lateness_ms is not None and run.attempt == 1)
    took = taken_over(runs, story.kills if kind != "node" else (), wrong)
    print(
        f"{kind}: {rounds} kills, {found.slots} slots, {found.calls} calls, {found.left_out} left out by policy, "
        f"{len(story.leaders) - 1} changes of leader\n"
        f"  lateness p50 {bench.percentile(late, 0.5)} p99 {bench.percentile(late, 0.99)} max {late[-1]} ms\n"
        f"  runs taken over: {len(took)}, after {spread(took)}"
    )
    print("  nothing wrong" if not wrong else f"  {len(wrong)} WRONG, the first: {wrong[:5]}", flush=True)
    return not wrong


def taken_over(runs: Sequence[Run], kills: Sequence[Kill], wrong: list[str]) -> list[Ms]:
    """How long after its process was killed each interrupted run began anew."""
    killed = {kill.what: kill.at_ms for kill in kills}
    lost = {run.run_id: killed[run.instance] for run in runs if run.instance in killed and run.reason == "worker_lost"}
    begun: dict[str | None, Ms] = {}
    for run in runs:
        if run.run_id in lost and run.attempt > 1 and run.started_at_ms is not None:
            begun[run.run_id] = min(run.started_at_ms, begun.get(run.run_id, run.started_at_ms))
    wrong += [f"run {run_id} was not taken over" for run_id in lost.keys() - begun.keys()]
    took = [begun[run_id] - at_ms for run_id, at_ms in lost.items() if run_id in begun]
    wrong += [f"a run was taken over after {ms} ms" for ms in took if ms > TAKEN_OVER_MS]
    return sorted(took)


def spread(values: Sequence[Ms]) -> str:
    """The least, the middle and the greatest of sorted values."""
    return "-" if not values else f"{values[0]} / {values[len(values) // 2]} / {values[-1]} ms (least, median, most)"


def main() -> int:
    """Measure."""
    kinds = ("leader", "node", "worker")
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kinds", nargs="*", metavar="kind", help=", ".join(kinds))
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--members", type=int, default=4)
    parser.add_argument("--jobs", type=int, default=40)
    chosen = parser.parse_args()
    logging.disable(logging.ERROR)  # the driver's, of the outages that are wanted
    wrong = [
        kind
        for kind in chosen.kinds or kinds
        if not asyncio.run(play(kind, chosen.rounds, chosen.members, chosen.jobs))
    ]
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
