"""Backfills at the API: what is counted, what is refused, what the leader is asked for."""

from typing import TYPE_CHECKING, Any

import pytest

from natscron.clock import SystemClock
from natscron.codec import ms_to_text
from natscron.model import Overlap

if TYPE_CHECKING:
    from tests.unit.conftest import World

pytestmark = pytest.mark.anyio

CREATED = 1_700_000_000_000
HOURLY = b'{"subject":"a","schedule":{"cron":"0 * * * *"}}'
DAY = {"from": "2024-01-01T00:00:00Z", "to": "2024-01-01T23:00:00Z"}


def ask(**more: Any) -> dict[str, Any]:  # noqa: ANN401 - any JSON value
    return {"subject": "a", **DAY, **more}


async def test_a_dry_run_only_counts(world: "World") -> None:
    world.store.write("a", HOURLY)
    assert await world.body("jobs.backfill", ask(dry_run=True, rate="1/s")) == {
        "count": 24,
        "first": "2024-01-01T00:00:00.000Z",
        "last": "2024-01-01T23:00:00.000Z",
        "estimate": "23s",
    }
    empty = {"from": "2024-01-01T00:10:00Z", "to": "2024-01-01T00:20:00Z"}
    assert (await world.body("jobs.backfill", {"subject": "a", **empty, "dry_run": True})) == {
        "count": 0,
        "first": None,
        "last": None,
        "estimate": "0s",
    }
    assert world.engine.going == []


async def test_a_backfill_is_asked_for_with_its_bounds_rate_and_key(world: "World") -> None:
    world.store.write("a", HOURLY)
    reply = await world.body("jobs.backfill", ask(rate="30/m", key="k"))
    assert (reply["id"], reply["count"], reply["status"]) == ("k", 24, "started")
    [row] = world.engine.going
    assert row.backfill is not None
    assert (ms_to_text(row.backfill.from_ms), row.backfill.every_ms) == ("2024-01-01T00:00:00.000Z", 2000)


async def test_a_key_that_is_in_use_for_another_range_is_told(world: "World") -> None:
    world.store.write("a", HOURLY)
    await world.body("jobs.backfill", ask(key="k"))
    assert "warning" not in await world.body("jobs.backfill", ask(key="k"))
    other = await world.body("jobs.backfill", ask(key="k", to="2024-01-01T12:00:00Z"))
    assert (other["id"], other["status"]) == ("k", "present")
    assert "to 2024-01-01T23:00:00.000Z" in other["warning"]


async def test_the_range_ends_now_unless_it_is_said(world: "World") -> None:
    world.store.write("a", HOURLY)
    now = SystemClock().now_ms()
    body = {"subject": "a", "from": ms_to_text(now - 2 * 3_600_000)}
    assert (await world.body("jobs.backfill", {**body, "dry_run": True}))["count"] == 2
    await world.body("jobs.backfill", body)
    assert world.engine.going[0].backfill is not None
    assert 0 <= world.engine.going[0].backfill.to_ms - now < 60_000


@pytest.mark.parametrize(
    ("rate", "every_ms"),
    [("10/s", 100), ("1000/s", 1), ("0.1/s", 10_000), ("6/m", 10_000), ("360/h", 10_000), ("300/s", 4), ("1.5/s", 667)],
)
async def test_a_rate_is_never_faster_than_asked(world: "World", rate: str, every_ms: int) -> None:
    world.store.write("a", HOURLY)
    await world.body("jobs.backfill", ask(rate=rate))
    assert world.engine.going[0].backfill is not None
    assert world.engine.going[0].backfill.every_ms == every_ms


@pytest.mark.parametrize("rate", ["", "10", "0/s", "0.09/s", "1001/s", "5/m", "10/d", "-1/s", "x/s", "1e3/s", "nan/s"])
async def test_a_bad_rate_is_refused(world: "World", rate: str) -> None:
    world.store.write("a", HOURLY)
    code, _, text = await world.error("jobs.backfill", ask(rate=rate))
    assert (code, "rate" in text) == (422, True)


@pytest.mark.parametrize(
    ("wrong", "code", "said"),
    [
        ({"subject": "none"}, 404, "no job"),
        ({"from": ""}, 422, "from is required"),
        ({"from": "yesterday"}, 422, "from: "),
        ({"to": "2199-01-01T00:00:00Z"}, 422, "future"),
        ({"from": "2024-02-01T00:00:00Z"}, 422, "later than to"),
        ({"from": "2024-01-01T00:10:00Z", "to": "2024-01-01T00:20:00Z"}, 422, "no slot"),
        ({"overlap": "odd"}, 422, "overlap"),
        ({"overlap": "skip"}, 422, "nobody tells when a run ends"),
        ({"dry_run": "yes"}, 422, "dry_run"),
    ],
)
async def test_a_backfill_that_cannot_be_is_refused(
    world: "World", wrong: dict[str, Any], code: int, said: str
) -> None:
    world.streams.replace([])
    world.store.write("a", HOURLY)
    got, _, text = await world.error("jobs.backfill", ask(**wrong))
    assert (got, said in text) == (code, True)
    assert world.engine.going == []


@pytest.mark.parametrize(
    "schedule", [b'{"cron":"* * * * * *"}', b'{"every":"1s"}', b'{"every":"1s","start_at":"2023-01-01T00:00:00Z"}']
)
async def test_a_huge_range_is_refused_before_it_begins(world: "World", schedule: bytes) -> None:
    world.store.write("a", b'{"subject":"a","schedule":%s}' % schedule)
    code, _, text = await world.error("jobs.backfill", ask(to="2024-01-10T00:00:00Z", dry_run=True))
    assert (code, "100000" in text) == (413, True)


async def test_without_a_policy_it_is_the_jobs_where_runs_are_seen_to_end(world: "World") -> None:
    world.store.write("a", b'{"subject":"a","schedule":{"cron":"0 * * * *"},"delivery":"request","overlap":"skip"}')
    world.store.write("b", b'{"subject":"b","schedule":{"cron":"0 * * * *"},"delivery":"core"}')
    await world.body("jobs.backfill", ask())
    await world.body("jobs.backfill", ask(subject="b"))
    await world.body("jobs.backfill", ask(overlap="buffer_all"))
    assert [row.overlap for row in world.engine.going] == [None, Overlap.ALLOW, Overlap.BUFFER_ALL]


async def test_backfills_are_listed_and_cancelled(world: "World") -> None:
    world.store.write("a", HOURLY)
    assert await world.body("backfills.list") == {"backfills": []}
    await world.body("jobs.backfill", ask(key="one"))
    [shown] = (await world.body("backfills.list", {"job": "a"}))["backfills"]
    assert (shown["id"], shown["job"], shown["count"], shown["done"], shown["last"]) == ("one", "a", 7, 0, None)
    assert (shown["every"], shown["estimate"]) == ("100ms", "600ms")
    assert await world.body("backfills.list", {"job": "b"}) == {"backfills": []}
    assert await world.body("backfills.cancel", {"id": "one"}) == {"id": "one", "status": "cancelled"}
    for wrong in ({"id": "one"}, {}):
        code, description, _ = await world.error("backfills.cancel", wrong)
        assert (code, description) == (404, "Backfill not found")


async def test_a_job_that_cannot_be_honoured_is_not_backfilled(world: "World") -> None:
    world.store.write("a", b'{"subject":"a","schedule":{"cron":"99 * * * *"}}')
    assert "cannot be honoured" in (await world.error("jobs.backfill", ask()))[2]


async def test_a_range_before_an_intervals_first_slot_says_what_it_counts_from(world: "World") -> None:
    world.store.write("a", b'{"subject":"a","schedule":{"every":"1h"}}')
    before = {"subject": "a", "from": "2023-11-01T00:00:00Z", "to": "2023-11-02T00:00:00Z"}
    _, _, text = await world.error("jobs.backfill", before)
    assert "counts from the job's creation, 2023-11-14T22:13:20" in text
    assert "start_at" in text
    partly = before | {"to": "2023-11-15T12:00:00Z", "dry_run": True}
    assert "start_at" in (await world.body("jobs.backfill", partly))["warning"]
    world.store.write("b", HOURLY.replace(b'"a"', b'"b"'))
    assert "warning" not in await world.body("jobs.backfill", partly | {"subject": "b"})


async def test_a_range_that_begins_in_the_future_is_not_called_the_wrong_way_round(world: "World") -> None:
    world.store.write("a", HOURLY)
    _, _, text = await world.error("jobs.backfill", {"subject": "a", "from": "2199-01-01T00:00:00Z"})
    assert "from lies in the future" in text
