"""The commands about calendars, against a service that is played."""

import json
from pathlib import Path

import pytest
from tests.support.cli import Play, Service, player, refusal

PUT = {"name": "h", "status": "created", "revision": "1", "jobs": 0}
SHOWN = {
    "name": "h",
    "dates": ["12-25"],
    "tz": "Europe/Berlin",
    "revision": 3,
    "updated_at": "2027-01-15T07:00:00Z",
    "jobs": 2,
}


@pytest.fixture
def play(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Play:
    return player(capsys, monkeypatch)


def test_a_calendar_is_made_of_flags(play: Play, tmp_path: Path) -> None:
    service = Service({"calendars.put": PUT | {"jobs": 4}})
    (tmp_path / "a.ics").write_text("BEGIN:VCALENDAR\nEND:VCALENDAR\n")
    ended = play(
        service,
        *("calendar", "put", "h", "--dates", "12-25, 12-26", "--dates", "2027-12-24/2028-01-01"),
        *("--weekly", "SAT,SUN", "--weekly", "MON-FRI 18:00-08:00", "--weekly", "12:00-13:00"),
        *("--ical", str(tmp_path / "a.ics"), "--tz", "Europe/Berlin", "--note", "n", "--expected-revision", "0"),
    )
    assert ended.out == "Calendar 'h' created\n  Jobs that refer to it: 4\n"
    assert service.asked[0] == (
        "calendars.put",
        {
            "name": "h",
            "dates": ["12-25", "12-26", "2027-12-24/2028-01-01"],
            "weekly": [
                {"days": "SAT,SUN"},
                {"days": "MON-FRI", "start": "18:00", "end": "08:00"},
                {"start": "12:00", "end": "13:00"},
            ],
            "ical": "BEGIN:VCALENDAR\nEND:VCALENDAR\n",
            "tz": "Europe/Berlin",
            "note": "n",
            "expected_revision": 0,
        },
    )


def test_what_get_showed_can_be_put_under_another_name(play: Play, tmp_path: Path) -> None:
    service = Service({"calendars.get": SHOWN, "calendars.put": PUT})
    file = tmp_path / "h.json"
    file.write_text(play(service, "calendar", "get", "h").out)
    assert (
        json.loads(play(service, "calendar", "put", "other", str(file), "--tz", "UTC", "--json").out)["status"]
        == "created"
    )
    assert service.asked[2][1] == {"name": "other", "dates": ["12-25"], "tz": "UTC"}
    play(service, "calendar", "put", "h", "-", stdin='{"dates": []}')
    assert service.asked[4][1] == {"name": "h", "dates": []}


@pytest.mark.parametrize(
    "args",
    [
        ("put",),
        ("put", "h"),
        ("put", "h", "--tz", "UTC"),
        ("put", "h", "f.json", "--dates", "12-25"),
        ("put", "h", "--weekly", "MON TUE"),
        ("put", "h", "--weekly", "18:00"),
        ("put", "h", "--weekly", ""),
        ("put", "h", "--weekly", "1:00-2:00 3:00-4:00"),
        ("get",),
        ("delete",),
        ("odd",),
    ],
)
def test_wrong_usage_ends_with_two(play: Play, args: tuple[str, ...]) -> None:
    service = Service({})
    assert (play(service, "calendar", *args).code, service.asked) == (2, [])


@pytest.mark.parametrize(("content", "said"), [(None, "reading"), ("BEGIN:VCALENDAR", "--ical"), ("[]", "JSON object")])
def test_a_file_that_is_no_calendar_is_told(play: Play, tmp_path: Path, content: str | None, said: str) -> None:
    file = tmp_path / "f"
    if content is not None:
        file.write_text(content)
    service = Service({})
    ended = play(service, "calendar", "put", "h", str(file))
    assert (ended.code, service.asked) == (1, [])
    assert said in ended.err


def test_calendars_are_listed_page_by_page(play: Play) -> None:
    more = {"name": "i", "weekly": [{}, {}], "ical": "x", "jobs": 0, "note": "n"}
    broken = {"name": "j", "invalid": "not JSON"}
    pages = [{"calendars": [SHOWN], "next": "h"}, {"calendars": [more, broken]}]
    service = Service({"calendars.list": pages})
    ended = play(service, "calendar", "list")
    assert [body for endpoint, body in service.asked if endpoint == "calendars.list"] == [None, {"cursor": "h"}]
    assert "1 date [Europe/Berlin]" in ended.out
    assert "2 weekly windows, iCalendar" in ended.out
    assert "invalid: not JSON" in ended.out
    assert json.loads(play(Service({"calendars.list": {"calendars": [SHOWN]}}), "calendar", "list", "--json").out) == [
        SHOWN
    ]
    assert play(Service({"calendars.list": {"calendars": []}}), "calendar", "list").out == "No calendars found\n"


def test_calendars_are_deleted_one_by_one(play: Play) -> None:
    service = Service(
        {"calendars.delete": [{"status": "deleted"}, refusal("2 job(s) refer to it", "409"), refusal("no")]}
    )
    ended = play(service, "calendar", "delete", "a", "b", "c", "--if-exists")
    assert ended.code == 1
    assert ended.out == "Calendar deleted: a\nNo such calendar: c\n"
    assert "2 job(s) refer to it" in ended.err
    gone = Service({"calendars.delete": refusal("no calendar")})
    assert play(gone, "calendar", "delete", "a").code == 1
    assert json.loads(play(gone, "calendar", "delete", "a", "--json").out)["code"] == "404"


def test_dates_may_not_be_empty(play: Play) -> None:
    service = Service({"calendars.put": {"status": "created"}})
    assert play(service, "calendar", "put", "closed", "--dates", " , ").code == 2
    assert service.asked == []
    assert play(service, "calendar", "put", "closed", "--date", "12-25").code == 0
    assert service.asked[0][1] == {"name": "closed", "dates": ["12-25"]}
