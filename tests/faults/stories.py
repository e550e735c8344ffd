"""What the stories share: their jobs, and what has to hold at their end."""

from typing import Any

from natscron.testing.audit import Verdict
from natscron.testing.fleet import Fleet

CHUNK_RUNS = 256
"""What one write may hold, and so what one crash may send a second time."""


def every_second(count: int, *, delivery: str = "core") -> list[dict[str, Any]]:
    """Half of them all at the full second, half spread over it."""
    schedules = ({"cron": "* * * * * *"}, {"every": "1s"})
    prefix = {"core": "core", "jetstream": "js"}[delivery]
    return [
        {"subject": f"{prefix}.j{n}", "schedule": schedules[n % 2], "delivery": delivery, "timeout": "30s"}
        if delivery == "jetstream"
        else {"subject": f"{prefix}.j{n}", "schedule": schedules[n % 2], "delivery": delivery}
        for n in range(count)
    ]


async def assert_kept(fleet: Fleet, *, crashes: int = 0) -> Verdict:
    """Nothing lost, nothing invented, no slot under two ids; repeats at most one write for each crash."""
    verdict = await fleet.verdict()
    assert verdict.owed > 0
    assert verdict.broken() == "", "\n".join([str(verdict), *(s.log[-4000:] for s in fleet.services.values())])
    assert verdict.copies <= crashes * CHUNK_RUNS
    assert await fleet.stored_twice() == []
    return verdict
