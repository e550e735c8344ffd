"""Each trap that other schedulers fell into, by what its users saw, and the tests which show that ours does not.

The threads are named as repository#number. A test that is renamed or removed fails this table.
"""

from pathlib import Path
from typing import Final

import pytest
from tests.unit.test_go_defects import names_in

_TESTS: Final = Path(__file__).resolve().parent.parent

_TRAPS: Final = "simulation/test_traps.py::test_"
_OUTSIDE: Final = "simulation/test_outside.py::test_"
_EDITS: Final = "simulation/test_edit_traps.py::test_an_edit_loses_and_repeats_nothing"
_CHANGE: Final = f"{_TRAPS}a_change_counts_from_its_own_instant"
_LATE: Final = f"{_TRAPS}after_an_hour_away_a_job_runs_its_newest_slots_and_not_hundreds"
_CLOCK_CHANGES: Final = (
    "unit/test_schedule_brute_force.py::test_slots_around_every_clock_change_are_those_of_the_oracle"
)

HELD: Final = {
    # Lost ticks.
    "a deploy, an election or a hand-over swallows the tick inside it (oban#892, river#791, good_job#1484)": [
        f"{_TRAPS}a_deploy_inside_a_tick_loses_nothing",
        f"{_TRAPS}a_rolling_deploy_loses_and_doubles_nothing",
    ],
    "a grace of a second, then a silent skip (apscheduler#292, #182, #146)": [
        "unit/test_catchup.py::test_every_old_slot_is_run_or_stands_in_exactly_one_range"
    ],
    "a slow read of the jobs loses minutes (taskiq#527)": [
        "simulation/test_review.py::test_the_planner_is_filled_before_the_lease_is_taken",
        "simulation/test_faults.py::test_no_story_of_faults_and_edits_loses_or_doubles_a_slot",
    ],
    # Doubles.
    "two processes, each a scheduler (apscheduler#256, celery#2856, taskiq#296, rq-scheduler#250)": [
        f"{_TRAPS}two_processes_send_each_run_once_and_starting_sends_none_twice"
    ],
    "an error with the lock leaves two senders (redbeat#208, #129)": [
        f"{_TRAPS}a_leader_that_was_suspended_over_its_lease_sends_nothing_when_it_wakes",
        "simulation/test_review.py::test_one_lost_answer_to_a_renewal_does_not_end_the_term",
    ],
    # Silence.
    "stopped, and only a restart helps (django-celery-beat#824, quartz#1516)": [
        f"{_TRAPS}the_store_away_for_a_while_needs_no_restart",
        f"{_OUTSIDE}a_class_that_fails_for_a_while_stops_neither_its_own_job_for_good_nor_any_other",
    ],
    "a lost lock ends the process (redbeat#230); a leader half started after an error (river#1161)": [
        "simulation/test_review.py::test_whatever_opening_the_link_raises_the_next_try_leads"
    ],
    "one bad entry stops all (taskiq#669, oban#1095)": [
        f"{_TRAPS}one_bad_job_stops_nobody",
        f"{_OUTSIDE}a_job_that_becomes_invalid_is_on_record_whoever_leads",
    ],
    "a run stays running for months (river#1258); a busy queue thins the schedule (Weedbox)": [
        f"{_TRAPS}workers_that_never_answer_hold_up_nobody_and_no_run_stays_running"
    ],
    "more than a hundred missed starts stop a job for good (kubernetes#42649)": [_LATE],
    # Clock changes and zones.
    "an endless loop in the fold (apscheduler#1021, #980)": [
        "unit/test_schedule_work.py::test_the_hardest_search_is_bounded_by_the_clock_changes_of_fifty_years"
    ],
    "a day or an hour skipped or repeated (apscheduler#606, celery#6438, systemd#8647, prefect#7381)": [
        _CLOCK_CHANGES,
        "unit/test_schedule_cron_dialect.py::test_clock_changes_follow_the_kind_of_expression_unless_told_otherwise",
    ],
    "a result before the start (cronsim)": [
        "unit/test_schedule_properties.py::test_the_next_slot_is_strictly_later_and_looking_back_from_it_finds_it"
    ],
    "changes by half an hour are wrong (Lord Howe, in every library tried)": [_CLOCK_CHANGES],
    "zone data as old as the process": [f"{_OUTSIDE}a_running_leader_fires_by_new_zone_data_without_a_restart"],
    # Edits; each of these tests is played with a leader and in a second without one.
    "an edit runs today's slot again (oban#1156, dagster#13597); resuming back-fills (dagster#7010)": [_EDITS, _CHANGE],
    "removed and added again, a job has no next run (bullmq#3063, Weedbox)": [_CHANGE],
    "an update keeps the old data (bullmq#3095)": [
        "simulation/test_edit_traps.py::test_an_edit_of_the_target_holds_for_every_run_that_follows"
    ],
    "an unchanged job registered at boot loses its next run (Weedbox); several at once race (bullmq#3381)": [
        f"{_TRAPS}saving_an_unchanged_job_at_every_boot_neither_loses_nor_repeats_its_next_run",
        _EDITS,
    ],
    # Chains.
    "each run schedules the next, until one does not (bullmq, Weedbox)": [
        "unit/test_planner.py::test_a_takeover_begins_behind_the_mark",
        "simulation/test_faults.py::test_no_story_of_faults_and_edits_loses_or_doubles_a_slot",
    ],
    # Storms.
    "hundreds of runs after a day off (hangfire#1591); everything at once after an outage": [
        _LATE,
        "unit/test_planner_silent.py::test_a_take_stays_within_its_limit_however_much_is_to_be_caught_up_with",
    ],
    "a reconnect floods what nobody wants any more": [
        f"{_TRAPS}a_reconnect_does_not_flood_messages_that_nobody_wants_any_more"
    ],
    # Scale.
    "a thousand due together take seconds, and any change stalls (django-celery-beat#650, #675, #786, dkron#1828)": [
        f"{_TRAPS}many_jobs_due_together_leave_together_and_none_starves",
        "unit/test_table_calendars.py::test_a_calendar_of_many_jobs_is_worked_into_them_aside_and_taken_over_at_once",
    ],
    # Drift, six fields, never, clocks, input.
    "an interval counts from the end of the run (django-celery-beat#307, schedule#285, Weedbox)": [
        f"{_TRAPS}an_interval_does_not_drift"
    ],
    "a star in the seconds means sixty runs in a row (ofelia#234, #188)": [
        "unit/test_schedule_cron_dialect.py::test_a_seconds_field_of_star_is_taken_with_a_warning"
    ],
    "30 February is taken, and fires at every tick or never": [
        "unit/test_schedule_cron_dialect.py::test_what_means_nothing_is_refused_with_its_reason_in_both_modes"
    ],
    "clocks step back, hosts are suspended (systemd#8231)": [
        f"{_TRAPS}a_clock_that_steps_back_fires_nothing_twice_and_one_that_steps_forward_loses_nothing",
        "simulation/test_faults.py::test_clocks_that_are_off_lose_nothing",
    ],
    "a text ends the process, or takes minutes": [
        "fuzz/test_fuzz.py::test_any_input_gives_a_result_or_the_documented_error",
        "unit/test_schedule_work.py::test_the_longest_expression_that_is_read_is_read_once",
    ],
    "a class that was renamed breaks the rows of its jobs, or runs what they say (apscheduler, taskiq-nats)": [
        f"{_OUTSIDE}a_kind_that_nobody_registered_is_reported_kept_and_not_fired"
    ],
}


@pytest.mark.parametrize("trap", HELD)
def test_the_trap_has_its_tests(trap: str) -> None:
    for test in HELD[trap]:
        file, _, name = test.partition("::")
        assert name in names_in(_TESTS / file)
