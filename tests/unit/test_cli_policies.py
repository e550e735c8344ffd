"""Commands about when jobs run and rest, against a service that is played: pause, skip, trigger, backfill, show."""

import json
from typing import Any

import pytest
from tests.support.cli import NOW, Play, Service, player, refusal

from natscron.cli import backfill as module
from natscron.cli.output import rfc3339, schedule_text

HOUR = 3_600_000
HELD = {
    "count": 31,
    "first": "2027-01-01T09:00:00Z",
    "last": "2027-01-31T09:00:00Z",
    "estimate": "3s",
}
STARTED = {"id": "B1", **HELD, "status": "started"}
GOING = {
    "id": "B1",
    "job": "a",
    "from": "2027-01-01T00:00:00Z",
    "to": "2027-01-31T00:00:00Z",
    "count": 31,
    "done": 4,
    "every": "100ms",
    "estimate": "2.7s",
}
DONE = {"run": {"status": "completed", "reason": "backfill_done", "result": "31 of 31 slots"}}
CANCELLED = {"run": {"status": "skipped", "reason": "backfill_cancelled", "result": "4 of 31 slots", "error": "gone"}}
START = ("backfill", "start", "a", "--from", "2027-01-01T00:00:00Z")


@pytest.fixture
def play(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Play:
    monkeypatch.setattr(module, "_LOOK_S", 0.001)
    return player(capsys, monkeypatch)


# Pausing, skipping, triggering.


@pytest.mark.parametrize(
    ("text", "until"),
    [("2h", rfc3339(NOW + 2 * HOUR)), ("in 2h", rfc3339(NOW + 2 * HOUR)), ("2027-02-01T00:00:00+01:00", None)],
)
def test_a_pause_may_end_by_itself(play: Play, text: str, until: str | None) -> None:
    service = Service({"jobs.pause": {"status": "paused"}})
    assert play(service, "pause", "a", "--until", text, "--note", "n").code == 0
    wanted = until or "2027-01-31T23:00:00.000Z"
    assert service.asked[0][1] == {"subject": "a", "note": "n", "until": wanted}


@pytest.mark.parametrize("text", ["soon", "0s", "-5m", "2020-01-01T00:00:00Z"])
def test_the_end_of_a_pause_lies_in_the_future(play: Play, text: str) -> None:
    service = Service({})
    ended = play(service, "pause", "a", "--until", text)
    assert (ended.code, service.asked) == (2, [])
    assert "--until" in ended.err


def test_skip_names_what_is_left_out(play: Play) -> None:
    slots = [rfc3339(NOW + n * HOUR) for n in (1, 2)]
    service = Service({"jobs.skip": {"count": 22, "skipped": slots, "next_run": rfc3339(NOW + 23 * HOUR)}})
    ended = play(service, "skip", "a", "22")
    assert service.asked[0][1] == {"subject": "a", "count": 22}
    assert ended.out == (
        "Job 'a' skips 22 run(s):\n"
        "  - in 1h (2027-01-15 09:00:00 UTC)\n"
        "  - in 2h (2027-01-15 10:00:00 UTC)\n"
        "  and 20 more\n"
        "Next run: in 23h (2027-01-16 07:00:00 UTC)\n"
    )


def test_a_skip_is_one_unless_said_and_none_takes_it_back(play: Play) -> None:
    service = Service({"jobs.skip": {"count": 0, "skipped": [], "next_run": None, "status": "active"}})
    play(service, "skip", "a")
    assert service.asked[0][1] == {"subject": "a", "count": 1}
    assert play(service, "skip", "a", "0").out == "Job 'a' skips no run\nNext run: none\n"
    assert json.loads(play(service, "skip", "a", "0", "--json").out)["subject"] == "a"
    assert play(service, "skip", "a", "--", "-1").code == 2
    assert play(Service({"jobs.skip": refusal("no further slot", "422")}), "skip", "a").code == 1


def test_a_trigger_has_its_own_policy(play: Play) -> None:
    service = Service({"jobs.trigger": {"run_id": "01K"}})
    play(service, "trigger", "a", "--overlap", "skip", "--key", "k")
    assert service.asked[0][1] == {"subject": "a", "key": "k", "overlap": "skip"}
    assert play(service, "trigger", "a", "--overlap", "odd").code == 2


# Backfills.


@pytest.mark.parametrize(("answer", "started"), [("y\n", True), ("n\n", False), ("", False)])
def test_a_backfill_counts_and_asks_first(play: Play, answer: str, *, started: bool) -> None:
    service = Service({"jobs.backfill": [HELD, STARTED]})
    ended = play(service, *START, "--rate", "30/m", stdin=answer)
    assert ended.code == 0
    assert ended.out.startswith(
        "Job 'a' has 31 slot(s) from 2027-01-01 09:00:00 UTC to 2027-01-31 09:00:00 UTC; at 30/m that takes 3s\n"
        "Run these 31 slot(s) now? (y/N): "
    )
    assert ("Backfill B1 of job 'a' started: 31 slot(s)" in ended.out) is started
    asked = [body for endpoint, body in service.asked if endpoint == "jobs.backfill"]
    body = {"subject": "a", "from": "2027-01-01T00:00:00.000Z", "rate": "30/m"}
    assert asked == ([body | {"dry_run": True}, body] if started else [body | {"dry_run": True}])


def test_a_backfill_of_nothing_does_not_ask(play: Play) -> None:
    ended = play(Service({"jobs.backfill": HELD | {"count": 0}}), *START)
    assert (ended.code, ended.out) == (1, "Job 'a' has no slot in this range\n")
    ended = play(Service({"jobs.backfill": HELD | {"count": 0, "warning": "counts from"}}), *START, "--dry-run")
    assert (ended.code, "counts from" in ended.err) == (0, True)


def test_yes_does_not_ask_and_everything_is_handed_on(play: Play) -> None:
    service = Service({"jobs.backfill": STARTED})
    more = ("--to", "1h", "--overlap", "skip", "--key", "k", "--yes", "--json")
    assert json.loads(play(service, "backfill", "start", "a", "--from", "24h", *more).out) == {
        "subject": "a",
        **STARTED,
    }
    assert [one for one in service.asked if one[0] == "jobs.backfill"] == [
        (
            "jobs.backfill",
            {
                "subject": "a",
                "from": rfc3339(NOW - 24 * HOUR),
                "to": rfc3339(NOW - HOUR),
                "rate": "10/s",
                "overlap": "skip",
                "key": "k",
            },
        )
    ]


def test_a_dry_run_starts_nothing(play: Play) -> None:
    service = Service({"jobs.backfill": HELD})
    assert json.loads(play(service, *START, "--dry-run", "--json").out) == {"subject": "a", **HELD}
    assert play(service, *START, "--dry-run").out.startswith("Job 'a' has 31 slot(s)")
    assert [body["dry_run"] for endpoint, body in service.asked if endpoint == "jobs.backfill"] == [True, True]


@pytest.mark.parametrize(
    "args",
    [
        ("backfill",),
        ("backfill", "start", "a"),
        ("backfill", "nosuch"),
        (*START, "--json"),
        (*START, "--overlap", "odd"),
        ("backfill", "start", "a", "--from", "soon"),
        ("backfill", "cancel"),
    ],
)
def test_wrong_usage_ends_with_two(play: Play, args: tuple[str, ...]) -> None:
    service = Service({})
    try:
        code = play(service, *args).code
    except SystemExit as end:  # a bare group shows help and leaves
        code = int(end.code or 0)
    assert (code, service.asked) == (2, [])


@pytest.mark.parametrize(("end", "code", "said"), [(DONE, 0, "31 of 31"), (CANCELLED, 1, "4 of 31 slots (gone)")])
def test_a_backfill_is_watched_to_its_end(play: Play, end: dict[str, Any], code: int, said: str) -> None:
    service = Service(
        {
            "jobs.backfill": STARTED,
            "backfills.list": [
                {"backfills": [GOING]},
                {"backfills": [GOING]},
                {"backfills": [GOING | {"done": 30}]},
                {"backfills": []},
            ],
            "runs.get": [refusal("no run"), end],
        }
    )
    ended = play(service, *START, "--yes", "--watch")
    assert ended.code == code
    assert ended.out.count("4 of 31 slot(s)") == 1
    assert "30 of 31 slot(s)" in ended.out
    assert said in ended.out


def test_watching_as_json_is_one_document_at_the_end(play: Play) -> None:
    replies = {"jobs.backfill": STARTED, "backfills.list": {"backfills": []}, "runs.get": DONE}
    ended = play(Service(replies), *START, "--yes", "--watch", "--json")
    assert json.loads(ended.out)["end"] == DONE["run"]


def test_an_end_without_a_record_is_not_waited_for_for_ever(play: Play) -> None:
    replies = {"jobs.backfill": STARTED, "backfills.list": {"backfills": []}, "runs.get": refusal("no run")}
    ended = play(Service(replies), *START, "--yes", "--watch")
    assert (ended.code, "no record" in ended.err) == (0, True)


def test_backfills_are_listed_and_cancelled(play: Play) -> None:
    service = Service(
        {"backfills.list": {"backfills": [GOING]}, "backfills.cancel": {"id": "B1", "status": "cancelled"}}
    )
    ended = play(service, "backfill", "list", "a")
    assert service.asked[0] == ("backfills.list", {"job": "a"})
    assert "4 of 31" in ended.out
    assert json.loads(play(service, "backfill", "list", "--json").out) == [GOING]
    assert play(Service({"backfills.list": {"backfills": []}}), "backfill", "list").out == "No backfill is going on\n"
    assert play(service, "backfill", "cancel", "B1").out == "Backfill B1 cancelled\n"
    assert play(Service({"backfills.cancel": refusal("no backfill")}), "backfill", "cancel", "B1").code == 1


def test_a_type_of_payload_needs_a_payload(play: Play) -> None:
    ended = play(Service({}), "trigger", "a", "--payload-type", "text")
    assert (ended.code, "--payload-type goes with --data" in ended.err) == (2, True)


# Showing.


JOB = {
    "subject": "reports.daily",
    "schedule": {"cron": "0 9 * * *", "tz": "Europe/Berlin", "jitter": "5m", "except": [{"calendar": "holidays"}]},
    "state": "paused",
    "paused": True,
    "paused_until": rfc3339(NOW + HOUR),
    "skip": {"from": rfc3339(NOW), "until": rfc3339(NOW + 2 * HOUR)},
    "next_run": rfc3339(NOW + 24 * HOUR),
    "last_run": None,
    "delivery_effective": "jetstream",
    "overlap": "skip",
    "reports": True,
    "priority": 5,
    "pause_after_failures": 3,
    "retry": {"attempts": 3, "only": ["timeout", "5*"]},
    "catchup": "all",
    "labels": {"team": "billing"},
    "note": "why",
    "revision": 12,
}
PREVIEW = {
    "description": "at 09:00 every day, Europe/Berlin",
    "slots": [{"at": rfc3339(NOW + 48 * HOUR), "due": rfc3339(NOW + 49 * HOUR)}, {"at": rfc3339(NOW + 72 * HOUR)}],
}


def test_show_says_in_words_what_a_job_does(play: Play) -> None:
    ended = play(Service({"jobs.get": JOB, "jobs.preview": PREVIEW}), "show", "reports.daily")
    shown = dict(line.split(": ", 1) for line in ended.out.splitlines())
    shown = {key: value.strip() for key, value in shown.items()}
    assert shown["In words"] == "at 09:00 every day, Europe/Berlin"
    assert shown["Schedule"] == "0 9 * * * [Europe/Berlin] (except calendar holidays; jitter 5m)"
    assert shown["State"].startswith("paused, goes on in 1h")
    assert "skipped up to the slot in 2h" in shown["State"]
    assert shown["Delivery"] == "auto (jetstream now)"
    assert shown["Retry"] == "attempts 3, only timeout or 5*"
    assert shown["Pauses"] == "after 3 failed runs in a row"
    assert (shown["Catch-up"], shown["Labels"], shown["Priority"]) == ("all", "team billing", "5")


def test_show_goes_on_behind_the_next_run(play: Play) -> None:
    service = Service({"jobs.get": JOB, "jobs.preview": PREVIEW})
    lines = play(service, "show", "reports.daily").out.splitlines()
    assert service.asked[1][1] == {"subject": "reports.daily", "after": JOB["next_run"], "count": 2}
    assert [line.split()[:3] for line in lines if line.startswith("then")] == [
        ["then:", "in", "2d"],
        ["then:", "in", "3d"],
    ]
    resting = Service({"jobs.get": JOB | {"next_run": None}, "jobs.preview": PREVIEW})
    assert "then:" not in play(resting, "show", "reports.daily").out


def test_show_works_for_what_has_no_preview(play: Play) -> None:
    service = Service({"jobs.get": {"subject": "a", "state": "invalid", "invalid": "no such zone"}})
    ended = play(service, "show", "a")
    assert (ended.code, "Invalid:" in ended.out) == (0, True)
    assert json.loads(play(service, "show", "a", "--json").out)["description"] is None


@pytest.mark.parametrize(
    ("schedule", "text"),
    [
        ({"rrule": "FREQ=DAILY", "tz": "Europe/Paris"}, "FREQ=DAILY [Europe/Paris]"),
        ({"any": [{"every": "7h"}, {"cron": "0 9 * * *"}], "max_runs": 3}, "every 7h or 0 9 * * * (runs 3)"),
        (
            {"solar": {"event": "sunset", "latitude": 52.5, "longitude": 13.4, "offset": "-30m"}},
            "sunset-30m at 52.5,13.4",
        ),
        ({"solar": {"event": "dawn", "latitude": 1, "longitude": 2, "offset": "1h"}}, "dawn+1h at 1,2"),
        ({"kind": "myapp.lunar", "config": "full"}, '{"kind":"myapp.lunar","config":"full"}'),
        (
            {"every": "5m", "not_before": "2027-01-01T00:00:00Z", "except": [{"cron": "* * * * SUN"}]},
            "every 5m (except * * * * SUN; from 2027-01-01T00:00:00Z)",
        ),
    ],
)
def test_every_schedule_has_a_short_text(schedule: dict[str, Any], text: str) -> None:
    assert schedule_text(schedule) == text


# Flags of add, update and next.


def test_the_new_keys_have_flags(play: Play) -> None:
    service = Service({"jobs.create": {"status": "created"}})
    flags = (
        *("--not-before", "in 2h", "--not-after", "2028-01-01T00:00:00Z", "--max-runs", "5", "--jitter", "30s"),
        *("--except-calendar", "holidays", "--except", "* * * * SUN", "--priority", "-3", "--reports"),
        *("--pause-after-failures", "4", "--retry-only", "timeout", "--retry-only", "5*", "--retry-never", "E7"),
        *("--paused-until", "in 2h", "--overlap", "buffer_one"),
    )
    assert play(service, "add", "a", "1h", *flags).code == 0
    assert service.asked[0][1] == {
        "subject": "a",
        "schedule": {
            "every": "1h",
            "not_before": "in 2h",
            "not_after": "2028-01-01T00:00:00Z",
            "max_runs": 5,
            "jitter": "30s",
            "except": [{"calendar": "holidays"}, {"cron": "* * * * SUN"}],
        },
        "priority": -3,
        "reports": True,
        "pause_after_failures": 4,
        "retry": {"only": ["timeout", "5*"], "never": ["E7"]},
        "paused_until": "in 2h",
        "overlap": "buffer_one",
    }


def test_a_new_number_of_runs_counts_from_now(play: Play) -> None:
    there = {"every": "1h", "max_runs": 5, "last_slot": "2027-01-15T09:00:00Z"}
    service = Service({"jobs.get": {"schedule": there, "revision": 3}, "jobs.update": {"status": "updated"}})
    play(service, "update", "a", "--max-runs", "7")
    assert service.asked[1][1]["schedule"] == {"every": "1h", "max_runs": 7}
    play(service, "update", "a", "--jitter", "7s")
    assert [body for endpoint, body in service.asked if endpoint == "jobs.update"][1]["schedule"] == there | {
        "jitter": "7s"
    }


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"any": [{"cron": "0 9 * * *"}, {"every": "7h"}]}', "09:00"),
        ('{"every": "1h", "except": [{"cron": "* 12 * * *"}]}', "every 1h"),
        ('{"cron": "0 * * * *", "max_runs": 2}', "No further runs"),
    ],
)
def test_next_takes_every_kind_of_schedule(play: Play, text: str, said: str) -> None:
    service = Service({})
    ended = play(service, "next", text, *(("--after", "2027-06-01T00:00:00Z") if "max_runs" in text else ()))
    assert (ended.code, service.asked) == (0, [])
    assert said in ended.out


def test_next_asks_the_service_about_a_calendar(play: Play) -> None:
    service = Service({"jobs.preview": {"slots": [], "description": "d"}})
    schedule = {"every": "1h", "except": [{"calendar": "holidays"}]}
    assert play(service, "next", json.dumps(schedule), "-n", "2").code == 0
    assert service.asked[0] == ("jobs.preview", {"schedule": schedule, "count": 2, "after": rfc3339(NOW)})


def test_next_names_what_is_wrong_in_a_schedule(play: Play) -> None:
    ended = play(Service({}), "next", '{"odd": "x"}')
    assert (ended.code, "odd" in ended.err) == (1, True)


def test_help_reaches_the_commands_of_a_group(play: Play) -> None:
    for args in (("help", "backfill", "start"), ("backfill", "start", "--help"), ("help", "calendar", "put")):
        ended = play(Service({}), *args)
        assert ended.code == 0
        assert "Examples:" in ended.out
    assert play(Service({}), "help", "backfill", "nosuch").code == 2
    assert play(Service({}), "help", "add", "more").code == 2
