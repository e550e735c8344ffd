"""Ids of runs: the same in every process, different for everything that differs."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from natscron.ids import ULID_LENGTH, RunIds, keyed_run_id, ulid, ulid_time_ms

SLOT = 1_800_000_000_123


def test_a_slots_id_is_the_one_it_always_had() -> None:
    # Written down: another value would run every slot of a rolling upgrade twice.
    assert RunIds("prod", "reports.daily", 42).at(SLOT) == "01MCC5RM3VBFAWMKHGABFJ8DRR"


def test_a_run_id_depends_on_namespace_job_generation_and_slot_and_on_where_they_end() -> None:
    made = {
        RunIds("a", "b", 1).at(SLOT),
        RunIds("a", "b", 2).at(SLOT),
        RunIds("a", "c", 1).at(SLOT),
        RunIds("b", "b", 1).at(SLOT),
        RunIds("a", "b", 1).at(SLOT + 1),
        RunIds("ab", "", 1).at(SLOT),
        RunIds("", "ab", 1).at(SLOT),
        RunIds("a", "b1", 1).at(SLOT),
        RunIds("a", "b", 11).at(SLOT),
    }
    assert len(made) == 9


def test_a_keyed_id_is_that_of_its_fields() -> None:
    assert keyed_run_id(SLOT, "a", "b") == keyed_run_id(SLOT, "a", "b")
    assert keyed_run_id(SLOT, "a", "b") != keyed_run_id(SLOT, "ab", "")
    assert ulid_time_ms(keyed_run_id(SLOT, "a")) == SLOT


def test_random_ids_differ_and_carry_their_time() -> None:
    made = {ulid(SLOT) for _ in range(1_000)}
    assert len(made) == 1_000
    assert {ulid_time_ms(one) for one in made} == {SLOT}


def test_instants_outside_of_48_bits_are_clamped_and_still_told_apart() -> None:
    ids = RunIds("n", "j", 1)
    assert ulid_time_ms(ids.at(-5)) == 0
    assert ulid_time_ms(ids.at(1 << 48)) == (1 << 48) - 1
    assert len({ids.at(-5), ids.at(-6), ids.at(0)}) == 3


@given(st.lists(st.integers(0, (1 << 48) - 1), min_size=2, max_size=5, unique=True), st.text(), st.integers(0))
def test_ids_sort_by_time_and_give_it_back(instants: list[int], job: str, generation: int) -> None:
    ids = RunIds("n", job, generation)
    made = [ids.at(instant) for instant in sorted(instants)]
    assert made == sorted(made)
    assert [ulid_time_ms(one) for one in made] == sorted(instants)
    assert all(len(one) == ULID_LENGTH for one in made)


@pytest.mark.parametrize(
    "text", ["", "0" * 25, "0" * 27, "8" + "0" * 25, "0" * 25 + "U", "0" * 25 + "l", "0" * 25 + "\xb2"]
)
def test_what_is_no_ulid_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not a ULID"):
        ulid_time_ms(text)
