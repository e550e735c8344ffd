"""Two processes under one instance id."""

import pytest
from tests.faults.stories import assert_kept, every_second

from natscron.testing.fleet import Fleet

pytestmark = pytest.mark.anyio


async def test_two_processes_with_one_instance_id_are_two_candidates(fleet: Fleet) -> None:
    first = fleet.start("same", key="first")
    await first.says("leading")
    second = fleet.start("same", key="second")
    await second.says("another process uses this instance id")
    await first.says("another process uses this instance id")
    await fleet.create(every_second(20))
    await fleet.passed(fleet.clock.now_ms())
    assert not second.said("leading")
    assert "same" in str((await fleet.status())["warnings"])
    first.kill()
    await second.says("leading")
    verdict = await assert_kept(fleet, crashes=1)
    assert verdict.skipped == []
