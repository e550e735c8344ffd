"""Keys, headers and times of a bucket."""

from typing import TYPE_CHECKING, cast

import pytest

from natscron.wire.kv import (
    bucket_config,
    cas_headers,
    delete_headers,
    entry_of,
    is_deleted,
    key_of,
    parse_time_ns,
    purge,
    subject_of,
)

if TYPE_CHECKING:
    from natscron.wire.line import Line


def test_keys_and_subjects_are_each_others_inverse() -> None:
    assert subject_of("b", "a.b") == "$KV.b.a.b"
    assert key_of("b", "$KV.b.a.b") == "a.b"


def test_headers_say_what_is_expected() -> None:
    assert cas_headers(None) == {}
    assert cas_headers(0, {"A": "b"}) == {"A": "b", "Nats-Expected-Last-Subject-Sequence": "0"}
    assert is_deleted(delete_headers(7))
    assert not is_deleted(None)
    assert not is_deleted({"A": "b"})
    assert is_deleted({"Nats-Marker-Reason": "MaxAge"})


@pytest.mark.parametrize(
    ("text", "ns"),
    [
        ("1970-01-01T00:00:01Z", 1_000_000_000),
        ("1970-01-01T00:00:01.5Z", 1_500_000_000),
        ("2026-11-20T11:11:36.213923642Z", 1_795_173_096_213_923_642),
        ("1970-01-01T01:00:00.000000001+01:00", 1),
        ("1969-12-31T23:00:00.25-01:00", 250_000_000),
    ],
)
def test_the_servers_times_are_read_to_the_nanosecond(text: str, ns: int) -> None:
    assert parse_time_ns(text) == ns


def test_a_stored_message_is_read() -> None:
    raw = {
        "subject": "$KV.b.k",
        "seq": 5,
        "data": "eA==",
        "time": "1970-01-01T00:00:01Z",
        "hdrs": "TkFUUy8xLjANCktWLU9wZXJhdGlvbjogREVMDQoNCg==",
    }
    entry = entry_of(raw)
    assert (entry.data, entry.seq, entry.timestamp_ns, entry.headers) == (b"x", 5, 10**9, {"KV-Operation": "DEL"})


def test_a_bucket_is_made_as_other_clients_make_it() -> None:
    config = bucket_config("b", replicas=3)
    assert config["name"] == "KV_b"
    assert config["subjects"] == ["$KV.b.>"]
    assert (config["max_msgs_per_subject"], config["discard"], config["num_replicas"]) == (1, "new", 3)
    assert config["allow_direct"] is config["deny_delete"] is config["allow_rollup_hdrs"] is True


@pytest.mark.anyio
@pytest.mark.parametrize("below", [0, 1])
async def test_a_purge_below_the_first_sequence_is_not_sent(below: int) -> None:
    """Servers up to 2.14.0 would take it for a purge of everything."""
    assert await purge(cast("Line", None), "S", "a.*", below_seq=below) == 0
