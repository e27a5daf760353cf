"""Untrusted YAML as plain data, within limits."""

from __future__ import annotations

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from mmbuild.base.limits import Limit
from mmbuild.base.yaml_reader import YamlProblemError, parse_yaml

LIMIT = Limit("a test", 2000, 4, 40, 30, "of these tests")
BOMB = b"a: &a [1,1,1,1,1,1]\nb: &b [*a,*a,*a,*a,*a,*a]\nc: [*b,*b,*b,*b,*b,*b]\n"
PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**15), 10**15) | st.text("ab: #\n", max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text("abc", min_size=1), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(PLAIN)
def test_plain_data_is_read_as_it_was_written(value: object) -> None:
    wide = Limit("a test", 100_000, 32, 10_000, 10_000, "of these tests")
    assert parse_yaml(yaml.safe_dump(value, allow_unicode=True).encode(), wide) == value


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (b"\xff", "not UTF-8"),
        (b"a: [", "not valid YAML"),
        (b"a: \x1b[31m", "not valid YAML"),
        (b"!!python/object/apply:os.system ['true']", "not valid YAML"),
        (b"a: " + b"9" * 25 + b"\nb: 2024-13-45", "cannot be read"),
        (b"? [a]\n: b", "cannot be read|not valid YAML"),
        (b"[[[[[1]]]]]", "nested deeper than 4"),
        (b"[" + b"1," * 45 + b"1]", "more than 40 values"),
        (b"a: " + b"x" * 31, "more than 30 characters"),
        (b"#" * 2001, "larger than 2,000 bytes"),
        (BOMB, "without end"),
        (b"&a [*a]", "without end|nested deeper"),
        (b"a: &a {b: *a}", "without end|nested deeper"),
        (b"a: !!set {b}", "not plain data"),
        (b"a: !!binary aGk=", "not plain data"),
    ],
)
def test_what_is_beyond_plain_data_is_refused(text: bytes, problem: str) -> None:
    with pytest.raises(YamlProblemError, match=problem):
        parse_yaml(text, LIMIT)


def test_a_date_is_a_text() -> None:
    assert parse_yaml(b"a: 2024-01-02", LIMIT) == {"a": "2024-01-02"}


def test_nesting_that_overflows_a_stack_is_refused() -> None:
    wide = Limit("a test", 10_000_000, 32, 10_000_000, 30, "of these tests")
    with pytest.raises(YamlProblemError, match=r"nested deeper than 32|maximum nesting"):
        parse_yaml(b"[" * 100_000, wide)
