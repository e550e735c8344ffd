"""The commands that read, against a service that is played: what they ask, show, and how they end."""

import json
from typing import Any

import pytest
from tests.support.cli import LISTED, Play, Service, player


@pytest.fixture
def play(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Play:
    return player(capsys, monkeypatch)


def test_next_of_a_schedule_needs_no_service_and_marks_clock_changes(play: Play) -> None:
    service = Service({})
    ended = play(
        service, "next", "30 2 * * *", "--tz", "Europe/Berlin", "-n", "2", "--after", "2027-03-27T02:00:00Z", "--json"
    )
    assert service.asked == []
    assert json.loads(ended.out)["slots"] == [
        {"at": "2027-03-28T01:00:00Z", "local": "2027-03-28T03:00:00+02:00", "mark": "moved"},
        {"at": "2027-03-29T00:30:00Z", "local": "2027-03-29T02:30:00+02:00", "mark": ""},
    ]


def test_next_shows_days_local_time_and_how_far_away(play: Play) -> None:
    lines = play(Service({}), "next", "0 9 * * MON", "--tz", "Europe/Berlin", "-n", "1").out.splitlines()
    assert lines[-1] == "Mon 2027-01-18 09:00:00 +01:00  in 3d"


def test_next_warns_about_a_star_in_the_seconds_field(play: Play) -> None:
    ended = play(Service({}), "next", "* */15 * * * *", "-n", "1")
    assert ended.code == 0
    assert "runs every second of each matching minute" in ended.err


def test_next_of_a_wrong_expression_says_what_is_wrong(play: Play) -> None:
    ended = play(Service({}), "next", "61 * * * *")
    assert ended.code == 1
    assert "invalid cron expression '61 * * * *'" in ended.err


def test_next_of_a_job_asks_the_service(play: Play) -> None:
    service = Service(
        {"jobs.preview": {"slots": [{"at": "2027-01-15T09:00:00Z", "local": "2027-01-15T09:00:00+00:00"}]}}
    )
    assert "in 1h" in play(service, "next", "a.b", "-n", "1").out
    assert service.asked[0] == ("jobs.preview", {"subject": "a.b", "count": 1, "after": "2027-01-15T08:00:00.000Z"})


def test_next_of_a_job_shows_its_description_its_own_wall_time_and_its_marks(play: Play) -> None:
    slot = {"at": "2027-03-28T01:00:00.000Z", "local": "2027-03-28T03:00:00+02:00", "mark": "moved"}
    service = Service({"jobs.preview": {"slots": [slot], "description": "at 02:30 every day, Europe/Berlin"}})
    lines = play(service, "next", "a.b").out.splitlines()
    assert lines[0] == "at 02:30 every day, Europe/Berlin"
    assert lines[-1] == "Sun 2027-03-28 03:00:00 +02:00  in 71d 17h  moved by a clock change"


def test_next_of_a_job_of_the_go_version_is_worked_out_here(play: Play) -> None:
    service = Service({"jobs.get": {"subject": "a.b", "schedule": {"cron": "0 9 * * *", "every": ""}}})
    assert "2027-01-15 09:00:00 +00:00  in 1h" in play(service, "next", "a.b").out


RUN = {
    "run_id": "01K",
    "job": "a.b",
    "scheduled_at": "2027-01-15T07:00:00Z",
    "status": "failed",
    "reason": "timeout",
    "error": "no answer",
    "attempt": 2,
    "trigger": "schedule",
    "lateness_ms": 2,
    "duration_ms": 1500,
}


def test_runs_shows_records_and_reads_page_after_page(play: Play) -> None:
    gap = {"job": "c", "status": "skipped", "from": "2027-01-15T07:00:00Z", "to": "2027-01-15T07:30:00Z", "count": 31}
    service = Service({"runs.list": [{"runs": [RUN], "next": "1"}, {"runs": [gap]}]})
    lines = play(service, "runs", "--since", "2h", "--limit", "5").out.splitlines()
    assert " ".join(lines[1].split()) == (
        "2027-01-15 07:00:00 UTC a.b failed schedule (try 2) 2ms 1s 01K timeout: no answer"
    )
    assert "31 slots" in lines[2]
    assert service.asked[0] == ("runs.list", {"since": "2027-01-15T06:00:00.000Z", "limit": 5})
    assert service.asked[1] == ("runs.list", {"since": "2027-01-15T06:00:00.000Z", "limit": 4, "cursor": "1"})


def test_runs_without_records_says_so(play: Play) -> None:
    assert play(Service({"runs.list": {"runs": []}}), "runs").out == "No runs found\n"


def test_runs_follow_shows_the_past_then_each_new_run_once(play: Play) -> None:
    service = Service({"runs.list": {"runs": [RUN]}})
    new = RUN | {"run_id": "02K"}
    service.live = [json.dumps(one).encode() for one in (RUN, new, new | {"job": "other"})] + [b"junk"]
    ended = play(service, "runs", "a.b", "--follow", "--json")
    assert [json.loads(line)["run_id"] for line in ended.out.splitlines()] == ["01K", "02K"]


def test_watch_shows_the_runs_that_match(play: Play) -> None:
    service = Service({"status": {}})
    service.live = [json.dumps(RUN).encode(), json.dumps(RUN | {"job": "x"}).encode(), b'{"event": "leader"}']
    lines = play(service, "watch", "a.*").out.splitlines()
    assert lines == [
        "2027-01-15 07:00:00 UTC  a.b  failed  schedule (try 2)  late 2ms  took 1s  01K  timeout: no answer"
    ]


def test_watch_of_one_job_asks_for_no_other_jobs_runs(play: Play) -> None:
    for job, subject in (("a.b", "a.b"), ("a.*", ">"), ("ü", "=b32.yo6a")):
        service = Service({"status": {}})
        assert play(service, "watch", job).code == 0
        assert service.asked[0] == (f"nats-cron.log.{subject}", None)


def test_watch_without_a_service_says_so_instead_of_waiting(play: Play) -> None:
    assert play(Service({}), "watch").code == 1


def test_an_interrupt_ends_with_130_and_no_traceback(play: Play) -> None:
    ended = play(Service({"status": KeyboardInterrupt()}), "watch")
    assert (ended.code, ended.out) == (130, "")
    assert "Traceback" not in ended.err


STATUS = {
    "service": "nats-cron",
    "is_leader": True,
    "jobs": 3,
    "leader": "h1",
    "epoch": 7,
    "mark": "2027-01-15T07:59:59.500Z",
    "instances": ["h1", "h2"],
    "uptime_s": 3_700,
    "lateness_ms": {"p50": 0.25, "p99": 3},
    "version": "9",
    "blocked": None,
    "warnings": ["clock is off"],
}


def test_status_begins_with_the_lines_of_the_go_version(play: Play) -> None:
    lines = play(Service({"status": STATUS}), "status").out.splitlines()
    assert lines[:3] == ["Service: nats-cron", "Is Leader: true", "Active Jobs: 3"]
    assert lines[3:] == [
        "Leader: h1 (epoch 7)",
        "Mark: 500ms ago (2027-01-15 07:59:59.500 UTC)",
        "Instances: 2",
        "  h1",
        "  h2",
        "Lateness: p50 0.25ms, p99 3ms",
        "Uptime: 1h 1m",
        "Version: 9",
        "Warning: clock is off",
    ]


def test_status_of_the_go_version_is_its_three_lines(play: Play) -> None:
    ended = play(Service({"status": {"is_leader": False, "jobs": 0, "service": "nats-cron"}}), "status")
    assert ended.out == "Service: nats-cron\nIs Leader: false\nActive Jobs: 0\n"


@pytest.mark.parametrize(
    ("replies", "told"),
    [
        ({"status": STATUS | {"leader": None}}, "there is no leader"),
        ({"status": STATUS | {"mark": None}}, "has no mark yet"),
        ({"status": STATUS | {"mark": "2027-01-15T07:59:30Z"}}, "its mark is 30s old; allowed are 30s"),
        ({"status": {"is_leader": True, "jobs": 1, "service": "nats-cron"}}, "probably the Go version"),
        ({}, "no nats-cron instance answers"),
    ],
)
def test_health_is_an_error_with_its_cause_unless_all_is_well(play: Play, replies: dict[str, Any], told: str) -> None:
    ended = play(Service(replies), "health")
    assert ended.code == 1
    assert told in ended.err


def test_health_is_zero_with_a_leader_and_a_young_mark(play: Play) -> None:
    ended = play(Service({"status": STATUS}), "health", "--max-lag", "1s", "--json")
    assert ended.code == 0
    assert json.loads(ended.out) == {
        "healthy": True,
        "leader": "h1",
        "mark": "2027-01-15T07:59:59.500Z",
        "lag_ms": 500,
        "reason": None,
    }


def test_version_and_completion_need_no_service(play: Play) -> None:
    service = Service({})
    assert play(service, "version").out.startswith("nats-cron ")
    assert set(json.loads(play(service, "version", "--json").out)) == {"version", "python"}
    for shell in ("bash", "zsh", "fish"):
        assert "_NATS_CRON_COMPLETE" in play(service, "completion", shell).out
    assert service.asked == []


def test_subjects_are_completed_and_a_missing_service_is_silent(
    play: Play, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("_NATS_CRON_COMPLETE", "bash_complete")
    monkeypatch.setenv("COMP_WORDS", "nats-cron get t.")
    monkeypatch.setenv("COMP_CWORD", "2")
    for service, offered in ((Service({"jobs.list": LISTED}), "plain,t.a\nplain,t.b\n"), (Service({}), "\n")):
        with pytest.raises(SystemExit):
            play(service)
        assert capsys.readouterr() == (offered, "")


def test_a_wrong_variable_is_told_by_name(play: Play, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOG_LEVEL", "loud")
    ended = play(Service({}), "list")
    assert ended.code == 1
    assert "LOG_LEVEL" in ended.err


def test_a_range_of_one_slot_or_none_is_told_as_such(play: Play) -> None:
    one = {"job": "c", "status": "skipped", "from": "2027-01-15T07:00:00Z", "to": "2027-01-15T07:00:00Z"}
    service = Service({"runs.list": {"runs": [one | {"count": 1}, one | {"count": 0}]}})
    lines = play(service, "runs").out.splitlines()
    assert [" to " in line for line in lines[1:]] == [False, False]
    assert "1 slot " in lines[1]
    assert "slot" not in lines[2]


def test_next_says_how_much_later_jitter_makes_a_run(play: Play) -> None:
    slot = {"at": "2027-01-15T09:00:00Z", "local": "2027-01-15T09:00:00+00:00", "due": "2027-01-15T09:04:00Z"}
    assert "4m later by jitter" in play(Service({"jobs.preview": {"slots": [slot]}}), "next", "a.b").out
    given = '{"cron": "0 9 * * *", "jitter": "5m"}'
    assert "later by jitter" in play(Service({}), "next", given).out
