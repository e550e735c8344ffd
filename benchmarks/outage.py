"""A day without a leader: 10,000 every-second jobs wait for one, which must decide about all of it and keep its lease.

The stored mark is set back by a day while nothing runs; then a service starts. What counts is how long it takes from
taking the lease until its mark has passed the start, that it does so under one epoch, and how late a renewal came.

Run: ``python benchmarks/outage.py [--jobs 10000] [--hours 24]``. Wanted: under 2 s of planning, one epoch.
"""

import asyncio
import itertools
import time

import msgspec
import rig as bench

from natscron.clock import SystemClock
from natscron.model import CatchUp, CatchUpPolicy, Job, ScheduleSpec, Stamp
from natscron.storage.nats.options import NatsStorageOptions
from natscron.storage.nats.storage import NatsStorage
from natscron.wire.failures import Message

_HOUR_MS = 3_600_000


async def outage(jobs: int, hours: int, policy: CatchUpPolicy) -> None:
    """One policy."""
    async with bench.Rig() as rig:
        first = rig.serve("first")
        await rig.leading(first)
        first.end()
        storage = NatsStorage(rig.connection, NatsStorageOptions(), clock=SystemClock())
        await storage.initialize()
        long_ago = SystemClock().now_ms() - 2 * hours * _HOUR_MS
        begun = Job(
            id="",
            schedule=ScheduleSpec(cron="* * * * * *"),
            catchup=CatchUp(policy=policy),
            generation=1,
            created_at_ms=long_ago,
            anchor_ms=long_ago,
            counts_from=Stamp(long_ago, 1),
        )
        gate = asyncio.Semaphore(256)

        async def create(number: int) -> None:
            async with gate:
                await storage.put_job(msgspec.structs.replace(begun, id=f"nobody.{number}"))

        await asyncio.gather(*(create(number) for number in range(jobs)))
        link = await storage.open_link(lambda _reply: None)
        record = await link.read_lease()
        assert record is not None  # noqa: S101 - the first service made it
        back = record.lease.mark.instant_ms - hours * _HOUR_MS
        mark = msgspec.structs.replace(record.lease.mark, instant_ms=back, jobs_seq=await link.jobs_seq())
        await link.write_lease(msgspec.structs.replace(record.lease, mark=mark, takeover_ms=None), record.revision)
        await link.close()
        seen: list[tuple[float, int, int]] = []

        def leased(message: Message) -> None:
            if ".lease." in message.subject:
                lease = msgspec.json.decode(message.data)
                seen.append((time.time(), lease["epoch"], lease["instant"]))

        await rig.connection.subscribe("$KV.nats-cron-state.>", leased)
        await rig.connection.flush()
        began = time.time()
        service = rig.serve("second")
        deadline = began + 120
        while not _over(seen, began) and time.time() < deadline:  # noqa: ASYNC110 - filled by a callback
            await asyncio.sleep(0.01)
        took = seen[0][0]
        gaps = [later[0] - earlier[0] for earlier, later in itertools.pairwise(seen)]
        bench.report(f"{jobs} x {hours} h, {policy.value}: mark is past the start", f"{seen[-1][0] - took:.2f} s", "-")
        bench.report("  epochs", str(len({epoch for _, epoch, _ in seen})), "1")
        bench.report("  longest pause between renewals", f"{max(gaps):.2f} s", "< 1.5 s")
        bench.report("  processor time since its start", f"{service.cpu_s():.2f} s", "-")


def _over(seen: list[tuple[float, int, int]], began: float) -> bool:
    return bool(seen) and seen[-1][2] > began * 1000


if __name__ == "__main__":
    wanted = bench.options(__doc__ or "", jobs=10_000, hours=24)
    for one in CatchUpPolicy:
        asyncio.run(outage(wanted.jobs, wanted.hours, one))
