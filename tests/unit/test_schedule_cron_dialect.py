"""What an expression means and what is refused: the dialect's sentences, one by one, and the Go version's texts."""

import datetime as dt

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from natscron.errors import InvalidCronExpressionError, InvalidScheduleError
from natscron.model import ScheduleSpec
from natscron.schedule import Schedule, compile_schedule

SUNDAY = "2026-11-01T00:00:00+00:00"


def compiled(cron: str, tz: str | None = None, *, seed: str = "job", lenient: bool = False) -> Schedule:
    return compile_schedule(ScheduleSpec(cron=cron, tz=tz), anchor_ms=0, seed=seed, lenient=lenient).schedule


def slots(cron: str, after: str = SUNDAY, n: int = 4, **settings: str | bool) -> list[str]:
    """The next slots as ``MM-DD HH:MM``, the year and the seconds only where they are not 2026 and 00."""
    schedule, found = compiled(cron, **settings), []  # type: ignore[arg-type]  # named settings only
    moment: dt.datetime | None = dt.datetime.fromisoformat(after) - dt.timedelta(seconds=1)
    for _ in range(n):
        assert moment is not None
        moment = schedule.next_after(moment)
        assert moment is not None
        assert schedule.last_at_or_before(moment) == moment
        text = moment.strftime("%m-%d %H:%M")
        text += moment.strftime(":%S") if moment.second else ""
        found.append(text if moment.year == 2026 else f"{moment.year}-{text}")
    return found


@pytest.mark.parametrize(
    ("cron", "expected"),
    [
        ("0 9 * * *", ["11-01 09:00", "11-02 09:00"]),
        ("  0\t9 *  * * ", ["11-01 09:00", "11-02 09:00"]),
        ("? 9 ? ? ?", ["11-01 09:00", "11-01 09:01"]),
        ("0 9-11 * * *", ["11-01 09:00", "11-01 10:00", "11-01 11:00", "11-02 09:00"]),
        ("0 9-15/3 * * *", ["11-01 09:00", "11-01 12:00", "11-01 15:00", "11-02 09:00"]),
        ("*/25 * * * *", ["11-01 00:00", "11-01 00:25", "11-01 00:50", "11-01 01:00"]),
        ("40/10 * * * *", ["11-01 00:40", "11-01 00:50", "11-01 01:40"]),
        ("5,1,3-4 0 * * *", ["11-01 00:01", "11-01 00:03", "11-01 00:04", "11-01 00:05"]),
        ("0 0 1 jan *", ["2027-01-01 00:00"]),
        ("0 0 1 JAN-mar *", ["2027-01-01 00:00", "2027-02-01 00:00", "2027-03-01 00:00", "2028-01-01 00:00"]),
        ("0 0 * * MON", ["11-02 00:00", "11-09 00:00"]),
        ("0 0 * * 0", ["11-01 00:00", "11-08 00:00"]),
        ("0 0 * * 7", ["11-01 00:00", "11-08 00:00"]),
        ("0 0 * * 5-7", ["11-01 00:00", "11-06 00:00", "11-07 00:00", "11-08 00:00"]),
        ("0 0 * * 7-1", ["11-01 00:00", "11-02 00:00", "11-08 00:00"]),
        ("0 0 * * FRI-MON", ["11-01 00:00", "11-02 00:00", "11-06 00:00", "11-07 00:00"]),
        ("0 22-2 * * *", ["11-01 00:00", "11-01 01:00", "11-01 02:00", "11-01 22:00"]),
        ("0 22-2/2 * * *", ["11-01 00:00", "11-01 02:00", "11-01 22:00", "11-02 00:00"]),
        ("0 0 30-2 * *", ["11-01 00:00", "11-02 00:00", "11-30 00:00", "12-01 00:00"]),
        ("0 0 1 NOV-FEB *", ["11-01 00:00", "12-01 00:00", "2027-01-01 00:00", "2027-02-01 00:00"]),
        # both day fields restricted: either may match
        ("0 0 13 * 5", ["11-06 00:00", "11-13 00:00", "11-20 00:00"]),
        ("0 0 3 * 1", ["11-02 00:00", "11-03 00:00", "11-09 00:00"]),
        # a step over 1 makes a star a restriction, as in robfig's parser
        ("0 0 1 * */2", ["11-01 00:00", "11-03 00:00", "11-05 00:00", "11-07 00:00"]),
        ("0 0 */2 * 5", ["11-01 00:00", "11-03 00:00", "11-05 00:00", "11-06 00:00"]),
        ("0 0 */2 * *", ["11-01 00:00", "11-03 00:00"]),
        # a star in a list, or with a step of 1, keeps a field unrestricted: both must match
        ("0 0 */1 * 5", ["11-06 00:00", "11-13 00:00"]),
        ("0 0 1,* * 5", ["11-06 00:00", "11-13 00:00"]),
        ("0 0 2 * */1", ["11-02 00:00", "12-02 00:00"]),
        # six fields
        ("30 0 9 * * *", ["11-01 09:00:30", "11-02 09:00:30"]),
        ("*/20 * * * * *", ["11-01 00:00", "11-01 00:00:20", "11-01 00:00:40", "11-01 00:01"]),
        # special days
        ("0 0 L * *", ["11-30 00:00", "12-31 00:00", "2027-01-31 00:00", "2027-02-28 00:00"]),
        ("0 0 L-3 * *", ["11-27 00:00", "12-28 00:00", "2027-01-28 00:00", "2027-02-25 00:00"]),
        ("0 0 L-30 * *", ["12-01 00:00", "2027-01-01 00:00", "2027-03-01 00:00"]),
        ("0 0 LW * *", ["11-30 00:00", "12-31 00:00", "2027-01-29 00:00", "2027-02-26 00:00"]),
        ("0 0 15W * *", ["11-16 00:00", "12-15 00:00", "2027-01-15 00:00"]),
        ("0 0 1W * *", ["11-02 00:00", "12-01 00:00", "2027-01-01 00:00", "2027-02-01 00:00"]),
        ("0 0 1W 5 *", ["2027-05-03 00:00", "2028-05-01 00:00"]),
        ("0 0 31W * *", ["12-31 00:00", "2027-01-29 00:00", "2027-03-31 00:00"]),
        ("0 0 * * 5L", ["11-27 00:00", "12-25 00:00", "2027-01-29 00:00"]),
        ("0 0 * * FRIL", ["11-27 00:00", "12-25 00:00", "2027-01-29 00:00"]),
        ("0 0 * * 1#1", ["11-02 00:00", "12-07 00:00"]),
        ("0 0 * * 0#5", ["11-29 00:00", "2027-01-31 00:00"]),
        ("0 0 * * sun#1,MON#2", ["11-01 00:00", "11-09 00:00", "12-06 00:00"]),
        ("0 0 10,L * 3#1", ["11-04 00:00", "11-10 00:00", "11-30 00:00", "12-02 00:00"]),
        ("0 0 29 2 *", ["2028-02-29 00:00", "2032-02-29 00:00"]),
        ("0 0 * 2 1#5", ["2044-02-29 00:00", "2072-02-29 00:00"]),
        # aliases
        ("@yearly", ["2027-01-01 00:00"]),
        ("@annually", ["2027-01-01 00:00"]),
        ("@monthly", ["11-01 00:00", "12-01 00:00"]),
        ("@weekly", ["11-01 00:00", "11-08 00:00"]),
        ("@daily", ["11-01 00:00", "11-02 00:00"]),
        ("@midnight", ["11-01 00:00", "11-02 00:00"]),
        ("@Hourly", ["11-01 00:00", "11-01 01:00"]),
        # zones
        ("CRON_TZ=America/New_York 0 9 * * *", ["11-01 14:00", "11-02 14:00"]),
        ("TZ=Asia/Kolkata 0 9 * * *", ["11-01 03:30", "11-02 03:30"]),
        ("TZ=Asia/Kolkata  @daily", ["11-01 18:30", "11-02 18:30"]),
        ("TZ= 0 9 * * *", ["11-01 09:00"]),
    ],
)
def test_an_expression_means_what_it_says(cron: str, expected: list[str]) -> None:
    assert slots(cron, n=len(expected)) == expected


def test_every_as_an_alias_is_an_interval_from_the_creation_in_any_zone() -> None:
    for spec in (
        ScheduleSpec(cron="@every 90s"),
        ScheduleSpec(every="@every 1m30s"),
        ScheduleSpec(cron="TZ=Asia/Tokyo @every 90s"),
    ):
        assert compile_schedule(spec, anchor_ms=1_000_007).schedule.next_after_ms(0) == 1_090_007
    hourly = compile_schedule(ScheduleSpec(every="@hourly"), anchor_ms=0).schedule
    assert hourly.expression == "@hourly"
    assert hourly.next_after_ms(1) == 3_600_000


def test_the_zone_may_be_given_twice_only_if_it_is_the_same() -> None:
    assert slots("TZ=Asia/Kolkata 0 9 * * *", tz="Asia/Kolkata", n=1) == ["11-01 03:30"]
    with pytest.raises(InvalidCronExpressionError, match="prefix says zone 'Asia/Kolkata' and tz says 'Asia/Tokyo'"):
        compiled("TZ=Asia/Kolkata 0 9 * * *", tz="Asia/Tokyo")


@pytest.mark.parametrize(
    ("cron", "reason"),
    [
        # the Go version's texts
        (" ", "empty spec string"),
        ("* * * *", "expected exactly 5 fields, found 4: [* * * *]"),
        ("* * * * * * *", "expected exactly 5 fields, found 7: [* * * * * * *]"),
        ("a * * * *", 'failed to parse int from a: strconv.Atoi: parsing "a": invalid syntax'),
        ("-1 * * * *", 'failed to parse int from : strconv.Atoi: parsing "": invalid syntax'),
        ("1- * * * *", 'failed to parse int from : strconv.Atoi: parsing "": invalid syntax'),
        ("*/ * * * *", 'failed to parse int from : strconv.Atoi: parsing "": invalid syntax'),
        ("99999999999999999999 * * * *", "value out of range"),
        ("0 0 0 * *", "beginning of range (0) below minimum (1): 0"),
        ("60 * * * *", "end of range (60) above maximum (59): 60"),
        ("0 24 * * *", "end of range (24) above maximum (23): 24"),
        ("0 0 32 * *", "end of range (32) above maximum (31): 32"),
        ("0 0 * 13 *", "end of range (13) above maximum (12): 13"),
        ("0 0 * * 8", "end of range (8) above maximum (6): 8"),
        ("60/5 * * * *", "beginning of range (60) beyond end of range (59): 60/5"),
        ("70-5 * * * *", "beginning of range (70) beyond end of range (5): 70-5"),
        ("*/0 * * * *", "step of range should be a positive number: */0"),
        ("1-2-3 * * * *", "too many hyphens: 1-2-3"),
        ("0/1/2 * * * *", "too many slashes: 0/1/2"),
        ("CRON_TZ=X 0 9 * * *", "provided bad location X: unknown time zone X"),
        ("@foo", "unrecognized descriptor: @foo"),
        # ours
        ("TZ=UTC", "the zone prefix stands alone"),
        ("CRON_TZ=UTC   ", "the zone prefix stands alone"),
        ("TZ=", "the zone prefix stands alone"),
        ("TZ=right/UTC 0 0 * * *", "unknown time zone right/UTC"),
        ("TZ=localtime 0 0 * * *", "unknown time zone localtime"),
        ("TZ=../../etc/passwd 0 0 * * *", "unknown time zone"),
        ("TZ=America 0 0 * * *", "unknown time zone America"),
        ("TZ=" + "x" * 300 + " 0 0 * * *", "unknown time zone"),
        ("0 0 30 2 *", "never matches"),
        ("0 0 31 4,6,9,11 *", "never matches"),
        ("0 0 31W 2 *", "never matches"),
        ("0 0 L-30 2 *", "never matches"),
        ("0 0 L-31 * *", "lies before every month's first day"),
        ("0 0 32W * *", "names a day that no month has"),
        ("0 0 0W * *", "names a day that no month has"),
        ("0 0 * * 1#6", "outside 1-5"),
        ("0 0 * * 1#0", "outside 1-5"),
        ("0 0 * * 8#1", "end of range (8) above maximum (6)"),
        ("0 0 * * abc#1", "failed to parse int from abc"),
        ("0 0 * * L", "'L' needs a weekday"),
        ("L * * * *", "failed to parse int from L"),
        ("H(50-70) * * * *", "is not a range within 0-59"),
        ("9~3 * * * *", "is not a range within 0-59"),
        (",".join("0" for _ in range(200)) + " * * * *", "more than 128 list items"),
        ("0 " * 1000, "longer than 1024 characters"),
        ("\u0665 * * * *", "failed to parse int from \u0665"),
    ],
)
def test_what_means_nothing_is_refused_with_its_reason_in_both_modes(cron: str, reason: str) -> None:
    for lenient in (False, True):
        with pytest.raises(InvalidCronExpressionError) as caught:
            compiled(cron, lenient=lenient)
        assert reason in str(caught.value)
        assert str(caught.value).startswith("invalid cron expression '")
        assert len(str(caught.value)) < 600


def test_a_refusal_names_the_field_the_value_and_what_the_field_takes() -> None:
    with pytest.raises(InvalidCronExpressionError) as caught:
        compiled("0 9 * 1,13 *")
    text = str(caught.value)
    assert text == (
        "invalid cron expression '0 9 * 1,13 *': end of range (13) above maximum (12): 13 "
        "(field month takes 1-12; it has '1,13')"
    )


@pytest.mark.parametrize(
    ("cron", "expected", "reason"),
    [
        ("1,,2 0 * * *", ["11-01 00:01", "11-01 00:02"], "empty list item"),
        (",3 0 * * *", ["11-01 00:03", "11-02 00:03"], "empty list item"),
        ("+5 0 * * *", ["11-01 00:05", "11-02 00:05"], "'+5' has a sign"),
        ("*-5 0 * * *", ["11-01 00:00", "11-01 00:01"], "'*-5' is not a range"),
        ("*/100 * * * *", ["11-01 00:00", "11-01 01:00"], "step 100 is longer than the field's 60 values"),
    ],
)
def test_oddities_of_the_go_parser_are_refused_now_and_read_from_its_rows(
    cron: str, expected: list[str], reason: str
) -> None:
    with pytest.raises(InvalidCronExpressionError, match="field minute") as caught:
        compiled(cron)
    assert reason in str(caught.value)
    assert slots(cron, n=2, lenient=True) == expected
    stored = compile_schedule(ScheduleSpec(cron=cron), anchor_ms=0, lenient=True)
    assert any(reason in warning for warning in stored.warnings)


def test_a_lone_comma_never_fires_and_is_refused_even_from_a_row() -> None:
    with pytest.raises(InvalidCronExpressionError, match="never matches"):
        compiled(", * * * *", lenient=True)


def test_a_seconds_field_of_star_is_taken_with_a_warning() -> None:
    warned = compile_schedule(ScheduleSpec(cron="* */15 * * * *"), anchor_ms=0)
    assert "every second" in warned.warnings[0]
    assert compile_schedule(ScheduleSpec(cron="0 */15 * * * *"), anchor_ms=0).warnings == ()


def test_clock_rules_on_a_schedule_without_wall_times_are_named_in_a_warning() -> None:
    for spec in (ScheduleSpec(every="1m", dst_gap="skip"), ScheduleSpec(at="in 5m", dst_fold="both")):
        assert "they change nothing here" in compile_schedule(spec, anchor_ms=0).warnings[0]


def test_h_is_a_stable_hash_of_the_job_within_its_range() -> None:
    assert slots("H H * * *", seed="a", n=3) == slots("H H * * *", seed="a", n=3)
    many = {slots("H H * * *", seed=f"job.{i}", n=1)[0] for i in range(50)}
    assert len(many) > 40
    for spelling in ("H(10-12) 0 * * *", "10~12 0 * * *"):
        minutes = {slots(spelling, seed=f"job.{i}", n=1)[0] for i in range(50)}
        assert minutes == {"11-01 00:10", "11-01 00:11", "11-01 00:12"}
    assert slots("~ 0 * * *", seed="a", n=1) == slots("H 0 * * *", seed="a", n=1)
    assert {slots("0 0 H * *", after="2026-02-01T00:00:00+00:00", seed=f"{i}", n=1)[0][:3] for i in range(99)} == {
        "02-"
    }
    quarter = slots("H/15 * * * *", seed="b", n=5)
    assert len({text[-2:] for text in quarter}) == 4


def test_equal_expressions_share_one_schedule_whatever_the_job() -> None:
    first = compiled("0 9 * * 1-5", "Europe/Berlin", seed="a")
    assert compiled("0 9 * * 1-5", "Europe/Berlin", seed="b") is first
    assert compiled("CRON_TZ=Europe/Berlin 0 9 * * 1-5", seed="c") is first
    assert compiled("0 9 * * 1-5", "Europe/Paris") is not first
    assert compiled("0 9 * MAR THU", seed="a") is compiled("0 9 * MAR THU", seed="b")
    assert compiled("H 9 * * 1-5", seed="a") is not compiled("H 9 * * 1-5", seed="b")


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        (ScheduleSpec(), "schedule must specify either 'every' or 'cron' (or 'at')"),
        (ScheduleSpec(every="", cron=""), "schedule must specify either 'every' or 'cron'"),
        (ScheduleSpec(every="1m", cron="* * * * *"), "schedule cannot specify both 'every' and 'cron'"),
        (ScheduleSpec(every="1m", at="in 5m"), "schedule cannot specify both 'every' and 'at'"),
        (ScheduleSpec(cron="* * * * *", at="in 5m"), "schedule cannot specify both 'cron' and 'at'"),
        (ScheduleSpec(every="1m", cron="* * * * *", at="in 5m"), "both 'every' and 'cron' (and 'at')"),
        (ScheduleSpec(cron="0 0 * * *", start_at="in 5m"), "start_at anchors an interval"),
        (ScheduleSpec(every="1m", tz="Mars/Olympus"), "unknown time zone Mars/Olympus"),
        (ScheduleSpec(cron="0 0 * * *", tz="X"), "unknown time zone X"),
        (ScheduleSpec(cron="0 0 * * *", dst_gap="first"), "dst_gap 'first' is not known: use one of run_after, skip"),
        (ScheduleSpec(cron="0 0 * * *", dst_fold="x" * 999), "is not known: use one of first, last, both"),
    ],
)
def test_a_schedule_says_exactly_one_thing_and_only_what_is_known(spec: ScheduleSpec, reason: str) -> None:
    for lenient in (False, True):
        with pytest.raises(InvalidScheduleError) as caught:
            compile_schedule(spec, anchor_ms=0, lenient=lenient)
        assert reason in str(caught.value)


@pytest.mark.parametrize(
    ("cron", "settings", "gap_day", "fold_day"),
    [
        # New York: gap 2026-03-08 02:00-03:00 (07:00Z), fold 2026-11-01 01:00-02:00 (05:00Z and 06:00Z)
        ("30 2 * * *", {}, ["03-08 07:00", "03-09 06:30"], ["11-01 07:30"]),
        ("0,30 2 * * *", {}, ["03-08 07:00", "03-09 06:00"], ["11-01 07:00"]),
        ("30 2,3 * * *", {}, ["03-08 07:00", "03-08 07:30"], ["11-01 07:30"]),
        ("30 2 * * *", {"dst_gap": "skip"}, ["03-09 06:30"], ["11-01 07:30"]),
        ("30 2 * * *", {"dst_gap": "shift"}, ["03-08 07:30", "03-09 06:30"], ["11-01 07:30"]),
        ("0/10 2 * * *", {}, ["03-08 07:00", "03-09 06:00"], ["11-01 07:00"]),
        ("*/30 2 * * *", {}, ["03-09 06:00", "03-09 06:30"], ["11-01 07:00"]),
        ("*/30 2 * * *", {"dst_gap": "run_after"}, ["03-08 07:00", "03-09 06:00"], ["11-01 07:00"]),
        ("30 * * * *", {}, ["03-08 06:30", "03-08 07:30"], ["11-01 05:30", "11-01 06:30", "11-01 07:30"]),
        ("30 1 * * *", {}, ["03-08 06:30", "03-09 05:30"], ["11-01 05:30", "11-02 06:30"]),
        ("30 1 * * *", {"dst_fold": "last"}, ["03-08 06:30"], ["11-01 06:30", "11-02 06:30"]),
        ("30 1 * * *", {"dst_fold": "both"}, ["03-08 06:30"], ["11-01 05:30", "11-01 06:30", "11-02 06:30"]),
        ("*/30 1 * * *", {}, ["03-08 06:00"], ["11-01 05:00", "11-01 05:30", "11-01 06:00", "11-01 06:30"]),
        ("*/30 1 * * *", {"dst_fold": "first"}, ["03-08 06:00"], ["11-01 05:00", "11-01 05:30", "11-02 06:00"]),
        ("0 30 1 * * *", {}, ["03-08 06:30"], ["11-01 05:30", "11-02 06:30"]),
        ("* 30 1 * * *", {}, ["03-08 06:30"], ["11-01 05:30", "11-01 05:30:01"]),
    ],
)
def test_clock_changes_follow_the_kind_of_expression_unless_told_otherwise(
    cron: str, settings: dict[str, str], gap_day: list[str], fold_day: list[str]
) -> None:
    spec = ScheduleSpec(cron=cron, tz="America/New_York", **settings)  # type: ignore[arg-type]  # dst_gap, dst_fold
    schedule = compile_schedule(spec, anchor_ms=0).schedule
    for after, expected in (("2026-03-08T05:50:00+00:00", gap_day), ("2026-11-01T04:50:00+00:00", fold_day)):
        moment: dt.datetime | None = dt.datetime.fromisoformat(after)
        for text in expected:
            assert moment is not None
            moment = schedule.next_after(moment)
            assert moment is not None
            assert moment.strftime("%m-%d %H:%M" + (":%S" if moment.second else "")) == text


@settings(max_examples=400, derandomize=True, deadline=None, database=None)
@given(
    cron=st.text(max_size=40)
    | st.lists(
        st.text(alphabet="0123456789*?,-/LWH#~()+ MONJAsun@", min_size=1, max_size=8), min_size=4, max_size=6
    ).map(" ".join)
    | st.builds("{}={} {}".format, st.sampled_from(["TZ", "CRON_TZ"]), st.text(max_size=8), st.just("0 9 * * *")),
    tz=st.none() | st.sampled_from(["Europe/Berlin", "", "x"]) | st.text(max_size=8),
    lenient=st.booleans(),
    at=st.integers(-(10**14), 10**15),
)
def test_any_text_gives_a_schedule_or_a_clear_refusal(cron: str, tz: str | None, *, lenient: bool, at: int) -> None:
    try:
        schedule = compile_schedule(ScheduleSpec(cron=cron, tz=tz), anchor_ms=0, lenient=lenient).schedule
    except InvalidScheduleError:
        return
    following = schedule.next_after_ms(at)
    assert following is None or following > at
    before = schedule.last_at_or_before_ms(at)
    assert before is None or before <= at
