"""Each defect of the Go version that a user could meet, and the test which shows that ours does not have it.

A test that is renamed or removed fails this table, so that none of them goes unseen.
"""

import ast
from functools import cache
from pathlib import Path
from typing import Final

import pytest

_TESTS: Final = Path(__file__).resolve().parent.parent

HELD: Final = {
    "a leader that lost its lease goes on sending": (
        "faults/test_outages.py::test_a_leader_without_its_network_is_replaced"
    ),
    "a re-election doubles every job for good": (
        "faults/test_outages.py::test_a_restart_of_nats_delays_and_loses_nothing"
    ),
    "a suspended leader doubles every job for good": (
        "faults/test_outages.py::test_a_leader_that_was_suspended_comes_back_as_a_follower"
    ),
    "intervals fire twice at a start": "simulation/test_faults.py::test_without_faults_every_slot_arrives_exactly_once",
    "slots within a failover are lost": "faults/test_kills.py::test_kills_of_the_leader_in_a_row_lose_nothing",
    "a clean stop leaves a gap": "faults/test_kills.py::test_a_clean_stop_hands_over_without_loss_or_repeat",
    "a cold start takes half a minute": "faults/test_kills.py::test_a_job_stored_before_the_cold_start_fires",
    "a message has nothing to tell a repeat by": (
        "integration/test_server_life.py::test_a_job_made_by_the_host_program_fires"
    ),
    "what an outage held back floods out": "faults/test_outages.py::test_a_restart_of_nats_delays_and_loses_nothing",
    "a long outage leaves a process that does nothing": (
        "integration/test_server_connections.py::test_nats_that_is_away_for_long_is_waited_for_without_a_flood_of_lines"
    ),
    "TZ=UTC ends the process": (
        "integration/test_server_api.py::test_garbage_on_every_endpoint_leaves_the_service_as_it_was"
    ),
    "TZ=UTC in a stored row ends the process": (
        "integration/test_server_go_rows.py::test_rows_of_every_go_version_fire_among_rows_that_nobody_can_read"
    ),
    "a stopped server publishes on its shared connection": (
        "integration/test_server_life.py::test_a_stopped_server_leaves_nothing_on_a_shared_connection"
    ),
    "a failure leaves a leader without jobs": (
        "integration/test_storage_nats_jobs.py::test_the_watch_survives_a_killed_server"
    ),
    "an edit to a bad schedule loses the good one": (
        "unit/test_go_texts.py::test_an_update_to_a_bad_schedule_keeps_the_good_one"
    ),
    "a library ends its host's process": (
        "integration/test_server_life.py::test_a_start_without_nats_ends_when_it_was_told_to_and_leaves_nothing"
    ),
    "zero and negative intervals are taken": (
        "unit/test_go_texts.py::test_intervals_that_cannot_run_are_refused_in_gos_words"
    ),
    "a failed create looks like success": (
        "integration/test_server_api.py::test_errors_are_micro_errors_with_a_json_body"
    ),
    "failures are missing in the statistics": "integration/test_server_api.py::test_errors_count_in_the_statistics",
    "deleting an unknown job succeeds, updating it creates": (
        "unit/test_go_texts.py::test_unknown_jobs_are_not_found_by_every_call_and_nothing_is_written"
    ),
    "a deletion of an unknown job is stored": (
        "integration/test_storage_nats_jobs.py::test_deleting_an_unknown_job_writes_nothing"
    ),
    "the last writer wins unseen": "unit/test_server_api.py::test_a_write_on_an_old_revision_is_refused",
    "a.> matches a": ("unit/test_go_texts.py::test_a_pattern_ending_in_a_wildcard_for_the_rest_spares_its_own_prefix"),
    "legal subjects are refused": "unit/test_go_texts.py::test_legal_subjects_that_gos_keys_could_not_hold_are_taken",
    "an empty token costs half a second": (
        "unit/test_go_texts.py::test_subjects_that_nobody_can_publish_to_are_refused_at_once_by_every_call"
    ),
    "a list over a message's size gets no reply": (
        "unit/test_server_reads.py::test_pages_cover_everything_once_and_each_fits_in_a_message"
    ),
    "the answer depends on who gives it": (
        "integration/test_server_api.py::test_the_last_run_is_the_same_whichever_instance_answers_also_after_a_failover"
    ),
    "two services on one account answer each other's requests": (
        "integration/test_server_life.py::test_two_services_on_one_account_keep_apart"
    ),
    "whoever may create may publish anywhere": "unit/test_server_subjects.py",
    "tombstones stay for ever": (
        "integration/test_storage_nats_jobs.py::test_old_tombstones_are_purged_and_newer_rows_stay"
    ),
    "replicas are fixed at one": (
        "integration/test_storage_nats_jobs.py::test_a_bucket_with_one_replica_gets_more_in_a_cluster"
    ),
    "stopping waits for nothing": (
        "integration/test_server_connections.py::test_sigterm_amid_many_requests_answers_those_it_took_and_ends_with_0"
    ),
    "an hour that comes twice runs twice": (
        "unit/test_server_reads.py::test_preview_of_a_stored_job_shows_wall_times_and_what_clock_changes_do"
    ),
    "the commands report success on failures": "unit/test_cli_commands.py::test_a_failed_update_is_an_error",
    "deleting an unknown job reports success": (
        "unit/test_cli_commands.py::test_delete_of_an_unknown_job_is_an_error_unless_told_otherwise"
    ),
    "the commands refuse valid cron expressions": (
        "unit/test_cli_arguments.py::test_a_schedule_argument_is_told_apart_by_its_looks"
    ),
    "help needs a server": "unit/test_cli_commands.py::test_help_needs_no_service",
    "deleting a pattern cannot be scripted": (
        "unit/test_cli_commands.py::test_delete_of_a_pattern_with_yes_asks_nothing_and_counts_failures"
    ),
    "the image cannot start as its user": (
        "tutorial/test_deploy.py::test_the_image_runs_the_server_without_root_and_checks_its_health"
    ),
    "the documentation contradicts the code": (
        "tutorial/test_readme.py::test_everything_in_the_readme_works_in_the_order_it_is_written"
    ),
    "the log shows credentials": "unit/test_server_logs.py::test_no_secret_is_written_wherever_it_stands",
    "a value under another key runs and cannot be removed": (
        "integration/test_server_go_rows.py::test_rows_of_every_go_version_fire_among_rows_that_nobody_can_read"
    ),
}


@cache
def names_in(path: Path) -> frozenset[str]:
    tree = ast.parse(path.read_text())
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    return frozenset(node.name for node in tree.body if isinstance(node, kinds))


@pytest.mark.parametrize("defect", HELD)
def test_the_defect_has_a_test(defect: str) -> None:
    file, _, name = HELD[defect].partition("::")
    names = names_in(_TESTS / file)
    assert name in names if name else names
