"""The commands that write, against a service that is played: what they ask, show, and how they end."""

import json
from pathlib import Path

import pytest
from tests.support.cli import FOUND, LISTED, Ended, Play, Service, player, refusal

from natscron.cli.client import Reply
from natscron.cli.main import cli


@pytest.fixture
def play(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Play:
    return player(capsys, monkeypatch)


CREATED = {"revision": "1", "status": "created"}


@pytest.mark.parametrize("name", sorted(cli.commands))
def test_every_command_has_help_with_examples_and_needs_no_service(play: Play, name: str) -> None:
    ended = play(Service({}), name, "--help")
    assert ended.code == 0
    assert f"nats-cron {name}" in ended.out
    assert "Examples:" in ended.out
    assert "\b" not in ended.out
    for parameter in cli.commands[name].params:
        if parameter.param_type_name == "option":
            assert max(parameter.opts, key=len) in ended.out


@pytest.mark.parametrize("args", [("help",), ("-h",), ("--help",), ("help", "add"), ("add", "-h")])
def test_help_needs_no_service(play: Play, args: tuple[str, ...]) -> None:
    service = Service({})
    ended = play(service, *args)
    assert (ended.code, service.asked) == (0, [])
    assert "Usage" in ended.out


def test_add_speaks_as_the_go_version_does(play: Play) -> None:
    service = Service({"jobs.create": CREATED})
    ended = play(service, "add", "a.b", "30s")
    assert ended == Ended(0, "Job 'a.b' created successfully\n  Schedule: 30s\n", "")
    assert service.asked == [("jobs.create", {"subject": "a.b", "schedule": {"every": "30s"}}), ("closed", None)]


def test_add_takes_data_as_the_older_go_version_does(play: Play) -> None:
    service = Service({"jobs.create": CREATED})
    ended = play(service, "add", "a.b", "0 9 * * *", '{"x": 1}', "--tz", "Europe/Berlin", "--label", "k=v")
    assert ended.out == "Job 'a.b' created successfully\n  Schedule: 0 9 * * *\n  Data: {\"x\": 1}\n"
    assert service.asked[0][1] == {
        "subject": "a.b",
        "schedule": {"cron": "0 9 * * *", "tz": "Europe/Berlin"},
        "payload": {"type": "json", "data": '{"x": 1}'},
        "labels": {"k": "v"},
    }


def test_the_timeout_after_add_is_the_jobs(play: Play) -> None:
    service = Service({"jobs.create": CREATED})
    assert play(service, "--timeout", "9s", "add", "a.b", "30s", "--timeout", "2m").code == 0
    assert service.asked[0][1]["timeout"] == "2m"


def test_global_options_stand_before_or_after_the_command(play: Play) -> None:
    job = {"subject": "a", "schedule": {"every": "1s"}}
    before = play(Service({"jobs.list": {"jobs": [job]}}), "--json", "list")
    after = play(Service({"jobs.list": {"jobs": [job]}}), "list", "--json")
    assert before == after
    assert json.loads(after.out) == [job]


@pytest.mark.parametrize(
    ("reply", "told"),
    [
        (refusal("job with subject a already exists", "409"), "Error: job with subject a already exists\n"),
        ({"error": "invalid schedule: schedule must specify"}, "Error: invalid schedule: schedule must specify\n"),
        (
            Reply(b"nats: invalid key", {"Nats-Service-Error": "Failed to create job"}),
            "Error: Failed to create job: nats: invalid key\n",
        ),
        (Reply(b"garbage", {}), "Error: the reply to nats-cron.jobs.create is not JSON"),
    ],
)
def test_a_refusal_is_told_on_stderr_and_ends_with_one(play: Play, reply: object, told: str) -> None:
    ended = play(Service({"jobs.create": reply}), "add", "a", "1s")
    assert (ended.code, ended.out) == (1, "")
    assert ended.err.startswith(told)


def test_an_error_with_json_is_json_with_its_code(play: Play) -> None:
    ended = play(Service({"jobs.get": refusal("no such job")}), "get", "a", "--json")
    assert json.loads(ended.err) == {"error": "no such job", "code": "404"}


def test_when_nobody_answers_the_remedy_is_named_and_the_password_is_not(play: Play) -> None:
    ended = play(Service({}), "list", "--server", "nats://u:s3cret@h:4222")
    assert ended.code == 1
    assert "no nats-cron instance answers nats-cron.jobs.list at nats://***@h:4222" in ended.err
    assert "nats-cron server" in ended.err
    assert "s3cret" not in ended.err


def test_an_answer_that_does_not_come_may_have_happened(play: Play) -> None:
    ended = play(Service({"jobs.create": TimeoutError()}), "add", "a", "1s")
    assert ended.code == 1
    assert "it may have taken effect" in ended.err


@pytest.mark.parametrize(
    "args",
    [
        (),
        ("nosuch",),
        ("add", "a"),
        ("add", "a", "5x"),
        ("list", "--state", "odd"),
        ("create",),
        ("delete",),
        ("delete", "te*"),
        ("delete", "a.>.b"),
        ("delete", "a.*", "--json"),
        ("runs", "--since", "soon"),
        ("next", "5m", "--after", "soon"),
        ("list", "--timeout", "0s"),
        ("health", "--max-lag", "never"),
    ],
)
def test_wrong_usage_ends_with_two_and_asks_nobody(play: Play, args: tuple[str, ...]) -> None:
    service = Service({})
    try:
        code = play(service, *args).code
    except SystemExit as end:  # the bare command shows help and leaves
        code = int(end.code or 0)
    assert (code, service.asked) == (2, [])


def test_a_misspelt_command_is_told_the_nearest(play: Play) -> None:
    assert "Did you mean 'list'?" in play(Service({}), "lst").err


def test_list_shows_next_and_last_run_in_relative_and_absolute_time(play: Play) -> None:
    jobs = [
        {
            "subject": "reports.daily",
            "schedule": {"cron": "0 10 * * *", "tz": "Europe/Berlin"},
            "state": "active",
            "next_run": "2027-01-15T09:00:00Z",
            "last_run": {"scheduled_at": "2027-01-14T09:00:00Z"},
        },
        {"subject": "x", "schedule": {"every": "30s"}, "state": "paused", "next_run": None, "last_run": None},
    ]
    lines = play(Service({"jobs.list": {"jobs": jobs}}), "ls").out.splitlines()
    assert lines[0].split() == ["SUBJECT", "SCHEDULE", "STATE", "NEXT", "RUN", "LAST", "RUN"]
    assert "in 1h (2027-01-15 10:00:00 CET)" in lines[1]
    assert "23h ago (2027-01-14 10:00:00 CET)" in lines[1]
    assert lines[2].split() == ["x", "every", "30s", "paused", "-", "-"]


def test_an_empty_list_says_so(play: Play) -> None:
    assert play(Service({"jobs.list": {"jobs": None}}), "list").out == "No jobs found\n"


def test_list_reads_page_after_page(play: Play) -> None:
    pages = [
        {"jobs": [{"subject": "a", "state": "active"}], "next": "7", "total": 2},
        {"jobs": [{"subject": "b", "state": "active"}], "total": 2},
    ]
    service = Service({"jobs.list": pages})
    ended = play(service, "list", "--json", "--label", "k=v")
    assert [job["subject"] for job in json.loads(ended.out)] == ["a", "b"]
    assert service.asked[:2] == [("jobs.list", {"label": "k=v"}), ("jobs.list", {"label": "k=v", "cursor": "7"})]


def test_jobs_of_the_go_version_are_looked_up_one_by_one(play: Play) -> None:
    service = Service(
        {
            "jobs.list": {"jobs": [{"subject": "a.b"}, {"subject": "c"}]},
            "jobs.get": {"subject": "a.b", "schedule": {"every": "30s"}},
        }
    )
    ended = play(service, "list", "a.*", "--json")
    assert json.loads(ended.out) == [{"subject": "a.b", "schedule": {"every": "30s"}}]


def test_get_shows_the_job_with_sorted_keys(play: Play) -> None:
    ended = play(Service({"jobs.get": {"subject": "a", "schedule": {"every": "1s"}}}), "get", "a")
    assert ended.out == '{\n  "schedule": {\n    "every": "1s"\n  },\n  "subject": "a"\n}\n'


def test_create_of_one_file_speaks_as_the_go_version_does(play: Play, tmp_path: Path) -> None:
    path = tmp_path / "job.json"
    path.write_text('{"subject": "a", "schedule": {"every": "1s"}}')
    ended = play(Service({"jobs.create": CREATED}), "create", str(path))
    assert ended == Ended(0, "Job created: created\n", "")


@pytest.mark.parametrize(
    "text",
    [
        '[{"subject": "a"}, {"subject": "b"}]',
        '{"subject": "a"}\n\n{"subject": "b"}\n',
        '{"jobs": [{"subject": "a"}, {"subject": "b"}]}',
    ],
)
def test_create_takes_arrays_and_lines_and_replaces_if_asked(play: Play, text: str) -> None:
    service = Service({"jobs.put": {"status": "created"}})
    ended = play(service, "create", "-f", "-", "--replace", stdin=text)
    assert ended.code == 0
    assert ended.out.endswith("Stored 2 job(s)\n")
    assert sorted(body["subject"] for endpoint, body in service.asked if endpoint == "jobs.put") == ["a", "b"]


def test_create_of_many_reports_each_failure_and_ends_with_one(play: Play) -> None:
    service = Service({"jobs.create": [CREATED, refusal("already exists", "409"), CREATED]})
    jobs = json.dumps([{"subject": one} for one in "abc"])
    ended = play(service, "create", "-", stdin=jobs)
    assert ended.code == 1
    assert ended.err == "Error: job 2 ('b'): already exists\n"
    assert ended.out.endswith("Stored 2 job(s) (1 failed)\n")


def test_create_of_many_with_json_gives_one_result_a_job(play: Play) -> None:
    service = Service({"jobs.create": [CREATED, refusal("already exists", "409")]})
    ended = play(service, "create", "-", "--json", stdin='[{"subject": "a"}, {"subject": "b"}]')
    assert ended.code == 1
    assert json.loads(ended.out) == [
        {"subject": "a", "revision": "1", "status": "created"},
        {"subject": "b", "error": "already exists", "code": "409"},
    ]


def test_what_list_wrote_can_be_created(play: Play) -> None:
    own = {"subject": "a", "schedule": {"every": "1s"}, "labels": {"k": "v"}}
    shown = {"revision": "3", "next_run": None, "last_run": None, "state": "active", "delivery_effective": "core"}
    listed = play(Service({"jobs.list": {"jobs": [own | shown]}}), "list", "--json").out
    service = Service({"jobs.create": CREATED})
    assert play(service, "create", "-f", "-", stdin=listed).code == 0
    assert service.asked[0] == ("jobs.create", own)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "there is no job in it"),
        ("{", "not JSON"),
        ("[1, {}.5]", "not JSON"),
        ("[1]", "standard input, job 1: a job is a JSON object"),
        ('"x"', "a job is a JSON object"),
        ("[]", "there is no job in it"),
        ("\x00\x01", "not JSON"),
        ("[" * 100_000, "not JSON"),
    ],
)
def test_a_job_file_that_cannot_be_read_says_where(play: Play, text: str, told: str) -> None:
    service = Service({})
    ended = play(service, "create", "-", stdin=text)
    assert (ended.code, service.asked) == (1, [])
    assert told in ended.err


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ('{"subject": "a"}\n{"b"}\n{"subject": "c"}', "line 2: not JSON"),
        ('[{"subject": "a"}, 5, {"subject": "c"}]', "job 2: a job is a JSON object"),
    ],
)
def test_a_job_that_cannot_be_read_does_not_keep_the_others_out(play: Play, text: str, place: str) -> None:
    service = Service({"jobs.create": {"status": "created"}})
    ended = play(service, "create", "-", stdin=text)
    assert [about["subject"] for what, about in service.asked if what == "jobs.create"] == ["a", "c"]
    assert (ended.code, "Stored 2 job(s) (1 failed)" in ended.out) == (1, True)
    assert f"standard input, {place}" in ended.err


@pytest.mark.parametrize(
    ("key", "told"),
    [
        ("max_runs", "give a new SCHEDULE without it"),
        ("schedule.max_runs", "give a new SCHEDULE without it"),
        ("retry.attempts", "--unset retry takes all of it back"),
        ("schedule", "no job is without its schedule"),
    ],
)
def test_a_part_of_a_field_cannot_be_unset(play: Play, key: str, told: str) -> None:
    service = Service({"jobs.update": {"status": "updated"}})
    ended = play(service, "update", "a", "--unset", key)
    assert (ended.code, service.asked) == (2, [])
    assert told in " ".join(ended.err.split())


def test_a_job_that_is_put_is_not_told_as_created(play: Play) -> None:
    service = Service({"jobs.put": {"status": "updated"}})
    ended = play(service, "create", "-", "--replace", stdin='{"subject": "a"}')
    assert ended.out == "Job stored: updated\n"


def test_arguments_that_are_not_utf8_are_refused(play: Play) -> None:
    ended = play(Service({}), "add", "a", "1s", "caf\udce9")
    assert (ended.code, ended.err) == (
        1,
        "Error: the arguments hold bytes that are not UTF-8, which JSON cannot carry\n",
    )


def test_a_missing_job_file_is_named(play: Play) -> None:
    ended = play(Service({}), "create", "/nowhere/x.json")
    assert (ended.code, ended.err) == (
        1,
        "Error: reading job file: /nowhere/x.json: No such file or directory\n",
    )


def test_update_with_a_schedule_asks_once_and_keeps_the_rest(play: Play) -> None:
    service = Service({"jobs.update": {"status": "updated"}})
    ended = play(service, "update", "a", "1m")
    assert ended.out == "Job 'a' updated successfully\n  Schedule: 1m\n"
    assert service.asked[0] == ("jobs.update", {"subject": "a", "schedule": {"every": "1m"}})


def test_update_with_flags_keeps_the_other_parts_of_a_field_at_the_revision_read(play: Play) -> None:
    job = {
        "subject": "a",
        "schedule": {"cron": "0 9 * * *"},
        "retry": {"attempts": 3, "backoff": "1s"},
        "catchup": "all",
        "revision": 12,
    }
    service = Service({"jobs.get": job, "jobs.update": {"status": "updated"}})
    flags = ("--tz", "Europe/Paris", "--retry", "5", "--catchup-limit", "9", "--note", "n", "--unset", "headers")
    assert play(service, "update", "a", *flags).code == 0
    assert service.asked[1] == (
        "jobs.update",
        {
            "subject": "a",
            "schedule": {"cron": "0 9 * * *", "tz": "Europe/Paris"},
            "retry": {"attempts": 5, "backoff": "1s"},
            "catchup": {"policy": "all", "limit": 9},
            "note": "n",
            "headers": None,
            "expected_revision": 12,
        },
    )


def test_update_with_a_file_speaks_as_the_older_go_version_does(play: Play, tmp_path: Path) -> None:
    path = tmp_path / "job.json"
    path.write_text('{"subject": "a", "schedule": {"every": "1s"}}')
    assert play(Service({"jobs.update": {"status": "updated"}}), "update", str(path)).out == "Job updated: updated\n"


def test_a_failed_update_is_an_error(play: Play) -> None:
    ended = play(Service({"jobs.update": refusal("bad schedule", "422")}), "update", "a", "1m")
    assert (ended.code, ended.out) == (1, "")


def test_update_of_neither_a_file_nor_a_change_says_what_to_give(play: Play) -> None:
    ended = play(Service({}), "update", "reports.daily")
    assert ended.code == 2
    assert "give a SCHEDULE or flags" in ended.err


def test_a_warning_is_shown_on_stderr(play: Play) -> None:
    ended = play(Service({"jobs.create": CREATED | {"warning": "unknown field x"}}), "add", "a", "1s")
    assert (ended.code, ended.err) == (0, "Warning: unknown field x\n")


def test_delete_of_one_speaks_as_the_go_version_does(play: Play) -> None:
    assert play(Service({"jobs.delete": {"status": "deleted"}}), "del", "a").out == "Job deleted: a\n"


def test_delete_of_an_unknown_job_is_an_error_unless_told_otherwise(play: Play) -> None:
    replies = {"jobs.delete": refusal("key not found")}
    assert play(Service(replies), "delete", "a").code == 1
    assert play(Service(replies), "delete", "a", "--if-exists") == Ended(0, "No such job: a\n", "")
    other = {"jobs.delete": refusal("store unreachable", "503")}
    assert play(Service(other), "delete", "a", "--if-exists").code == 1


def test_delete_of_a_pattern_asks_and_deletes_what_matches_and_no_more(play: Play) -> None:
    service = Service({"jobs.list": LISTED, "jobs.delete": {"status": "deleted"}})
    ended = play(service, "delete", "t.>", stdin="y\n")
    assert ended == Ended(0, FOUND + "Delete these 2 job(s)? (y/N): \nDeleted 2 job(s)\n", "")
    assert [body for endpoint, body in service.asked if endpoint == "jobs.delete"] == [
        {"subject": "t.a"},
        {"subject": "t.b"},
    ]


@pytest.mark.parametrize("answer", ["n\n", "\n", "", "yes please\n"])
def test_any_answer_but_yes_deletes_nothing(play: Play, answer: str) -> None:
    service = Service({"jobs.list": LISTED})
    ended = play(service, "delete", "t.>", stdin=answer)
    assert (ended.code, ended.out) == (0, FOUND + "Delete these 2 job(s)? (y/N): \nDeletion cancelled\n")
    assert "jobs.delete" not in [endpoint for endpoint, _ in service.asked]


def test_delete_of_a_pattern_with_yes_asks_nothing_and_counts_failures(play: Play) -> None:
    service = Service({"jobs.list": LISTED, "jobs.delete": [{"status": "deleted"}, refusal("unreachable", "503")]})
    ended = play(service, "delete", "t.>", "--yes")
    assert ended == Ended(1, FOUND + "Deleted 1 job(s) (1 failed)\n", "Error: job 't.b': unreachable\n")


def test_delete_of_a_pattern_counts_what_somebody_else_deleted_as_gone(play: Play) -> None:
    service = Service({"jobs.list": LISTED, "jobs.delete": refusal("key not found")})
    assert play(service, "delete", "t.>", "--yes").code == 0


def test_a_pattern_without_match_is_no_failure(play: Play) -> None:
    ended = play(Service({"jobs.list": {"jobs": None}}), "delete", "t.>")
    assert ended == Ended(0, "No jobs match pattern 't.>'\n", "")


def test_pause_and_resume_take_several_jobs_and_report_each(play: Play) -> None:
    service = Service({"jobs.pause": [{"status": "paused"}, refusal("no such job")]})
    ended = play(service, "pause", "a", "b", "--note", "why")
    assert ended == Ended(1, "Job 'a' paused successfully\n", "Error: job 'b': no such job\n")
    assert service.asked[0] == ("jobs.pause", {"subject": "a", "note": "why"})
    assert play(Service({"jobs.resume": {}}), "resume", "a").out == "Job 'a' resumed successfully\n"


def test_trigger_shows_the_run_and_sends_data_and_key(play: Play) -> None:
    service = Service({"jobs.trigger": {"run_id": "01K"}})
    assert play(service, "trigger", "a", "--data", "x", "--key", "k").out == "Job 'a' triggered: run 01K\n"
    assert service.asked[0][1] == {"subject": "a", "payload": {"type": "text", "data": "x"}, "key": "k"}
