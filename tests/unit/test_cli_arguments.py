"""How arguments and flags become a job."""

import pytest
import rich_click as click

from natscron.cli.arguments import job_fields, looks_like_schedule, parse_schedule, payload_of


@pytest.mark.parametrize(
    ("text", "schedule"),
    [
        ("30s", {"every": "30s"}),
        ("1h30m", {"every": "1h30m"}),
        ("0 9 * * *", {"cron": "0 9 * * *"}),
        ("0 9 * * MON,WED-FRI", {"cron": "0 9 * * MON,WED-FRI"}),
        ("@hourly", {"cron": "@hourly"}),
        ("CRON_TZ=Europe/Berlin 0 9 * * *", {"cron": "CRON_TZ=Europe/Berlin 0 9 * * *"}),
        ("in 5m", {"at": "in 5m"}),
        ("2027-01-31T09:00:00+01:00", {"at": "2027-01-31T09:00:00+01:00"}),
        ('{"every": "5s", "run_at_start": true}', {"every": "5s", "run_at_start": True}),
    ],
)
def test_a_schedule_argument_is_told_apart_by_its_looks(text: str, schedule: dict[str, object]) -> None:
    assert parse_schedule(text) == schedule
    assert looks_like_schedule(text)


@pytest.mark.parametrize("subject", ["reports.daily", "a", "orders.5m", "2027-01", "x-30s"])
def test_a_subject_does_not_look_like_a_schedule(subject: str) -> None:
    assert not looks_like_schedule(subject)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("5x", "invalid duration '5x'"),
        ("30", "missing unit"),
        ("soon", "Duration format: number + unit (e.g., '30s', '5m', '2h')"),
        ("2027-01-31T09:00:00", "append Z for UTC"),
        ("{oops", "not a JSON object"),
    ],
)
def test_what_is_no_schedule_is_told_what_one_looks_like(text: str, told: str) -> None:
    with pytest.raises(click.UsageError) as caught:
        parse_schedule(text)
    assert told in caught.value.format_message()


@pytest.mark.parametrize(
    ("data", "given", "kind"),
    [('{"a": 1}', None, "json"), ("plain", None, "text"), ("12", None, "json"), ("aGk=", "base64", "base64")],
)
def test_data_keeps_its_bytes_and_gets_a_type(data: str, given: str | None, kind: str) -> None:
    assert payload_of(data, given) == {"type": kind, "data": data}


def test_flags_become_the_keys_of_the_job() -> None:
    flags = {
        "tz": "Europe/Berlin",
        "run_at_start": None,
        "delivery": "request",
        "timeout": "2m",
        "paused": False,
        "retry_attempts": 3,
        "retry_max_backoff": "1m",
        "catchup": "all",
        "catchup_limit": 7,
        "headers": ("X-A=1", "X-B=k=v"),
        "labels": ("team=web",),
        "note": None,
    }
    assert job_fields(flags) == {
        "schedule": {"tz": "Europe/Berlin"},
        "delivery": "request",
        "timeout": "2m",
        "paused": False,
        "retry": {"attempts": 3, "max_backoff": "1m"},
        "catchup": {"policy": "all", "limit": 7},
        "headers": {"X-A": "1", "X-B": "k=v"},
        "labels": {"team": "web"},
    }


@pytest.mark.parametrize("text", ["novalue", "=x"])
def test_a_label_without_key_or_value_is_refused(text: str) -> None:
    with pytest.raises(click.BadParameter, match="KEY=VALUE"):
        job_fields({"labels": (text,)})
