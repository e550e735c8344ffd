"""A service that starts where calendars are stored."""

import threading
from typing import Any

import pytest

from natscron.schedule import ical
from natscron.schedule.calendar import compile_calendar
from natscron.server import Server, ServerOptions
from natscron.testing.nats import NatsServer

pytestmark = pytest.mark.anyio

EVENT = "BEGIN:VEVENT\nUID:{0}\nDTSTART;VALUE=DATE:20300{0}01\nEND:VEVENT"


@pytest.fixture(scope="module")
def own_nats(tmp_path_factory: pytest.TempPathFactory) -> Any:  # noqa: ANN401 - a fixture's own type
    """A server for this file: the service has one set of names an account."""
    with NatsServer(tmp_path_factory.mktemp("calendars")) as server:
        yield server


async def test_a_start_compiles_stored_calendars_outside_of_the_event_loop(
    own_nats: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Server(ServerOptions(nats_url=own_nats.url)) as server:
        for number in (1, 2, 3):
            text = "\n".join(("BEGIN:VCALENDAR", EVENT.format(number), "END:VCALENDAR"))
            await server.put_calendar({"name": f"c{number}", "ical": text})
            schedule = {"cron": "0 9 * * *", "except": [{"calendar": f"c{number}"}]}
            await server.create_job({"subject": f"a.{number}", "schedule": schedule})
        await server.put_calendar({"name": "gone", "weekly": [{"days": "SUN"}]})
        await server.delete_calendar({"name": "gone"})
    compile_calendar.cache_clear()
    threads: list[threading.Thread] = []
    compile_ical = ical.compile_ical

    def noted(*args: Any) -> Any:  # noqa: ANN401 - handed on
        threads.append(threading.current_thread())
        return compile_ical(*args)

    monkeypatch.setattr(ical, "compile_ical", noted)
    async with Server(ServerOptions(nats_url=own_nats.url)) as server:
        assert [job["state"] for job in await server.list_jobs()] == ["active"] * 3
    assert len(threads) == 3
    assert threading.main_thread() not in threads
