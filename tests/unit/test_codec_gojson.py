"""JSON is read as the Go version reads it, and nothing but the declared error ever comes out."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from natscron.codec.gojson import MAX_DEPTH, decode, fold, normalise
from natscron.codec.job import parse_job
from natscron.codec.row import decode_row
from natscron.errors import MalformedInputError, ValidationError
from natscron.model import Stamp


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"", "unexpected end of JSON input"),
        (b"{", "unexpected end of JSON input"),
        (b'{"a":"b', "unexpected end of JSON input"),
        (b"[1,2", "unexpected end of JSON input"),
        (b"{b", "invalid character 'b' looking for beginning of object key string"),
        (b'{"a":1,}', "invalid character '}' looking for beginning of object key string"),
        (b"{'a':1}", r"invalid character '\'' looking for beginning of object key string"),
        (b"nope", "invalid character 'o' in literal null (expecting 'u')"),
        (b"*", "invalid character '*' looking for beginning of value"),
        (b"[1 2]", "invalid character '2' after array element"),
        (b'{"a" 1}', "invalid character '1' after object key"),
        (b'{"a":1 "b"}', "invalid character '\"' after object key:value pair"),
        (b"{} trailing", "invalid character 't' after top-level value"),
        (b"01", "invalid character '1' after top-level value"),
        (b"-x", "invalid character 'x' in numeric literal"),
        (b"1.x", "invalid character 'x' after decimal point in numeric literal"),
        (b"1ex", "invalid character 'x' in exponent of numeric literal"),
        (b'"\\ux"', "invalid character 'x' in \\u hexadecimal character escape"),
        (b'"\\q"', "invalid character 'q' in string escape code"),
        (b'"\n"', "invalid character '\\n' in string literal"),
        (b"\x00", "invalid character '\\x00' looking for beginning of value"),
    ],
)
def test_broken_json_gets_the_text_a_go_decoder_gives(data: bytes, text: str) -> None:
    with pytest.raises(MalformedInputError) as caught:
        decode(data)
    assert str(caught.value) == text


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"[]", "json: cannot unmarshal array into Go value of type scheduler.JobDefinition"),
        (b'"x"', "json: cannot unmarshal string into Go value of type scheduler.JobDefinition"),
        (b'{"subject":5}', "json: cannot unmarshal number into Go struct field JobDefinition.subject of type string"),
        (
            b'{"subject":"a","schedule":{"every":true}}',
            "json: cannot unmarshal bool into Go struct field .schedule.every of type string",
        ),
        (
            b'{"subject":"a","schedule":[]}',
            "json: cannot unmarshal array into Go struct field JobDefinition.schedule of type struct",
        ),
    ],
)
def test_a_value_of_the_wrong_type_gets_the_text_a_go_decoder_gives(data: bytes, text: str) -> None:
    with pytest.raises(MalformedInputError) as caught:
        parse_job(data)
    assert str(caught.value) == text


@pytest.mark.parametrize(
    "data",
    [
        b"[" * 1_000_000,
        b'{"a":' * 100_000,
        b"[" * (MAX_DEPTH + 1) + b"]" * (MAX_DEPTH + 1),
        b"1e999",
        b"9" * 6_000,
        b'"\xff"',
        b'{"\xc3\x28":1}',
        b'"\\ud800"',
        b'"\\udc00 x"',
        b"\xef\xbb\xbf{}",
        b" " * (8 * 1024 * 1024 + 1),
    ],
)
def test_depth_size_huge_numbers_and_broken_text_are_refused_and_nothing_else_happens(data: bytes) -> None:
    with pytest.raises(MalformedInputError):
        decode(data)


def test_the_deepest_allowed_nesting_is_read() -> None:
    assert decode(b"[" * MAX_DEPTH + b"]" * MAX_DEPTH) is not None


def test_many_flat_brackets_are_not_deep() -> None:
    assert len(decode(b"[" + b",".join([b"[]"] * 1000) + b"]")) == 1000


@given(st.binary(max_size=200))
def test_random_bytes_raise_nothing_undeclared(data: bytes) -> None:
    try:
        value = decode(data)
    except MalformedInputError:
        return
    assert value == json.loads(data)


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4),
    max_leaves=10,
)
_NAMES = st.sampled_from(
    [
        *("subject", "target", "schedule", "payload", "headers", "delivery", "catchup", "overlap", "timeout", "retry"),
        *("labels", "paused", "note", "Subject", "priority", "x"),
    ]
)


@given(st.dictionaries(_NAMES, _JSON, max_size=6))
def test_any_json_in_any_field_raises_nothing_undeclared(found: dict[str, object]) -> None:
    try:
        parsed = parse_job(found)
    except (MalformedInputError, ValidationError):
        return
    assert parsed.job.id


@given(st.text(alphabet='{}[]",:0123456789.eE+-tfnulasr \\\t\x01', max_size=12))
def test_what_the_fast_reader_refuses_is_explained_or_out_of_range(text: str) -> None:
    try:
        decode(text)
    except MalformedInputError as error:
        if "unreadable JSON" in str(error):
            # Sound for the second scan: then only a range or a surrogate can be at fault.
            assert "range" in str(error) or "\\u" in text  # noqa: PT017 - the text is the subject here


def test_of_two_equal_keys_the_last_one_counts() -> None:
    assert parse_job(b'{"subject":"a","subject":"b"}').job.id == "b"
    assert decode_row("b", b'{"subject":"a","subject":"b"}', Stamp(1, 1)).invalid is None


def test_keys_match_in_any_case_and_the_last_spelling_wins() -> None:
    assert fold({"A": 1, "a": 2, "B": 3}, {"a": "a"}) == {"a": 2, "B": 3}


def test_python_values_that_json_cannot_carry_are_refused() -> None:
    with pytest.raises(MalformedInputError):
        normalise({"a": object()})
    loop: list[object] = []
    loop.append(loop)
    with pytest.raises(MalformedInputError):
        normalise(loop)
    with pytest.raises(MalformedInputError):
        normalise("\ud800")
