"""Several schedulers on one store, and faults drawn by hypothesis; after each story the promise must hold.

Each slot ran or has a reason, none under two ids; no try was executed twice; overlap policies hold but where a worker
had lost its lease; attempts are counted; nothing is left in the queue, and no task after a stop.
"""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.simulation.company import Company, Member

from natscron import NatscronError, Overlap, Scheduler, every
from natscron.testing.virtual import VirtualLoop

WHAT = [
    "kill",
    "kill leader",
    "stop",
    "stop leader",
    "start",
    "suspend",
    "suspend leader",
    "freeze",
    "cut leader",
    "deafen",
    "down",
    "lose claims",
    "lose endings",
    "refuse endings",
    "lose beats",
    "mend",
    "trigger",
    "redrive",
    "pause",
    "resume",
    "remove",
    "reschedule",
    "overlap",
]
EDITED = ("one", "allow")
"""Jobs that are edited; of the others everything must hold all the time."""


class Step(msgspec.Struct, frozen=True):
    """One thing that happens, ``after_s`` after the one before."""

    after_s: float
    what: str
    n: int


STEPS = st.builds(
    Step,
    after_s=st.sampled_from([0.0, 0.003, 0.05, 0.4, 1.0, 1.7, 3.0]),
    what=st.sampled_from(WHAT),
    n=st.integers(0, 8),
)


async def act(company: Company, step: Step) -> None:  # noqa: C901 - one branch per thing that can happen
    """One step of a story."""
    member = company.members[step.n % len(company.members)]
    if step.what.endswith(" leader"):
        if company.leader is None:
            return
        member = company.leader
    seconds = (0.3, 1.2, 4.5)[step.n // 3]
    match step.what.removesuffix(" leader"):
        case "kill" if member.storage is not None:
            company.tell(f"kill {member.host}")
            member.kill()
        case "stop" if member.scheduler is not None:
            company.tell(f"stop {member.host}")
            await member.stop((0.0, 0.2, 2.0)[step.n % 3])
        case "start" if member.scheduler is None and company.cluster.up:
            company.tell(f"start {member.name}")
            await member.start()
        case "suspend" | "freeze" if member.storage is not None:
            await suspend(company, member, seconds, frozen=step.what == "freeze")
        case "cut" if member.storage is not None:
            company.tell(f"cut {member.host}")
            member.storage.cut(company.rng)
        case "deafen" if member.storage is not None:
            company.tell(f"deafen {member.host}")
            member.deafen()
        case "down":
            company.tell(f"down for {seconds} s")
            company.silenced("", seconds)
            company.cluster.up = False
            await asyncio.sleep(seconds)
            company.cluster.up = True
        case "trigger" | "redrive":
            await trying(company, step, ask)
        case "pause" | "resume" | "remove" | "reschedule" | "overlap":
            await trying(company, step, edit)
        case _:
            spoil(company, member, step)


async def suspend(company: Company, member: Member, seconds: float, *, frozen: bool) -> None:
    """Stop a process for a while; ``frozen``: as a host whose monotonic clock stands still while it sleeps."""
    host = member.host
    company.tell(f"suspend {host} for {seconds} s{', frozen' if frozen else ''}")
    company.silenced(host, seconds)
    company.loop.suspend(host)
    await asyncio.sleep(seconds)
    if frozen:
        member.clock.frozen_s += seconds
    company.loop.resume(host)


def spoil(company: Company, member: Member, step: Step) -> None:
    """Calls about the queue fail, or their answers get lost, until it is mended."""
    if member.storage is None:
        return
    company.tell(f"{step.what} of {member.host}")
    match step.what:
        case "lose claims":
            member.storage.lose["claim"] = 0.5
        case "lose endings":
            member.storage.lose["finish"] = 0.5
        case "refuse endings":
            member.storage.refuse["finish"] = 0.7
        case "lose beats":
            company.deaf_since.setdefault(member.host, company.now_ms())
            member.storage.lose["beat"] = member.storage.refuse["beat"] = 0.4
        case "mend":
            company.mended(member.host)
            member.storage.lose.clear()
            member.storage.refuse.clear()


async def trying(
    company: Company, step: Step, call: Callable[[Company, Scheduler, Step], Coroutine[Any, Any, None]]
) -> None:
    """Call a member that runs, for at most two seconds."""
    member = company.anybody(step.n)
    if member is None or member.scheduler is None or not company.cluster.up:
        return
    company.tell(f"{step.what} by {member.host}")
    try:
        async with asyncio.timeout(2):
            await call(company, member.scheduler, step)
    except (NatscronError, TimeoutError):
        return  # it cannot reach the store, or somebody else was faster


async def ask(company: Company, scheduler: Scheduler, step: Step) -> None:
    """A trigger, or another try of what failed for good."""
    jobs = list(company.plans)
    if step.what == "trigger":
        await scheduler.trigger(jobs[step.n % len(jobs)])
        return
    dead = [run.run_id for kept in company.cluster.runs.values() for run in kept if run.status in {"failed", "dead"}]
    if dead and dead[-1]:
        company.redriven.add(dead[-1])
        await scheduler.redrive(dead[-1])


async def edit(company: Company, scheduler: Scheduler, step: Step) -> None:
    """Change a job."""
    job_id = EDITED[step.n % len(EDITED)]
    company.edited.add(job_id)
    match step.what:
        case "pause":
            await scheduler.pause(job_id)
        case "resume":
            await scheduler.resume(job_id)
        case "remove":
            await scheduler.remove_job(job_id, wait=step.n > 4)
            await company.add(job_id)
        case "reschedule":
            await scheduler.update_job_schedule(job_id, every(f"{400 + 100 * step.n}ms"))
        case _:
            await scheduler.update_job(job_id, overlap=list(Overlap)[step.n % len(Overlap)])


def play(seed: int, steps: list[Step]) -> Company:
    """A story from beginning to end, and the checks."""
    kept: list[Company] = []

    async def main() -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)
        before = asyncio.all_tasks()
        company = Company(loop, seed)
        kept.append(company)
        await company.open()
        for step in steps:
            await asyncio.sleep(step.after_s)
            await act(company, step)
        await company.close()
        await company.bury()
        company.check()
        left = asyncio.all_tasks() - before
        assert not left, f"tasks are left: {left}"

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(main())
    return kept[0]


def test_without_faults_every_slot_runs_as_its_policy_says() -> None:
    company = play(7, [])
    assert {span.how for span in company.spans} >= {"completed", "failed", "cancelled"}
    assert len(company.spans) > 100
    assert {span.job for span in company.spans} == set(company.plans)
    assert len({span.host for span in company.spans}) == len(company.members)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**32), steps=st.lists(STEPS, max_size=12))
def test_no_story_of_faults_loses_a_slot_or_executes_a_try_twice(seed: int, steps: list[Step]) -> None:
    play(seed, steps)
