"""What a stream's configuration does to schedules is said before anything is lost."""

import re
from typing import Any

import pytest

from natscron.errors import ServerTooOldError
from natscron.messages.streamcheck import (
    config_problems,
    config_warnings,
    consumer_findings,
    covers,
    overlaps,
    report,
)
from natscron.wire.levels import Needs, ServerLevel, level_of, require

GOOD: dict[str, Any] = {
    "name": "ORDERS",
    "subjects": ["schedules.>", "orders"],
    "retention": "limits",
    "storage": "file",
    "discard": "old",
    "max_msgs": -1,
    "max_bytes": -1,
    "max_age": 0,
    "allow_direct": True,
    "allow_msg_ttl": True,
    "allow_msg_schedules": True,
    "metadata": {"_nats.level": "5", "_nats.ver": "2.15.1"},
}
HOUR_NS = 3_600_000_000_000


def test_a_stream_as_it_should_be_has_no_findings() -> None:
    found = report(GOOD, [], "schedules", version="")
    assert (found.ok, found.problems, found.warnings) == (True, (), ())
    assert (found.server, found.level, found.recurring) == ("2.15.1", 5, True)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"allow_msg_schedules": False}, "cannot be turned off again"),
        ({"subjects": ["orders"]}, r"does not hold schedules\.>"),
        ({"subjects": ["schedules.orders.>", "orders"]}, r"does not hold schedules\.>"),
        ({"retention": "interest"}, "acknowledged and not stored"),
        ({"mirror": {"name": "X"}}, "is a mirror"),
        ({"sources": [{"name": "X"}]}, "has sources"),
        ({"no_ack": True}, "cannot be known"),
        ({"sealed": True}, "sealed"),
        ({"allow_msg_counter": True}, "counter stream"),
        ({"subject_transform": {"src": ">", "dest": "x.>"}}, "nothing finds them again"),
    ],
)
def test_what_makes_schedules_impossible_is_a_problem(change: dict[str, Any], why: str) -> None:
    [problem] = config_problems(GOOD | change, "schedules")
    assert "ORDERS" in problem
    assert re.search(why, problem)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"max_msgs": 1000}, "at most 1000 messages: when it is full the oldest go without a word"),
        ({"max_bytes": 1_000_000}, "at most 1000000 bytes"),
        ({"max_age": HOUR_NS}, "a schedule further ahead than that never fires"),
        ({"discard": "new", "max_msgs": 10}, "fires into nothing"),
        ({"allow_msg_ttl": False}, "ttl= is refused"),
        ({"storage": "memory"}, "forgets all"),
        ({"allow_direct": False}, "slow"),
        ({"republish": {"dest": "copy.>"}}, "republishes everything"),
    ],
)
def test_what_loses_schedules_silently_is_a_warning_that_says_when(change: dict[str, Any], why: str) -> None:
    [warning] = config_warnings(GOOD | change)
    assert why in warning
    assert config_problems(GOOD | change, "schedules") == []


def consumer(name: str, **config: Any) -> dict[str, Any]:  # noqa: ANN401 - any JSON value
    return {"name": name, "config": config}


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"filter_subject": ">"},
        {"filter_subject": "*.orders.>"},
        {"filter_subject": "schedules.orders.a.b"},
        {"filter_subjects": ["orders", "schedules.>"]},
    ],
)
def test_a_consumer_of_a_work_queue_that_would_eat_schedules_is_a_problem(config: dict[str, Any]) -> None:
    problems, warnings = consumer_findings(GOOD | {"retention": "workqueue"}, [consumer("w", **config)], "schedules")
    assert len(problems) == 1
    assert "consumer w of stream ORDERS" in problems[0]
    assert "never fire" in problems[0]
    assert warnings == []
    problems, warnings = consumer_findings(GOOD, [consumer("w", **config)], "schedules")
    assert (problems, len(warnings)) == ([], 1)


@pytest.mark.parametrize("config", [{"filter_subject": "orders"}, {"filter_subjects": ["orders", "reports.>"]}])
def test_a_consumer_of_targets_only_is_fine(config: dict[str, Any]) -> None:
    assert consumer_findings(GOOD | {"retention": "workqueue"}, [consumer("w", **config)], "schedules") == ([], [])


@pytest.mark.parametrize(
    ("one", "other", "both"),
    [
        ("a.b", "a.b", True),
        ("a.b", "a.c", False),
        ("a.*", "a.c", True),
        ("a.*", "*.c", True),
        ("a.>", "a.b.c", True),
        ("a.>", "a", False),
        (">", "a", True),
        ("a.b.*", "a.>", True),
        ("a.b", "a.b.c", False),
    ],
)
def test_filters_overlap_when_a_subject_matches_both(one: str, other: str, both: bool) -> None:  # noqa: FBT001 - a table
    assert overlaps(one, other) is overlaps(other, one) is both


@pytest.mark.parametrize(
    ("filters", "subject", "whole"),
    [
        ([">"], "a.>", True),
        (["a.>"], "a.>", True),
        (["a.*"], "a.>", False),
        (["a.b.>"], "a.>", False),
        (["*.>"], "a.>", True),
        (["b", "a.>"], "a.b", True),
        (["a"], "a.b", False),
        ([], "a", False),
    ],
)
def test_a_filter_covers_a_subject_when_it_takes_all_of_it(filters: list[str], subject: str, whole: bool) -> None:  # noqa: FBT001 - a table
    assert covers(filters, subject) is whole


def old(level: str, version: str) -> dict[str, Any]:
    return GOOD | {"metadata": {"_nats.level": level, "_nats.ver": version}}


def test_a_server_of_2_12_is_said_to_do_single_messages_only() -> None:
    found = report(old("2", "2.12.0"), [], "schedules", version="")
    assert (found.ok, found.recurring) == (True, False)
    assert "2.12.0 fires single messages only" in found.warnings[0]


@pytest.mark.parametrize(
    ("level", "needs", "wanted"),
    [
        (ServerLevel(1, "2.11.11"), Needs.SINGLE, "nats-server 2.12.0"),
        (ServerLevel(0, "2.10.29"), Needs.SINGLE, "nats-server 2.12.0"),
        (ServerLevel(3, "2.12.8"), Needs.FULL, "nats-server 2.14.0"),
    ],
)
def test_a_server_that_is_too_old_is_refused_with_both_versions(level: ServerLevel, needs: Needs, wanted: str) -> None:
    with pytest.raises(ServerTooOldError, match=wanted) as caught:
        require(level, needs, "ORDERS")
    assert level.version in str(caught.value)


def test_a_server_is_refused_only_where_the_feature_is_needed() -> None:
    require(ServerLevel(2, "2.12.0"), Needs.SINGLE, "ORDERS")
    require(ServerLevel(4, "2.14.0"), Needs.FULL, "ORDERS")


def test_a_level_that_is_not_said_counts_as_the_oldest() -> None:
    assert level_of({}, "2.10.0") == ServerLevel(0, "2.10.0")
    assert level_of({"metadata": {"_nats.level": "x"}}) == ServerLevel(0, "")
