"""Calendars at the API: stored, shown, referred to, changed and deleted."""

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from natscron.errors import CalendarInUseError, CalendarNotFoundError, InvalidCalendarError
from natscron.server.calendars import MAX_CALENDARS

if TYPE_CHECKING:
    from tests.unit.conftest import World

pytestmark = pytest.mark.anyio

HOLIDAYS: dict[str, Any] = {"name": "holidays", "dates": ["12-25", "2027-01-01"], "tz": "Europe/Berlin"}
ROW = b'{"calendar":{"dates":["12-25"]},"natscron":{"reader":2}}'


def job(subject: str = "a.b", calendar: str = "holidays") -> dict[str, Any]:
    return {"subject": subject, "schedule": {"cron": "0 9 * * *", "except": [{"calendar": calendar}]}}


async def test_a_calendar_is_stored_shown_changed_and_deleted(world: "World") -> None:
    created = await world.body("calendars.put", HOLIDAYS)
    assert created == {"jobs": 0, "name": "holidays", "revision": "1", "status": "created"}
    shown = await world.body("calendars.get", {"name": "holidays"})
    assert shown == {**HOLIDAYS, "revision": 1, "updated_at": "2023-11-14T22:13:20.001Z", "jobs": 0}
    again = await world.body("calendars.put", shown)
    assert (again["status"], again["revision"]) == ("updated", "2")
    listed = await world.body("calendars.list")
    assert ([one["name"] for one in listed["calendars"]], listed["total"]) == (["holidays"], 1)
    assert await world.body("calendars.delete", {"name": "holidays"}) == {"name": "holidays", "status": "deleted"}
    assert await world.body("calendars.list") == {"calendars": [], "total": 0}


async def test_a_job_may_only_name_calendars_that_are_there(world: "World") -> None:
    code, _, text = await world.error("jobs.create", job())
    assert code == 422
    assert "there is no calendar 'holidays'; there is none yet" in text
    await world.body("calendars.put", HOLIDAYS)
    await world.body("calendars.put", {**HOLIDAYS, "name": "closing"})
    await world.body("jobs.create", job())
    code, _, text = await world.error("jobs.update", job(calendar="odd"))
    assert code == 422
    assert "there is no calendar 'odd'; known are closing, holidays" in text


async def test_a_calendar_of_a_moment_ago_is_known(world: "World") -> None:
    world.store.lag = True
    await world.body("calendars.put", HOLIDAYS)
    world.store.lag = False

    async def arrive() -> None:
        await asyncio.sleep(0.05)
        world.engine.table.put_calendar(world.store.calendars["holidays"])
        world.engine.table.complete(world.store.seq)

    arriving = asyncio.create_task(arrive())
    assert (await world.body("jobs.create", job()))["status"] == "created"
    await arriving


async def test_what_jobs_refer_to_is_not_deleted(world: "World") -> None:
    await world.body("calendars.put", HOLIDAYS)
    for number in range(12):
        await world.body("jobs.create", job(f"j.{number:02}"))
    code, description, text = await world.error("calendars.delete", {"name": "holidays"})
    assert (code, description) == (409, "Failed to delete calendar")
    assert "12 job(s) refer to it, 'j.00', 'j.01'" in text
    assert "'j.09' and 2 more" in text
    assert (await world.body("calendars.get", {"name": "holidays"}))["jobs"] == 12
    await world.body("jobs.delete.pattern", {"pattern": "j.>"})
    await world.body("calendars.delete", {"name": "holidays"})


@pytest.mark.parametrize(
    ("wrong", "code", "said"),
    [
        ({"name": ""}, 422, "name is required"),
        ({"name": "Has Blanks"}, 422, "invalid calendar name"),
        ({"name": "_x"}, 422, "invalid calendar name"),
        ({"dates": ["12-32"]}, 422, "12-32"),
        ({"dates": "12-25"}, 422, "dates must be a list"),
        ({"weekly": [{"days": "FUNDAY"}]}, 422, "FUNDAY"),
        ({"tz": "Mars/Olympus"}, 422, "Mars/Olympus"),
        ({"colour": "red"}, 422, "unknown calendar field 'colour'"),
        ({"dates": ["12-25"] * 1_001}, 413, "1000"),
        ({"expected_revision": "x"}, 422, "expected_revision"),
    ],
)
async def test_a_calendar_that_cannot_be_is_refused(
    world: "World", wrong: dict[str, Any], code: int, said: str
) -> None:
    got, description, text = await world.error("calendars.put", {**HOLIDAYS, **wrong})
    assert (got, description) == (code, "Failed to put calendar")
    assert said in text
    assert not world.store.calendars


async def test_a_write_on_an_old_revision_is_refused(world: "World") -> None:
    await world.body("calendars.put", {**HOLIDAYS, "expected_revision": 0})
    assert (await world.error("calendars.put", {**HOLIDAYS, "expected_revision": 0}))[0] == 409
    await world.body("calendars.put", {**HOLIDAYS, "expected_revision": "1"})
    assert (await world.error("calendars.put", {**HOLIDAYS, "expected_revision": 1}))[0] == 409
    assert (await world.error("calendars.delete", {"name": "holidays", "expected_revision": 1}))[0] == 409
    await world.body("calendars.delete", {"name": "holidays", "expected_revision": 2})
    assert (await world.error("calendars.put", {**HOLIDAYS, "expected_revision": 2}))[0] == 409


async def test_writes_at_the_same_time_are_all_decided_on_what_is_there(world: "World") -> None:
    replies = await asyncio.gather(*(world.body("calendars.put", {**HOLIDAYS, "note": str(n)}) for n in range(4)))
    assert sorted(reply["status"] for reply in replies) == ["created", "updated", "updated", "updated"]


@pytest.mark.parametrize("subject", ["calendars.get", "calendars.delete"])
async def test_an_unknown_calendar_is_not_found(world: "World", subject: str) -> None:
    code, _, text = await world.error(subject, {"name": "none"})
    assert (code, "no calendar 'none'" in text) == (404, True)
    assert (await world.error(subject, {}))[0] == 422


async def test_a_row_that_cannot_be_read_is_shown_mended_and_deleted(world: "World") -> None:
    world.store.write_calendar("_cal.bad", b"not json")
    shown = await world.body("calendars.get", {"name": "bad"})
    assert "invalid" in shown
    assert "there is no calendar 'bad'" in (await world.error("jobs.create", job(calendar="bad")))[2]
    assert (await world.body("calendars.put", {**HOLIDAYS, "name": "bad"}))["status"] == "updated"
    await world.body("jobs.create", job(calendar="bad"))
    world.store.write_calendar("_cal.later", b'{"natscron":{"reader":99}}')
    assert "ask a newer one" in (await world.error("calendars.put", {**HOLIDAYS, "name": "later"}))[2]


async def test_many_calendars_come_in_pages(many: "World") -> None:
    for number in range(30):
        many.store.write_calendar(f"_cal.c{number:02}", b'{"calendar":{"note":"%s"}}' % (b"x" * 1000))
    found: list[str] = []
    query: dict[str, Any] = {}
    pages = 0
    while True:
        page = await many.body("calendars.list", query)
        found += [one["name"] for one in page["calendars"]]
        pages += 1
        assert page["total"] == 30
        if "next" not in page:
            break
        query = {"cursor": page["next"]}
    assert pages > 1
    assert found == [f"c{number:02}" for number in range(30)]
    assert [one["name"] for one in (await many.body("calendars.list", {"limit": 2}))["calendars"]] == ["c00", "c01"]
    assert len((await many.calls.calendars.page(b"", bounded=False))["calendars"]) == 30


async def test_a_calendar_larger_than_a_message_is_listed_without_its_content(many: "World") -> None:
    dates = b",".join(b'"%d-01-01"' % year for year in range(2000, 6000))
    many.store.write_calendar("_cal.big", b'{"calendar":{"dates":[%s]}}' % dates)
    [shown] = (await many.body("calendars.list"))["calendars"]
    assert (shown["name"], "dates" in shown) == ("big", False)


async def test_there_may_be_so_many_and_no_more(world: "World") -> None:
    for number in range(MAX_CALENDARS):
        world.store.write_calendar(f"_cal.c{number}", ROW)
    assert (await world.error("calendars.put", HOLIDAYS))[0] == 413
    await world.body("calendars.put", {**HOLIDAYS, "name": "c5"})


async def test_a_calendar_is_changed_only_while_its_jobs_stay_valid(world: "World") -> None:
    await world.body("calendars.put", HOLIDAYS)
    await world.body("jobs.create", job())
    code, _, text = await world.error("calendars.put", {**HOLIDAYS, "weekly": [{"start": "00:00", "end": "23:00"}]})
    assert code == 422
    assert "would make 1 job(s) invalid: 'a.b' (" in text
    assert world.store.calendars["holidays"].revision == 1


async def test_those_who_embed_get_typed_errors(world: "World") -> None:
    with pytest.raises(CalendarNotFoundError):
        await world.calls.calendars.get({"name": "x"})
    await world.calls.calendars.put(HOLIDAYS)
    await world.calls.jobs.create(job())
    with pytest.raises(CalendarInUseError):
        await world.calls.calendars.delete({"name": "holidays"})
    with pytest.raises(InvalidCalendarError):
        await world.calls.calendars.put({"name": "x", "dates": ["x"]})


@pytest.mark.parametrize("content", [{}, {"dates": [], "weekly": [], "ical": ""}])
async def test_a_calendar_that_covers_nothing_is_stored_with_a_warning(world: "World", content: dict[str, Any]) -> None:
    assert "covers nothing" in (await world.body("calendars.put", {"name": "empty", **content}))["warning"]
