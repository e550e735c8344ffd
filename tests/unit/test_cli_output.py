"""What is shown: spans, instants, tables, and nothing that a terminal would obey."""

import pytest

from natscron.cli.output import Output, instant_ms, rfc3339, schedule_text, shown_at, span, when

NOW = 1_800_000_000_000  # 2027-01-15T08:00:00Z


@pytest.mark.parametrize(
    ("ms", "text"),
    [
        (0, "0ms"),
        (0.25, "0.25ms"),
        (250, "250ms"),
        (1_000, "1s"),
        (61_000, "1m 1s"),
        (3_600_000, "1h"),
        (90_061_000, "1d 1h"),
        (-5_000, "5s"),
    ],
)
def test_spans_show_their_two_greatest_units(ms: float, text: str) -> None:
    assert span(ms) == text


@pytest.mark.parametrize(
    ("value", "ms"),
    [
        ("2027-01-15T08:00:00Z", NOW),
        ("2027-01-15T09:00:00.250+01:00", NOW + 250),
        ("2027-01-15T08:00:00.123456789Z", NOW + 123),
        (NOW, NOW),
        ("0001-01-01T00:00:00Z", None),
        ("never", None),
        (None, None),
        (True, None),
    ],
)
def test_instants_of_replies_are_read_whatever_their_form(value: object, ms: int | None) -> None:
    assert instant_ms(value) == ms


def test_an_instant_is_shown_in_relative_and_absolute_time_in_its_zone() -> None:
    later = rfc3339(NOW + 3_600_000)
    assert when(later, NOW) == "in 1h (2027-01-15 09:00:00 UTC)"
    assert when(later, NOW + 7_200_000, "Europe/Berlin") == "1h ago (2027-01-15 10:00:00 CET)"
    assert when(None, NOW, missing="never") == "never"


def test_an_unknown_zone_falls_back_to_utc() -> None:
    assert shown_at(NOW + 5, "Nowhere/Land") == "2027-01-15 08:00:00.005 UTC"


@pytest.mark.parametrize(
    ("schedule", "text"),
    [
        ({"every": "30s"}, "every 30s"),
        ({"cron": "0 9 * * *", "tz": "Europe/Berlin"}, "0 9 * * * [Europe/Berlin]"),
        ({"cron": "TZ=UTC 0 9 * * *", "tz": "UTC"}, "TZ=UTC 0 9 * * *"),
        ({"at": "2027-01-15T08:00:00Z"}, "at 2027-01-15T08:00:00Z"),
        ({"any": []}, '{"any":[]}'),
        (None, "-"),
    ],
)
def test_schedules_are_shown_as_one_would_write_them(schedule: object, text: str) -> None:
    assert schedule_text(schedule) == text


def test_a_table_cuts_nothing_and_aligns_columns(capsys: pytest.CaptureFixture[str]) -> None:
    Output().table(("A", "LONGER"), [("x" * 90, "1"), ("y", "2")])
    lines = capsys.readouterr().out.splitlines()
    assert lines[1] == "x" * 90 + "  1"
    assert lines[2].index("2") == lines[0].index("LONGER") == 92


def test_control_characters_from_elsewhere_never_reach_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    out = Output()
    out.line("a\x1b[2Jb")
    out.table(("H",), [("c\rd\u202e",)])
    out.error("e\x07")
    out.warn("f\x00\n")
    shown = capsys.readouterr()
    assert not set(shown.out + shown.err) & set("\x1b\r\u202e\x07\x00")
    assert "a\\x1b[2Jb" in shown.out


def test_with_json_lines_are_silent_and_errors_are_json(capsys: pytest.CaptureFixture[str]) -> None:
    out = Output(as_json=True)
    out.line("nothing")
    out.error("went wrong", "404")
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err == '{"error":"went wrong","code":"404"}\n'
