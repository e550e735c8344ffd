"""Unions, exclusions and bounds against set arithmetic on every slot of a span, forwards and backwards."""

from bisect import bisect_right
from typing import NamedTuple

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from natscron.errors import InvalidScheduleError
from natscron.model import ScheduleSpec
from natscron.schedule import Schedule, compile_schedule, format_instant, parse_instant
from natscron.schedule.exclusion import Exclusion, taken_by_calendar, taken_by_schedule

_SPAN_S = 5_400
_CHANGES = {
    "Europe/Berlin": ("2030-03-31T01:00:00Z", "2030-10-27T01:00:00Z"),
    "America/New_York": ("2030-03-10T07:00:00Z", "2030-11-03T06:00:00Z"),
    "Australia/Lord_Howe": ("2030-10-05T15:30:00Z", "2030-04-06T15:00:00Z"),
    "UTC": ("2030-06-01T00:00:00Z", "2030-12-31T23:30:00Z"),
}


class Walked(NamedTuple):
    """The slots of a span, found by looking at each instant in it."""

    start_ms: int
    end_ms: int
    slots: list[int]


def plain_slots(spec: ScheduleSpec, start_ms: int, end_ms: int, anchor_ms: int) -> set[int]:
    """The slots of a schedule of one kind, whose own searches other tests compare with walks over every second."""
    schedule = compile_schedule(spec, anchor_ms=anchor_ms).schedule
    found = set()
    slot = schedule.next_after_ms(start_ms - 1)
    while slot is not None and slot < end_ms:
        found.add(slot)
        slot = schedule.next_after_ms(slot)
    return found


def walked(spec: ScheduleSpec, start_ms: int, end_ms: int, anchor_ms: int) -> Walked:
    """Set arithmetic over a span: what the words of the dialect say."""
    members = spec.any or (
        ScheduleSpec(every=spec.every, cron=spec.cron, tz=spec.tz, dst_gap=spec.dst_gap, dst_fold=spec.dst_fold),
    )
    slots: set[int] = set()
    for member in members:
        slots |= plain_slots(member, start_ms, end_ms, anchor_ms)
    if spec.run_at_start and start_ms <= anchor_ms < end_ms:
        slots.add(anchor_ms)
    for item in spec.except_:
        slots -= plain_slots(item, start_ms, end_ms, anchor_ms)
    if spec.not_before:
        slots = {slot for slot in slots if slot >= parse_instant(spec.not_before)}
    for text in (spec.not_after, spec.last_slot):
        if text:
            slots = {slot for slot in slots if slot <= parse_instant(text)}
    return Walked(start_ms, end_ms, sorted(slots))


def check(schedule: Schedule, expected: Walked, instants: list[int]) -> None:
    """Both searches and the count at each of these instants, where the walked span can tell the answer.

    A search may give up, if it says so.
    """
    slots = expected.slots
    for t in instants:
        place = bisect_right(slots, t)
        after = slots[place] if place < len(slots) else None
        found = schedule.next_after_ms(t)
        if found is None and schedule.failure is not None:
            assert "takes too long" in schedule.failure
            continue
        assert found == after if after is not None else found is None or found >= expected.end_ms, (t, found, after)
        before = slots[place - 1] if place else None
        found = schedule.last_at_or_before_ms(t)
        if found is None and schedule.failure is not None:
            assert "takes too long" in schedule.failure
            continue
        assert found == before if before is not None else found is None or found < expected.start_ms, (t, found, before)
        end = min(t + 300_000, expected.end_ms - 1)
        counted = bisect_right(slots, end) - place
        found = schedule.count(t, end, 10_000)
        if schedule.failure is not None:
            continue
        assert found == counted
        assert schedule.count(t, end, 3) == min(counted, 3)


def crons(tz: str) -> st.SearchStrategy[ScheduleSpec]:
    second = st.sampled_from(["0", "*", "*/10", "30", "0-29", "0,15"])
    minute = st.sampled_from(["*", "*/5", "0", "30", "0-29", "7-50/3", "1,2,59"])
    hour = st.sampled_from(["*", "*", "0-2", "1", "2", "*/2", "22-3"])
    day = st.sampled_from(["*", "*", "*", "1", "L", "27-31"])
    dow = st.sampled_from(["*", "*", "SUN", "MON-SAT", "5L"])
    return st.builds(
        lambda s, m, h, d, w, gap, fold: ScheduleSpec(
            cron=f"{s} {m} {h} {d} * {w}", tz=tz, dst_gap=gap, dst_fold=fold
        ),
        second, minute, hour, day, dow,
        st.sampled_from([None, "run_after", "skip", "shift"]),
        st.sampled_from([None, "first", "last", "both"]),
    )  # fmt: skip


INTERVALS = st.sampled_from(["1m", "90s", "5m", "1h", "45s", "7s", "30m", "1500ms", "333ms"]).map(
    lambda text: ScheduleSpec(every=text)
)


@st.composite
def wholes(draw: st.DrawFn) -> tuple[ScheduleSpec, int, int]:
    """A schedule, the middle of a span near a clock change, and a creation."""
    tz = draw(st.sampled_from(sorted(_CHANGES)))
    middle = parse_instant(draw(st.sampled_from(_CHANGES[tz])))
    other = draw(st.sampled_from([tz, tz, "UTC", "Asia/Kathmandu"]))
    anchor = middle + draw(st.sampled_from([0, -3_600_000, -1_800_000, 7_000, 500, -86_400_000 * 30]))
    part = st.one_of(crons(tz), crons(tz), crons(other), INTERVALS)
    members = tuple(draw(st.lists(part, min_size=1, max_size=3)))
    fields: dict[str, object] = {}
    if len(members) == 1:
        one = members[0]
        fields |= {"cron": one.cron, "every": one.every, "tz": one.tz, "dst_gap": one.dst_gap, "dst_fold": one.dst_fold}
    else:
        fields["any"] = members
    fields["except_"] = tuple(
        # what an excluded schedule leaves to the whole is tested on its own
        ScheduleSpec(cron=item.cron, every=item.every, tz=item.tz, dst_gap=item.dst_gap, dst_fold=item.dst_fold)
        for item in draw(st.lists(part, max_size=3))
    )
    shifts = st.integers(-_SPAN_S // 2, _SPAN_S // 2).map(lambda s: format_instant(middle + s * 1000))
    if draw(st.booleans()):
        fields["not_before"] = draw(shifts)
    if draw(st.booleans()):
        fields["last_slot" if draw(st.booleans()) else "not_after"] = draw(shifts)
    fields["run_at_start"] = draw(st.booleans())
    if fields["run_at_start"] and "every" in fields and fields.get("every"):
        fields["run_at_start"] = False
    return ScheduleSpec(**fields), middle, anchor  # type: ignore[arg-type]


def explicit(spec: ScheduleSpec) -> ScheduleSpec:
    """The parts with the rules they inherit written out."""
    if spec.any or not spec.cron:
        return spec
    return msgspec.structs.replace(
        spec,
        except_=tuple(
            msgspec.structs.replace(item, dst_gap=item.dst_gap or spec.dst_gap, dst_fold=item.dst_fold or spec.dst_fold)
            if item.cron
            else item
            for item in spec.except_
        ),
    )


@settings(max_examples=400, deadline=None)
@given(wholes(), st.lists(st.integers(-_SPAN_S * 1000, _SPAN_S * 1000 - 1), min_size=4, max_size=8))
def test_every_combination_has_the_slots_that_a_walk_finds(
    whole: tuple[ScheduleSpec, int, int], offsets: list[int]
) -> None:
    spec, middle, anchor = whole
    try:
        schedule = compile_schedule(spec, anchor_ms=anchor).schedule
    except InvalidScheduleError as error:
        assert "never runs" in str(error) or "takes too long" in str(error) or "no slot is left" in str(error)  # noqa: PT017 - others are defects
        return
    start, end = middle - _SPAN_S * 1000, middle + _SPAN_S * 1000
    expected = walked(explicit(spec), start, end, anchor)
    instants = sorted({middle + offset for offset in offsets} | {start, middle - 1, middle, middle + 1})
    check(schedule, expected, [*instants, *expected.slots[:: len(expected.slots) // 6 + 1]])


class Spans:
    """Windows as a list of half-open spans that do not touch."""

    def __init__(self, spans: list[tuple[int, int]]) -> None:
        self.spans = spans

    def covering_ms(self, t_ms: int) -> tuple[int, int] | None:
        return next(((start, end) for start, end in self.spans if start <= t_ms < end), None)


@settings(max_examples=100, deadline=None)
@given(
    st.sampled_from([ScheduleSpec(every="250ms"), ScheduleSpec(every="7s"), ScheduleSpec(cron="*/2 * * * * *")]),
    st.lists(st.integers(0, 100_000), min_size=2, max_size=10, unique=True),
    st.lists(st.integers(-2_000, 102_000), min_size=1, max_size=6),
)
def test_what_falls_into_windows_is_left_out(main: ScheduleSpec, edges: list[int], instants: list[int]) -> None:
    origin = parse_instant("2030-01-01T00:00:00Z")
    edges = [origin + edge for edge in sorted(edges)[: len(edges) // 2 * 2]]
    spans = list(zip(edges[::2], edges[1::2], strict=True))
    inner = compile_schedule(main, anchor_ms=origin - 3_000).schedule
    twice = compile_schedule(ScheduleSpec(every="1s"), anchor_ms=origin).schedule
    schedule = Exclusion((inner,), (taken_by_calendar(Spans(spans)), taken_by_schedule(twice, (inner,))))
    start, end = origin - 3_000, origin + 103_000
    slots = [
        slot
        for slot in sorted(plain_slots(main, start, end, origin - 3_000))
        if not any(low <= slot < high for low, high in spans) and (slot <= origin or slot % 1000)
    ]
    check(schedule, Walked(start, end, slots), [origin + t for t in instants])


def test_slots_that_a_gap_moves_onto_others_are_taken_in_one_piece_as_well() -> None:
    middle = parse_instant("2030-03-31T01:00:00Z")
    taken = ScheduleSpec(cron="* * 2 * * *", tz="Europe/Berlin", dst_gap="shift")
    for main in (
        ScheduleSpec(cron="* * * * * *", tz="Europe/Berlin"),
        ScheduleSpec(cron="* * 2-3 * * *", tz="Europe/Berlin", dst_gap="shift"),
        ScheduleSpec(every="1s", start_at="2030-01-01T00:00:00Z"),
    ):
        spec = msgspec.structs.replace(main, except_=(taken,))
        start, end = middle - 1_800_000, middle + 5_400_000
        expected = walked(ScheduleSpec(any=(main,), except_=(taken,)), start, end, 0)
        assert not [slot for slot in expected.slots if middle <= slot < middle + 3_600_000]
        instants = [middle - 2_000, middle - 1, middle, middle + 1_800_500, middle + 3_599_999, middle + 3_600_000]
        check(compile_schedule(spec, anchor_ms=0).schedule, expected, instants)


def test_a_start_is_not_the_last_slot_where_the_search_for_later_ones_gave_up() -> None:
    members = (
        ScheduleSpec(cron="0-29 0 22-3 1 * MON-SAT", tz="Europe/Berlin", dst_gap="skip", dst_fold="first"),
        ScheduleSpec(every="30m"),
        ScheduleSpec(every="7s"),
    )
    start = 1_901_147_400_000
    spec = ScheduleSpec(run_at_start=True, any=members, except_=(ScheduleSpec(every="7s"),))
    schedule = compile_schedule(spec, anchor_ms=start).schedule
    assert schedule.last_at_or_before_ms(start + 5_400_000) == start + 5_400_000
    assert schedule.last_at_or_before_ms(start + 7_199_999) is None
    assert "takes too long" in str(schedule.failure)
    assert schedule.last_at_or_before_ms(start) == start


def test_a_count_that_gave_up_says_so_with_a_start_too() -> None:
    quick = ScheduleSpec(every="333ms")
    members = (ScheduleSpec(cron="*/10 1,2,59 */2 27-31 * 5L", tz="Europe/Berlin", dst_gap="shift"), quick, quick)
    spec = ScheduleSpec(
        run_at_start=True,
        any=members,
        except_=(quick,),
        not_before="2030-03-31T01:00:00Z",
        not_after="2030-03-31T01:02:01Z",
    )
    schedule = compile_schedule(spec, anchor_ms=1_901_149_200_500).schedule
    schedule.count(1_901_149_200_000, 1_901_149_320_000, 10_000)
    assert "takes too long" in str(schedule.failure)
