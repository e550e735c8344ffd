"""Tables of clock changes against the zone files themselves, and what happens when zone data is read again."""

import datetime as dt
import struct
from importlib import resources
from io import BytesIO
from zoneinfo import ZoneInfo

import pytest

from natscron.errors import ValidationError
from natscron.model import CalendarSpec, ScheduleSpec, Weekly
from natscron.schedule import compile_schedule
from natscron.schedule.reload import reload_zones
from natscron.schedule.zones import HORIZON, MARGIN, PERIOD, REPEATS_FROM, Zone, clear_cache, zone_named

FILES = resources.files("tzdata")
EVERY_ZONE = sorted(FILES.joinpath("zones").read_text().split())
LIMIT = 2_145_916_800  # 2038-01-01


def file_of(name: str) -> bytes:
    return FILES.joinpath("zoneinfo", *name.split("/")).read_bytes()


def explicit_changes(data: bytes) -> list[tuple[int, int]]:
    """The (instant, offset) pairs of a zone's file from 1970 on: its 64-bit block, where the offset really changes."""

    def counts(start: int) -> tuple[int, ...]:
        return struct.unpack(">6l", data[start + 20 : start + 44])

    isutc, isstd, leaps, times, types, chars = counts(0)
    start = 44 + times * 5 + types * 6 + chars + leaps * 8 + isstd + isutc
    _, _, _, times, types, _ = counts(start)
    start += 44
    instants = struct.unpack(f">{times}q", data[start : start + times * 8])
    kinds = data[start + times * 8 : start + times * 9]
    start += times * 9
    offsets = [struct.unpack(">l", data[start + i * 6 : start + i * 6 + 4])[0] for i in range(types)]
    found, before = [], offsets[0]
    for instant, kind in zip(instants, kinds, strict=True):
        if offsets[kind] != before and 0 < instant < LIMIT:
            found.append((instant, offsets[kind]))
        before = offsets[kind]
    return found


@pytest.mark.parametrize("part", range(4))
def test_a_table_has_exactly_the_changes_of_the_zone_s_file(part: int) -> None:
    for name in EVERY_ZONE[part::4]:
        data = file_of(name)
        table = Zone(name, ZoneInfo.from_file(BytesIO(data), key=name)).cover(0, LIMIT)
        explicit = explicit_changes(data)
        last = explicit[-1][0] if explicit else 0  # later ones follow from the rule at the file's end
        pairs = list(zip(table.at, table.offset[1:], strict=True))
        assert [pair for pair in pairs if pair[0] <= last] == explicit, name


def test_a_table_does_not_grow_over_centuries_for_one_question() -> None:
    zone = Zone("Europe/Berlin", ZoneInfo("Europe/Berlin"))
    near = zone.cover(LIMIT - 1, LIMIT)
    far = zone.around(REPEATS_FROM + PERIOD // 2)
    assert far.start > near.end
    assert far.end - far.start <= 2 * 3_652 * 86_400
    assert zone.around(LIMIT - 1) is zone.around(LIMIT - 1)
    assert zone.around(REPEATS_FROM + PERIOD // 2) is far  # both are kept
    for place in range(8):
        zone.around(REPEATS_FROM + place * PERIOD // 8)
    assert len(zone._kept) == 4


@pytest.mark.parametrize("name", ["Europe/Berlin", "America/Santiago", "Africa/Casablanca", "Pacific/Apia"])
def test_a_table_grown_piece_by_piece_is_that_made_in_one(name: str) -> None:
    whole = Zone(name, ZoneInfo(name)).cover(0, LIMIT)
    grown = Zone(name, ZoneInfo(name))
    middle = LIMIT // 2
    for start, end in ((middle, middle + 1), (middle - MARGIN * 3, middle), (middle, LIMIT), (0, middle)):
        grown.cover(start, end)
    assert grown.table == whole


class TwoChangesInADay(dt.tzinfo):
    """An hour ahead from 10:00Z on the second day, three hours ahead from 11:00Z."""

    def utcoffset(self, when: dt.datetime | None) -> dt.timedelta:
        assert when is not None
        wall = when.replace(tzinfo=None)
        return next(
            dt.timedelta(hours=hours)
            for at, hours in reversed([(dt.datetime.min, 0), *self.changes])  # noqa: DTZ901 - wall times
            if wall >= at + dt.timedelta(hours=hours)
        )

    changes = ((dt.datetime(1970, 1, 2, 10), 1), (dt.datetime(1970, 1, 2, 11), 3))  # noqa: DTZ001 - in UTC

    def dst(self, _when: dt.datetime | None) -> dt.timedelta | None:
        return None

    def tzname(self, _when: dt.datetime | None) -> str | None:
        return None

    def fromutc(self, when: dt.datetime) -> dt.datetime:
        utc = when.replace(tzinfo=None)
        return (utc + dt.timedelta(hours=max((h for at, h in self.changes if utc >= at), default=0))).replace(
            tzinfo=self
        )


def test_two_changes_within_a_day_are_both_found() -> None:
    table = Zone("X", TwoChangesInADay()).cover(0, 1)  # type: ignore[arg-type]  # stands in for a zone
    assert table.at == (86_400 + 10 * 3600, 86_400 + 11 * 3600)
    assert table.offset == (0, 3600, 3 * 3600)


def test_a_table_stays_within_its_bounds() -> None:
    zone = Zone("Europe/Berlin", ZoneInfo("Europe/Berlin"))
    table = zone.cover(HORIZON - 86_400, HORIZON + 10**12)
    assert table.end == HORIZON
    assert zone.cover(-(10**12), 1).start == 0


def test_from_2100_on_every_zone_repeats_after_400_years() -> None:
    for name in EVERY_ZONE[::40]:
        zone = ZoneInfo(name)
        for day in range(0, 3 * 366, 5):
            early = dt.datetime.fromtimestamp(REPEATS_FROM + day * 86_400, zone)
            late = dt.datetime.fromtimestamp(REPEATS_FROM + PERIOD + day * 86_400, zone)
            assert early.utcoffset() == late.utcoffset()
            assert early.replace(year=early.year + 400, tzinfo=None) == late.replace(tzinfo=None)


@pytest.mark.parametrize("year", [2037, 2099, 2100, 2499, 2500, 2501, 2900, 6000, 9998])
def test_searches_are_right_in_any_century(year: int) -> None:
    zone = ZoneInfo("Europe/Berlin")
    schedule = compile_schedule(ScheduleSpec(cron="30 2 * * *", tz="Europe/Berlin"), anchor_ms=0).schedule
    moment = dt.datetime(year, 1, 1, tzinfo=dt.UTC)
    moved = 0
    for _ in range(366):
        following = schedule.next_after(moment)
        assert following is not None
        assert schedule.last_at_or_before(following) == following
        assert schedule.last_at_or_before(following - dt.timedelta(milliseconds=1)) != following
        wall = following.astimezone(zone)
        moved += (wall.hour, wall.minute) == (3, 0)
        assert (wall.hour, wall.minute, wall.fold) in {(2, 30, 0), (3, 0, 0)}
        moment = following
    assert moved == 1


def test_there_is_one_object_for_a_name_and_none_for_an_unknown_one() -> None:
    assert zone_named("Europe/Berlin") is zone_named("Europe/Berlin")
    for name in (
        "",
        "x",
        "Europe",
        "../etc/passwd",
        "/etc/passwd",
        "a\x00b",
        "localtime",
        "right/UTC",
        "x" * 999,
        "\u00e9",
    ):
        with pytest.raises(ValidationError, match="unknown time zone"):
            zone_named(name)


def test_schedules_follow_when_zone_data_is_read_again() -> None:
    schedule = compile_schedule(ScheduleSpec(cron="0 9 * * *", tz="Asia/Tokyo"), anchor_ms=0).schedule
    zone = zone_named("Asia/Tokyo")
    at = 1_800_000_000_000
    proper = schedule.next_after_ms(at)
    zone._info = ZoneInfo("Asia/Kolkata")  # as if the data had been older
    zone._kept, zone.table = (), zone.table._replace(safe_from=0, safe_until=0)
    assert schedule.next_after_ms(at) != proper
    clear_cache()
    assert schedule.next_after_ms(at) == proper


def test_what_was_worked_out_from_a_zone_is_worked_out_anew_when_its_data_is_read_again() -> None:
    calendar = CalendarSpec(weekly=(Weekly(days="*", start="00:00", end="12:00"),), tz="Asia/Tokyo")
    spec = ScheduleSpec(cron="0 * * * *", except_=(ScheduleSpec(calendar="mornings"),), jitter="10m")

    def first() -> int | None:
        compiled = compile_schedule(spec, anchor_ms=0, seed="a", calendars={"mornings": calendar})
        return compiled.schedule.next_after_ms(1_800_000_000_000)

    zone = zone_named("Asia/Tokyo")
    proper = first()
    reload_zones()
    zone._info = ZoneInfo("America/New_York")  # as if the data had been older
    zone._kept, zone.table = (), zone.table._replace(safe_from=0, safe_until=0)
    assert first() != proper
    reload_zones()
    assert first() == proper


def test_a_due_instant_that_was_kept_is_forgotten_with_the_zone_data() -> None:
    schedule = compile_schedule(ScheduleSpec(cron="0 9 * * *", tz="Asia/Tokyo", jitter="1h"), anchor_ms=0, seed="a")
    dues = schedule.schedule.dues
    zone = zone_named("Asia/Tokyo")
    at = 1_800_000_000_000
    zone._info = ZoneInfo("Asia/Kolkata")
    zone._kept, zone.table = (), zone.table._replace(safe_from=0, safe_until=0)
    wrong = dues.next_after_ms(at)
    assert wrong is not None
    clear_cache()
    fresh = compile_schedule(ScheduleSpec(cron="0 9 * * *", tz="Asia/Tokyo", jitter="1h"), anchor_ms=0, seed="a")
    assert dues.next_after_ms(wrong) == fresh.schedule.dues.next_after_ms(wrong)
