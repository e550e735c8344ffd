"""Jobs whose workers report: edited, paused, removed and triggered while leaders die or stop. Drawn stories."""

import asyncio
import itertools
from collections.abc import Sequence

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.simulation.test_policies import Workshop, begin, kill_leader, play, reporting, until

from natscron.model import Delivery, Overlap, Reason, RunStatus

ONE_AT_A_TIME = (Overlap.SKIP, Overlap.BUFFER_ONE, Overlap.BUFFER_ALL)
STEPS = st.lists(
    st.tuples(
        st.floats(0.05, 3.0),
        st.one_of(
            st.just(("kill", None)),
            st.just(("stop", None)),
            st.just(("trigger", None)),
            st.just(("remove", None)),
            st.tuples(st.just("overlap"), st.sampled_from(ONE_AT_A_TIME)),
            st.tuples(st.just("delivery"), st.sampled_from([Delivery.CORE, Delivery.JETSTREAM])),
            st.tuples(st.just("timeout_ms"), st.sampled_from([20_000, 60_000])),
            st.tuples(st.just("paused"), st.booleans()),
        ),
    ),
    max_size=7,
)
ANYTHING = st.lists(
    st.tuples(
        st.floats(0.05, 3.0),
        st.one_of(
            st.just(("kill", None)),
            st.just(("stop", None)),
            st.just(("trigger", None)),
            st.tuples(st.just("overlap"), st.sampled_from(list(Overlap))),
            st.tuples(st.just("reports"), st.booleans()),
        ),
    ),
    max_size=7,
)


async def stop_leader(world: Workshop) -> None:
    await until(lambda: world.leader is not None)
    leader = world.leader
    assert leader is not None
    await leader.stop()
    await leader.start()


async def live(world: Workshop, steps: Sequence[tuple[float, tuple[str, object]]]) -> list[int]:
    """Play the steps; when somebody was killed."""
    killed = []
    for pause, (what, value) in steps:
        await asyncio.sleep(pause)
        if what == "kill":
            killed.append(world.clock.now_ms())
            await kill_leader(world)
        elif what == "stop":
            await stop_leader(world)
        elif what == "trigger":
            engine = next(i.engine for i in world.instances if i.engine is not None)
            await engine.trigger("a")
        elif what == "remove":
            await world.delete("a")
            await world.create(reporting(overlap=Overlap.SKIP))
        else:
            await world.edit("a", **{what: value})
    return killed


async def all_is_told(world: Workshop, killed: list[int]) -> None:
    """Nothing stays open, and the history says of every run that was worked on how it ended."""
    await world.edit("a", paused=True)
    await world.rest()
    await asyncio.sleep(20)
    assert not [row for row, _ in world.cluster.rows.values()], "open rows left behind"
    last = {run.run_id: run for run in await world.records() if run.run_id}
    for run_id, at_ms in world.reported.items():
        if any(at_ms - 1_000 <= kill_ms <= at_ms + 1_000 for kill_ms in killed):
            continue  # a killed process takes with it the records that it had not written yet
        run = last[run_id]
        assert run.status is RunStatus.COMPLETED or run.reason == Reason.REPLACED, f"{run} at {at_ms}"


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    steps=STEPS, works_s=st.sampled_from([0.2, 0.9, 2.5]), delivery=st.sampled_from([Delivery.CORE, Delivery.JETSTREAM])
)
def test_whatever_is_done_to_a_job_its_runs_go_one_at_a_time_and_their_ends_are_told(
    steps: Sequence[tuple[float, tuple[str, object]]], works_s: float, delivery: Delivery
) -> None:
    async def story(world: Workshop) -> None:
        world.works_s = works_s
        await begin(world, reporting(overlap=Overlap.BUFFER_ALL, delivery=delivery))
        killed = await live(world, steps)
        await asyncio.sleep(6)
        await all_is_told(world, killed)
        if any(what == "remove" for _, (what, _) in steps):
            return  # what a removed job's runs do is nobody's business any more
        spans = sorted((begun, ended, run_id) for run_id, some in world.spans.items() for begun, ended in some)
        for (_, ended, one), (begun, _, other) in itertools.pairwise(spans):
            assert begun >= ended or one == other, f"{one} and {other} at once"

    play(story)


@settings(max_examples=15, deadline=None, derandomize=True)
@given(steps=ANYTHING, works_s=st.sampled_from([0.2, 1.7]))
def test_whatever_becomes_of_its_policy_nothing_stays_open_and_every_end_is_told(
    steps: Sequence[tuple[float, tuple[str, object]]], works_s: float
) -> None:
    async def story(world: Workshop) -> None:
        world.works_s = works_s
        await begin(world, reporting(overlap=Overlap.BUFFER_ONE))
        killed = await live(world, steps)
        await asyncio.sleep(6)
        await all_is_told(world, killed)

    play(story)
