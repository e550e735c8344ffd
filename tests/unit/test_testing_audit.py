"""The comparison behind the failure tests finds what it is there to find."""

from natscron.model import ScheduleSpec
from natscron.testing.audit import Arrival, Range, Stretch, audit

JOB = Stretch.of("a", ScheduleSpec(every="1s"), anchor_ms=0, after_ms=0)
ALL = [Arrival("a", f"r{slot}", slot, slot + 1.0) for slot in (1000, 2000, 3000)]


def test_what_arrived_once_is_settled() -> None:
    verdict = audit([JOB], [ALL], 3999)
    assert (verdict.owed, verdict.settled, verdict.copies, verdict.broken()) == (3, 3, 0, "")


def test_a_slot_that_did_not_arrive_is_lost_unless_a_record_says_why() -> None:
    views = [[ALL[0], ALL[2]]]
    assert audit([JOB], views, 3000).lost == [("a", 2000)]
    assert "1 lost" in audit([JOB], views, 3000).broken()
    verdict = audit([JOB], views, 3000, [Range("a", 2000, 2000, "catchup_latest")])
    assert (verdict.lost, verdict.skipped) == ([], [("a", 2000)])


def test_a_slot_that_ran_although_a_record_says_it_did_not_is_told() -> None:
    assert audit([JOB], [ALL], 3000, [Range("a", 2000, 2000, "x")]).skipped_and_run == [("a", 2000)]


def test_a_slot_under_two_ids_and_one_that_no_schedule_has_are_told() -> None:
    more = [Arrival("a", "other", 2000, 0.0), Arrival("a", "odd", 2500, 0.0), Arrival("b", "b", 1000, 0.0)]
    verdict = audit([JOB], [ALL, more], 3000)
    assert verdict.two_ids == [("a", 2000)]
    assert verdict.strangers == [("a", 2500), ("b", 1000)]


def test_an_id_counts_as_often_as_the_view_that_saw_it_most() -> None:
    verdict = audit([JOB], [[*ALL, ALL[0], ALL[0]], ALL, [ALL[0], ALL[0]]], 3000)
    assert (verdict.doubles, verdict.copies, verdict.broken()) == ({"r1000": 2}, 2, "")


def test_a_stretch_ends_with_its_last_slot_and_begins_after_its_first_instant() -> None:
    stretches = [
        Stretch.of("a", ScheduleSpec(every="1s"), anchor_ms=0, after_ms=1000, until_ms=2000),
        Stretch.of("a", ScheduleSpec(every="3s"), anchor_ms=0, after_ms=2000),
    ]
    assert [slot for stretch in stretches for slot in stretch.slots(6000)] == [2000, 3000, 6000]
    assert audit(stretches, [ALL], 5000).strangers == [("a", 1000)]
