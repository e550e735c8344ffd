"""``explain`` against a service that is played, and ``simulate``, which needs none."""

import json
from pathlib import Path
from typing import Any

import pytest
from tests.support.cli import Play, Service, player, refusal

ANSWER: dict[str, Any] = {
    "subject": "a.b",
    "state": "active",
    "description": "at 09:00 every day, Europe/Berlin",
    "zone": "Europe/Berlin",
    "now": "2027-01-15T08:00:00.000Z",
    "since": "2027-01-14T08:00:00.000Z",
    "until": "2027-01-15T08:00:00.000Z",
    "decided_until": "2027-01-15T07:59:59.500Z",
    "policies": [{"what": "policy", "reason": "catchup", "text": "the newest is made up for"}],
    "future": [
        {
            "what": "will_run",
            "at": "2027-03-28T01:00:00.000Z",
            "local": "2027-03-28T03:00:00+02:00",
            "mark": "moved",
            "text": "runs; moved by a clock change",
        }
    ],
    "past": [
        {
            "what": "not_run",
            "reason": "paused",
            "from": "2027-01-14T08:00:00.000Z",
            "to": "2027-01-14T09:00:00.000Z",
            "count": 2,
            "text": "2 slots not run: the job was paused",
        },
        {
            "what": "failed",
            "reason": "no_responders",
            "at": "2027-01-15T08:00:00.000Z",
            "due": "2027-01-15T08:00:02.000Z",
            "run": {"status": "failed"},
            "text": "failed: nobody was subscribed to the subject",
            "earlier": True,
        },
    ],
}


@pytest.fixture
def play(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Play:
    return player(capsys, monkeypatch)


# explain


def test_explain_asks_for_a_day_and_five_slots_and_shows_both_clocks(play: Play) -> None:
    service = Service({"jobs.explain": ANSWER})
    ended = play(service, "explain", "a.b")
    assert ended.code == 0
    assert service.asked[0] == ("jobs.explain", {"subject": "a.b", "next": 5})
    lines = [" ".join(line.split()) for line in ended.out.splitlines()]
    assert lines[0] == "a.b: at 09:00 every day, Europe/Berlin (active)"
    assert "EUROPE/BERLIN UTC WHAT WHY" in lines
    assert (
        "2027-01-14 09:00:00 CET to 2027-01-14 10:00:00 CET 2027-01-14 08:00:00 UTC to 2027-01-14 09:00:00 UTC "
        "skipped 2 slots not run: the job was paused"
    ) in lines
    assert (
        "2027-01-15 09:00:00 CET 2027-01-15 08:00:00 UTC failed failed: nobody was subscribed to the subject; "
        "was due 2s later (jitter); of an earlier schedule"
    ) in lines
    assert "2027-03-28 03:00:00 CEST 2027-03-28 01:00:00 UTC runs runs; moved by a clock change" in lines
    assert lines[-1] == "catchup: the newest is made up for"


def test_explain_takes_durations_and_instants(play: Play) -> None:
    service = Service({"jobs.explain": ANSWER})
    play(service, "explain", "a.b", "--since", "2h", "--until", "2027-01-15T07:30:00Z", "--next", "0")
    assert service.asked[0][1] == {
        "subject": "a.b",
        "next": 0,
        "since": "2027-01-15T06:00:00.000Z",
        "until": "2027-01-15T07:30:00.000Z",
    }


def test_explain_as_json_is_what_the_service_said(play: Play) -> None:
    assert json.loads(play(Service({"jobs.explain": ANSWER}), "explain", "a.b", "--json").out) == ANSWER


def test_many_lines_that_say_the_same_are_shown_as_three(play: Play) -> None:
    past = [{"what": "ran", "at": f"2027-01-15T07:{n:02}:00.000Z", "text": "completed"} for n in range(40)]
    out = play(Service({"jobs.explain": {**ANSWER, "zone": "UTC", "past": past}}), "explain", "a.b").out
    assert "38 more like these" in out
    assert out.count("completed") == 2


def test_explain_without_anything_in_the_window_and_without_a_leader_says_so(play: Play) -> None:
    empty = {**ANSWER, "past": [], "future": [], "decided_until": None, "warnings": ["only the newest were read"]}
    ended = play(Service({"jobs.explain": empty}), "explain", "a.b")
    assert "no slots, and no runs" in ended.out
    assert "nothing is decided yet" in ended.out
    assert "only the newest were read" in ended.err


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("--since", "yesterday"), "neither a duration"),
        (("--until", "2027-01-15"), "neither a duration"),
        (("--since", "1h", "--until", "2h"), "must lie before --until"),
        (("--next", "101"), "101 is not in the range"),
        (("--next", "-1"), "-1 is not in the range"),
    ],
)
def test_wrong_usage_of_explain_ends_with_2_and_asks_nobody(play: Play, args: tuple[str, ...], words: str) -> None:
    service = Service({"jobs.explain": ANSWER})
    ended = play(service, "explain", "a.b", *args)
    assert (ended.code, service.asked) == (2, [])
    assert words in ended.err


def test_an_unknown_job_ends_with_1(play: Play) -> None:
    ended = play(Service({"jobs.explain": refusal("there is no job 'a.b'")}), "explain", "a.b")
    assert (ended.code, ended.err) == (1, "Error: there is no job 'a.b'\n")


# simulate

FROM = ("--from", "2027-06-15T00:00:00Z")


def simulate(play: Play, jobs: object, *args: str) -> Any:  # noqa: ANN401 - what ended
    text = jobs if isinstance(jobs, str) else json.dumps(jobs)
    return play(Service({}), "simulate", "-", *FROM, *args, stdin=text)


def test_simulate_shows_what_would_run_and_how_much(play: Play) -> None:
    ended = simulate(play, {"subject": "a.b", "schedule": {"every": "30m"}}, "--to", "1h")
    assert ended.code == 0
    assert ended.out.splitlines() == [
        "2027-06-15 00:30:00 UTC  run      a.b",
        "2027-06-15 01:00:00 UTC  run      a.b",
        "1 job(s), 2027-06-15 00:00:00 UTC to 2027-06-15 01:00:00 UTC: 2 run",
    ]


def test_simulate_as_json_is_one_event_a_line(play: Play) -> None:
    ended = simulate(play, {"subject": "a.b", "schedule": {"every": "30m"}}, "--to", "2027-06-15T00:30:00Z", "--json")
    assert [json.loads(line) for line in ended.out.splitlines()] == [
        {
            "at": "2027-06-15T00:30:00.000Z",
            "slot": "2027-06-15T00:30:00.000Z",
            "due": "2027-06-15T00:30:00.000Z",
            "job": "a.b",
            "decision": "run",
            "trigger": "schedule",
        }
    ]


def test_simulate_assumes_outages_and_durations(play: Play) -> None:
    job = {"subject": "a.b", "schedule": {"every": "10m"}, "overlap": "skip", "delivery": "request"}
    ended = simulate(play, job, "--to", "1h", "--duration", "a.b=15m", "--outage", "2027-06-15T00:05:00Z/26m", "--json")
    events = [json.loads(line) for line in ended.out.splitlines()]
    assert [(one["at"][11:16], one["decision"], one.get("reason"), one.get("trigger")) for one in events] == [
        ("00:31", "skip", "catchup_latest", None),
        ("00:31", "run", None, "catchup"),
        ("00:40", "skip", "overlap_skip", "schedule"),
        ("00:50", "run", None, "schedule"),
        ("01:00", "skip", "overlap_skip", "schedule"),
    ]
    assert events[0]["count"] == 2


def test_wrong_jobs_are_named_with_their_place_and_the_others_go_on(play: Play) -> None:
    jobs = [
        {"subject": "a", "schedule": {"every": "1h"}},
        {"subject": "b", "schedule": {"cron": "61 * * * *"}},
        {"subject": "c"},
        7,
        {"subject": "a", "schedule": {"every": "2h"}},
        {"subject": "d", "schedule": {"every": "1h", "except": [{"calendar": "nowhere"}]}},
    ]
    ended = simulate(play, jobs, "--to", "1h")
    assert ended.code == 1
    assert "1 job(s)" in ended.out
    assert [line.split(":")[1].strip() for line in ended.err.splitlines()] == [
        f"standard input, job {number}" for number in (2, 3, 4, 5, 6)
    ]
    for words in ("invalid cron expression", "no schedule", "a job is a JSON object", "twice", "nowhere"):
        assert words in ended.err


def test_lines_that_are_no_json_are_named_and_the_others_go_on(play: Play) -> None:
    ended = simulate(play, '{"subject": "a", "schedule": {"every": "1h"}}\n\n{"subject"\n', "--to", "1h")
    assert ended.code == 1
    assert "standard input, line 3: not JSON" in ended.err


@pytest.mark.parametrize("text", ["", "[]", "{nothing", '{"jobs": []}'])
def test_a_file_without_any_job_is_an_error(play: Play, text: str) -> None:
    assert simulate(play, text, "--to", "1h").code == 1


def test_a_file_that_is_not_there_is_an_error(play: Play) -> None:
    ended = play(Service({}), "simulate", "/nowhere/jobs.json", *FROM, "--to", "1h")
    assert (ended.code, ended.err) == (
        1,
        "Error: reading job file: /nowhere/jobs.json: No such file or directory\n",
    )


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("--to", "soon"), "not a duration"),
        (("--to", "2027-06-14T00:00:00Z"), "must lie after"),
        (("--to", "1h", "--duration", "long"), "not a duration"),
        (("--to", "1h", "--outage", "2027-06-15T00:00:00Z"), "is not FROM/TO"),
        (("--to", "1h", "--outage", "now/1h"), "is not an instant"),
        (("--to", "1h", "--calendar", "x"), "is not NAME=FILE"),
        (("--to", "1h", "--limit", "0"), "is not in the range"),
    ],
)
def test_wrong_usage_of_simulate_ends_with_2(play: Play, args: tuple[str, ...], words: str) -> None:
    ended = simulate(play, {"subject": "a.b", "schedule": {"every": "30m"}}, *args)
    assert ended.code == 2
    assert words in ended.err


def test_without_bounds_the_next_day_is_simulated(play: Play) -> None:
    ended = play(Service({}), "simulate", "-", stdin='{"subject": "a.b", "schedule": {"cron": "0 9 * * *"}}')
    assert ended.out.splitlines() == [
        "2027-01-15 09:00:00 UTC  run      a.b",
        "1 job(s), 2027-01-15 08:00:00 UTC to 2027-01-16 08:00:00 UTC: 1 run",
    ]


def test_a_calendar_that_is_missing_is_to_be_given(play: Play) -> None:
    job = {"subject": "a.b", "schedule": {"cron": "0 9 * * *", "except": [{"calendar": "closed"}]}}
    ended = simulate(play, job, "--to", "1h")
    assert ended.code == 1
    assert "there is no calendar 'closed'; give it with --calendar NAME=FILE" in ended.err
    assert "store" not in ended.err


@pytest.mark.parametrize("flag", ["--since", "--until"])
def test_a_negative_duration_is_not_taken_for_the_past(play: Play, flag: str) -> None:
    ended = play(Service({}), "explain", "a", f"{flag}=-1h")
    assert ended.code == 2
    assert "24h means 24h ago" in ended.err


def test_more_events_than_the_limit_are_cut_with_a_warning(play: Play) -> None:
    ended = simulate(play, {"subject": "a.b", "schedule": {"every": "1m"}}, "--to", "1h", "--limit", "3")
    assert len(ended.out.splitlines()) == 4
    assert "only 3 events are shown" in ended.err


def test_a_duration_for_a_job_that_is_not_there_is_a_warning(play: Play) -> None:
    ended = simulate(play, {"subject": "a.b", "schedule": {"every": "1h"}}, "--to", "1h", "--duration", "a.c=5m")
    assert "not in the file: a.c" in ended.err


def test_what_is_doubtful_in_a_job_is_a_warning(play: Play) -> None:
    ended = simulate(
        play, {"subject": "a.b", "schedule": {"every": "1h", "dst_gap": "skip"}, "colour": 1}, "--to", "1h"
    )
    assert ended.code == 0
    assert "colour" in ended.err
    assert "dst_gap" in ended.err


def test_what_list_wrote_keeps_its_phase(play: Play) -> None:
    job = {"subject": "a.b", "schedule": {"every": "1h"}, "created_at": "2027-06-14T00:20:00.000Z", "revision": 7}
    assert simulate(play, [job], "--to", "1h").out.startswith("2027-06-15 00:20:00 UTC  run      a.b\n")


def test_calendars_take_slots_away(play: Play, tmp_path: Path) -> None:
    (tmp_path / "holidays.json").write_text('{"dates": ["2027-06-16"]}')
    (tmp_path / "broken.json").write_text('{"dates": ["2027-06-99"]}')
    job = {"subject": "a.b", "schedule": {"cron": "0 9 * * *", "except": [{"calendar": "holidays"}]}}
    ended = simulate(play, job, "--to", "72h", "--calendar", f"holidays={tmp_path / 'holidays.json'}")
    assert [line[:10] for line in ended.out.splitlines()[:-1]] == ["2027-06-15", "2027-06-17"]
    broken = simulate(play, job, "--to", "72h", "--calendar", f"holidays={tmp_path / 'broken.json'}")
    assert broken.code == 1
    assert "2027-06-99" in broken.err


@pytest.mark.parametrize("command", ["explain", "simulate"])
def test_help_teaches_with_an_example(play: Play, command: str) -> None:
    assert f"nats-cron {command} " in play(Service({}), command, "--help").out
