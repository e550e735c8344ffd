"""Payloads as the table keeps them: smaller, and never seen by anybody who asks for the value."""

import sys
from typing import Any

import msgspec
import pytest

from natscron.codec import body_of, encode_row, job_to_json, packed, successor, unpacked
from natscron.codec.packed import Packed
from natscron.engine.table import JobTable
from natscron.model import Claim, Job, ScheduleSpec
from natscron.worker.event import JobEvent

SPEC = ScheduleSpec(every="1h")
VALUES: list[Any] = [
    {"a": 1},
    {"type": "text", "data": "x"},
    [1, [2.5, None, "\u00e9"]],
    {},
    [],
    {"n": {"m": [True]}},
    [(1 << 70) + 1, 1e22, -0.0],
]
KEPT: list[Any] = ["text", 3, 2.5, True, None, msgspec.UNSET, "\ud800", {"half": "\ud800"}]


@pytest.mark.parametrize("value", [*VALUES, *KEPT])
def test_a_job_says_the_same_with_its_payload_packed(value: object) -> None:
    job = Job(id="a.b", schedule=SPEC, payload=value)
    small = packed(job)
    assert unpacked(small.payload) == value
    assert job_to_json(small) == job_to_json(job)


@pytest.mark.parametrize("value", VALUES)
def test_its_messages_and_its_row_are_the_same(value: object) -> None:
    job = Job(id="a.b", schedule=SPEC, payload=value)
    assert body_of(packed(job), "run") == body_of(job, "run")
    assert encode_row(packed(job)) == encode_row(job)


@pytest.mark.parametrize("value", VALUES)
def test_objects_and_lists_take_less_memory(value: object) -> None:
    small = packed(Job(id="a.b", schedule=SPEC, payload=value)).payload
    assert type(small) is Packed
    assert sys.getsizeof(small) < 120


@pytest.mark.parametrize("value", KEPT)
def test_what_is_small_already_or_no_text_can_say_is_left(value: object) -> None:
    job = Job(id="a.b", schedule=SPEC, payload=value)
    assert packed(job) is job


def test_the_table_packs_and_a_store_is_given_the_value() -> None:
    table = JobTable(10_000_000)
    table.put(Job(id="a.b", schedule=SPEC, payload={"a": [1]}, revision=1))
    entry = table.get("a.b")
    assert entry is not None
    assert type(entry.row.payload) is Packed
    assert entry.row is entry.job
    assert successor(entry.row, entry.row).payload == {"a": [1]}


def test_a_handler_is_given_a_value_of_its_own() -> None:
    job = packed(Job(id="a.b", schedule=SPEC, payload={"a": [1]}))
    claim = Claim(run_id="r", job="a.b", generation=0, scheduled_at_ms=1, due_ms=1, attempt=1)
    event = JobEvent(claim, job, 1, lambda row: row)
    event.payload["a"].append(2)
    assert event.payload == {"a": [1]}
