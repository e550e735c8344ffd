"""KV keys of jobs."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from natscron.codec import id_of, key_of


@pytest.mark.parametrize("subject", ["reports.daily", "a/b=c-d_e.F9", "x"])
def test_a_plain_subject_is_its_own_key(subject: str) -> None:
    assert key_of(subject) == subject == id_of(subject)


@pytest.mark.parametrize("subject", ["a b", "", "ü", "a..b", ".a", "a.", "_x", "=b32.me", "a$b", "a*", "A\n"])
def test_any_other_id_is_written_in_base_32(subject: str) -> None:
    key = key_of(subject)
    assert key.startswith("=b32.")
    assert key == key.lower()
    assert id_of(key) == subject


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_every_text_comes_back_from_its_key(text: str) -> None:
    assert id_of(key_of(text)) == text
