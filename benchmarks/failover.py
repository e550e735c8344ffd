"""What failures cost: the hole that each leaves between runs, and what was lost, doubled or put off.

Run: ``python benchmarks/failover.py [--kills 20] [--rounds 7] [--outage 20] [--suspend 10] [--nodes 3]``, about four
minutes; a part alone: ``--only kills`` (``cold lone kills stop restart suspend cluster``). Wanted: cold start to first
run 1 s; after SIGKILL of a lone instance lease + 1 s; SIGKILL of the leader lease + 0.5 s; clean stop 0.3 s. The lease
is 2 s, its default.

A hundred jobs run every second, one each 10 ms, so the longest hole between two receipts is the cost. Receipts are
stamped by the server, in a stream (in the cluster by this process, which listens at every node).
"""

import argparse
import asyncio
import contextlib
import itertools
import logging
import random
import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Sequence
from pathlib import Path
from typing import Any, Final

from natscron.codec import ms_to_text
from natscron.testing.audit import Arrival
from natscron.testing.fleet import Fleet
from natscron.testing.nats import NatsCluster, NatsServer

JOBS: Final = 100
STEP_MS: Final = 10
LEASE_S: Final = 2.0
SETTINGS: Final = {"HISTORY__PER_JOB": "10000", "LOG__LEVEL": "info"}


def hundred() -> list[dict[str, Any]]:
    """Jobs every second, 10 ms apart; every fifth goes to a JetStream target."""
    start_ms = int(time.time()) * 1000
    return [
        {
            "subject": f"{'js' if n % 5 == 0 else 'core'}.j{n}",
            "schedule": {"every": "1s", "start_at": ms_to_text(start_ms + n * STEP_MS)},
            "delivery": "jetstream" if n % 5 == 0 else "core",
        }
        for n in range(JOBS)
    ]


@contextlib.asynccontextmanager
async def standing(*names: str) -> AsyncIterator[tuple[Fleet, NatsServer]]:
    """NATS, these services, the jobs."""
    with tempfile.TemporaryDirectory(prefix="natscron-bench-") as text:
        folder = Path(text)
        with NatsServer(folder / "nats") as nats:
            async with Fleet(folder / "fleet", nats.url, settings=SETTINGS) as fleet:
                await fleet.listen()
                for name in names:
                    fleet.start(name)
                await fleet.create(hundred())
                await fleet.leader()
                await fleet.passed(fleet.clock.now_ms())
                yield fleet, nats


def now_ms() -> float:
    """The wall clock, as the server's."""
    return time.time() * 1000


def hole(arrivals: Iterable[Arrival], around_ms: float) -> float:
    """The longest time without a receipt, among those that end after ``around_ms``."""
    times = sorted(arrival.at_ms for arrival in arrivals)
    return max(b - a for a, b in itertools.pairwise(times) if b > around_ms)


async def received(fleet: Fleet) -> list[Arrival]:
    """All receipts, with the server's time."""
    return [*await fleet.stream("CAPTURE"), *await fleet.stream("TARGET")]


def report(what: str, figures: Sequence[float], wanted: str = "") -> None:
    """One row: median, least and most, in milliseconds."""
    text = (
        f"median {statistics.median(figures):.0f}  min {min(figures):.0f}  max {max(figures):.0f} ms  n={len(figures)}"
    )
    print(f"{what:52}  {text:46}  {wanted}", flush=True)


async def judged(what: str, fleet: Fleet, crashes: int) -> None:
    """One row: whether the promise held."""
    verdict = await fleet.verdict(timeout_s=30)
    bound = f"copies <= {256 * crashes}" if crashes else "copies 0"
    print(
        f"{'  ' + what:52}  {verdict}; ids twice in a stream: {len(await fleet.stored_twice())}  ({bound})", flush=True
    )


async def cold(args: argparse.Namespace) -> None:
    """From the start of the process to the first run; the lease is free, the jobs are stored."""
    async with standing("a") as (fleet, _):
        first = []
        for _ in range(args.rounds):
            service = await fleet.leader()
            service.terminate()
            await service.ended()
            heard, begun = len(fleet.heard), now_ms()
            fleet.start("a")
            first.append((await fleet.next_arrival(heard)).at_ms - begun)
            await fleet.passed(fleet.clock.now_ms())
        report("cold start to first run, free lease", first, "<= 1000")
        await judged("all starts", fleet, 0)


async def lone(args: argparse.Namespace) -> None:
    """SIGKILL of the only instance, started again at once."""
    async with standing("a") as (fleet, _):
        holes = []
        for _ in range(args.rounds):
            service = await fleet.leader()
            await fleet.passed(fleet.clock.now_ms())
            heard, killed = len(fleet.heard), now_ms()
            service.kill()
            fleet.start("a")
            await fleet.next_arrival(heard + 1)
            await fleet.passed(fleet.clock.now_ms())
            holes.append(hole([a for a in await received(fleet) if a.at_ms > killed - 2_000], killed))
        report("SIGKILL of a lone instance, started again", holes, "<= 3000 (lease + 1 s)")
        await judged("all kills", fleet, args.rounds)


async def kills(args: argparse.Namespace) -> None:
    """SIGKILL of the leader; a standby takes over."""
    async with standing("a", "b") as (fleet, _):
        holes = await _ended(fleet, args.kills, clean=False)
        report("SIGKILL of the leader, 100 jobs every second", holes, "<= 2500 (lease + 0.5 s)")
        await judged("all kills", fleet, args.kills)


async def stop(args: argparse.Namespace) -> None:
    """SIGTERM of the leader; a standby takes over."""
    async with standing("a", "b") as (fleet, _):
        holes = await _ended(fleet, args.rounds, clean=True)
        report("clean stop of the leader", holes, "< 300")
        await judged("all stops", fleet, 0)


async def _ended(fleet: Fleet, rounds: int, *, clean: bool) -> list[float]:
    holes = []
    for _ in range(rounds):
        leader = await fleet.leader()
        await fleet.passed(fleet.clock.now_ms())
        # At any time between two renewals of the lease.
        await asyncio.sleep(random.random() * LEASE_S / 3)  # noqa: S311 - not a secret
        ended = now_ms()
        if clean:
            leader.terminate()
            if await leader.ended() != 0:
                raise RuntimeError(leader.log[-2000:])
        else:
            leader.kill()
        await fleet.passed(fleet.clock.now_ms())
        holes.append(hole([a for a in await received(fleet) if a.at_ms > ended - 2_000], ended))
        fleet.start(leader.name)
        await leader.says("started")
    return holes


async def restart(args: argparse.Namespace) -> None:
    """NATS killed, and started again after the outage."""
    async with standing("a", "b") as (fleet, nats):
        nats.kill()
        await asyncio.sleep(args.outage)
        heard = len(fleet.heard)
        nats.start()
        listening = now_ms()
        first = await fleet.next_arrival(heard)
        report(f"NATS away for {args.outage} s: from its return to the next run", [first.at_ms - listening])
        await judged("restart", fleet, 1)


async def suspend(args: argparse.Namespace) -> None:
    """The leader suspended by SIGSTOP, then resumed."""
    async with standing("a", "b") as (fleet, _):
        leader = await fleet.leader()
        suspended = now_ms()
        leader.suspend()
        await asyncio.sleep(args.suspend)
        leader.resume()
        await leader.says("leadership lost")
        await fleet.passed(fleet.clock.now_ms())
        holes = [hole([a for a in await received(fleet) if a.at_ms > suspended - 2_000], suspended)]
        report(f"leader suspended for {args.suspend} s", holes, "as a kill: <= 2500")
        await judged("suspension", fleet, 1)


async def cluster(args: argparse.Namespace) -> None:
    """Death of the node that leads the state stream, and start again."""
    with tempfile.TemporaryDirectory(prefix="natscron-bench-") as text, NatsCluster(Path(text) / "nodes") as nodes:
        async with Fleet(Path(text) / "fleet", nodes.url, replicas=3, settings=SETTINGS) as fleet:
            services = [fleet.start(name) for name in ("a", "b", "c")]
            await asyncio.gather(*(service.says("started") for service in services))
            await fleet.listen([node.url for node in nodes.servers])
            await fleet.create(hundred())
            await fleet.leader()
            holes = []
            for _ in range(args.nodes):
                await fleet.passed(fleet.clock.now_ms())
                info = await fleet.insist("STREAM.INFO.KV_nats-cron-state")
                node = nodes.named(str(info["cluster"]["leader"]))
                killed = now_ms()
                node.kill()
                await fleet.passed(fleet.clock.now_ms(), timeout_s=60)
                holes.append(hole([a for a in fleet.heard_anywhere() if a.at_ms > killed - 2_000], killed))
                node.start()
                await asyncio.sleep(5)
            report("death of the node that leads the state (R3)", holes, "server's own 4-9 s, then at once")
            await judged("all deaths", fleet, 2 * args.nodes)


PARTS: Final[dict[str, Callable[[argparse.Namespace], Coroutine[Any, Any, None]]]] = {
    "cold": cold,
    "lone": lone,
    "kills": kills,
    "stop": stop,
    "restart": restart,
    "suspend": suspend,
    "cluster": cluster,
}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20, help="kills of the leader in a row")
    parser.add_argument("--rounds", type=int, default=7, help="starts, kills of a lone instance, clean stops")
    parser.add_argument("--outage", type=float, default=20, help="seconds that NATS is away")
    parser.add_argument("--suspend", type=float, default=10, help="seconds that the leader is suspended")
    parser.add_argument("--nodes", type=int, default=3, help="deaths of a node")
    parser.add_argument("--only", choices=PARTS, action="append", help="this part; may be given several times")
    args = parser.parse_args()
    logging.disable(logging.ERROR)  # this process's own connections are lost along with the services'
    for name in args.only or PARTS:
        asyncio.run(PARTS[name](args))


if __name__ == "__main__":
    main()
