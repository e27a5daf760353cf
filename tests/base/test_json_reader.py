"""Untrusted JSON: accepted input is what the json module reads, and every limit holds."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmbuild.base.json_reader import JsonProblemError, parse_json
from mmbuild.base.limits import LIMITS, Limit

LIMIT = Limit("a test", 1000, 4, 20, 30, "of these tests")
WIDE = Limit("a test", 100_000, 64, 10_000, 10_000, "of these tests")
PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**30), 10**30) | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@given(PLAIN, st.booleans(), st.sampled_from([None, 1]))
def test_plain_data_is_read_as_the_json_module_reads_it(
    value: object, ascii_only: bool, indent: int | None
) -> None:
    try:
        text = json.dumps(value, ensure_ascii=ascii_only, indent=indent, allow_nan=False).encode()
        json.dumps(value, ensure_ascii=False).encode()
    except (ValueError, UnicodeEncodeError):
        return  # an infinity, or half of a surrogate pair
    assert parse_json(text, WIDE) == json.loads(text)


@given(
    st.binary(max_size=60) | st.text(alphabet='{}[]",:0123456789eE+-.tfn \\uaN', max_size=60).map(str.encode)
)
def test_what_is_accepted_is_what_the_json_module_reads(text: bytes) -> None:
    try:
        found = parse_json(text, WIDE)
    except JsonProblemError:
        return
    assert found == json.loads(text.decode())
    json.dumps(found, allow_nan=False, ensure_ascii=False).encode()


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (b"", "is empty"),
        (b"  \n", "is empty"),
        (b"{", "is not JSON"),
        (b"[1] 2", "is not JSON"),
        (b"\xff", "is not UTF-8"),
        (b"\xef\xbb\xbf{}", "byte order mark"),
        (b"NaN", "NaN"),
        (b'{"a": Infinity}', "Infinity"),
        (b"[-Infinity]", "-Infinity"),
        (b"1e999", "too large for a float"),
        (b"[-1e400]", "too large for a float"),
        (b"9" * 41, "41 digits"),
        (b'"\\ud800"', "surrogate"),
        (b'{"\\udfff": 1}', "surrogate"),
        (b'{"a": ["\\ud83d"]}', "surrogate"),
        (b"[[[[[1]]]]]", "nested deeper than 4"),
        (b'{"a":{"a":{"a":{"a":{"a":1}}}}}', "nested deeper than 4"),
        (b"[" + b"1," * 20 + b"1]", "more than 20 values"),
        (b'["' + b"a" * 31 + b'"]', "more than 30 characters"),
        (b'{"' + b"a" * 31 + b'":1}', "more than 30 characters"),
        (b'"' + b"a" * 31 + b'"', "more than 30 characters"),
        (b" " * 1001, "larger than 1,000 bytes"),
        (b"[" * 900, "values"),
    ],
)
def test_what_is_beyond_plain_json_is_refused(text: bytes, problem: str) -> None:
    with pytest.raises(JsonProblemError, match=problem):
        parse_json(text, LIMIT)


def test_a_whole_surrogate_pair_is_a_character() -> None:
    assert parse_json(b'"\\ud83d\\ude00"', LIMIT) == "\U0001f600"


def test_nesting_that_overflows_a_stack_is_refused() -> None:
    deep = Limit("a test", 10_000_000, 64, 10_000_000, 10, "of these tests")
    with pytest.raises(JsonProblemError, match="nested deeper than 64"):
        parse_json(b"[" * 200_000 + b"]" * 200_000, deep)


def test_a_duplicate_name_is_refused_where_it_matters() -> None:
    text = b'{"a": 1, "b": {"c": 1, "c": 2}}'
    assert parse_json(text, LIMIT) == {"a": 1, "b": {"c": 2}}
    with pytest.raises(JsonProblemError, match="`c` twice"):
        parse_json(text, LIMIT, unique_names=True)


@pytest.mark.parametrize("limit", LIMITS, ids=lambda limit: limit.kind)
def test_every_row_of_the_table_has_room_and_a_reason(limit: Limit) -> None:
    assert 0 < limit.depth <= 64
    assert limit.length <= limit.size
    assert limit.why
