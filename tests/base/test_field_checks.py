"""Types and ranges of fields: one sentence about the first that is wrong."""

import pytest

from mmbuild.base.field_checks import (
    digest,
    flag,
    inner_path,
    integer,
    list_of,
    mapping_of,
    number,
    one_of,
    optional,
    record,
    text,
    word,
)

WRONG = [
    (integer(0, 9), [-1, 10, 1.0, True, "1", None, [], {}, 10**40]),
    (number(0, 1), [-0.1, 1.1, float("nan"), float("inf"), True, "0", None]),
    (flag, [0, 1, "true", None]),
    (text(3), ["four", "a\0", "\ud800", 1, None, ["a"]]),
    (word, ["a\nb", "\x1b[2J", "x" * 301, 7]),
    (one_of("a", "b"), ["c", "", None, 1, ["a"], {}]),
    (digest, ["0" * 63, "G" * 64, "0" * 64 + "\n", None, 7]),
    (
        inner_path,
        [
            "",
            "/a",
            "a/",
            "a//b",
            "..",
            "a/../b",
            "./a",
            "a\0b",
            "\ud800",
            "a\\b",
            "x" * 256,
            "a/" * 64 + "a",
            7,
        ],
    ),
    (list_of(flag, 2, least=1), [[], [True] * 3, [1], {}, "ab", None]),
    (mapping_of(flag, 1, key=text(2)), [{"a": 1}, {"abc": True}, {"a": True, "b": True}, [], None]),
    (optional(flag), [0, ""]),
    (record({"a": flag}), [{}, {"a": 1}, {"a": True, "b": 1}, [], None, "a"]),
]


@pytest.mark.parametrize(("check", "values"), WRONG)
def test_a_wrong_value_is_named(check, values):
    for value in values:
        problem = check(value, "field")
        assert problem, value
        assert len(problem) < 400
        assert problem.isprintable()


@pytest.mark.parametrize(
    ("check", "value"),
    [
        (integer(0, 9), 9),
        (number(0, 1), 0.5),
        (text(3), "abc"),
        (word, "llava-1.5"),
        (inner_path, "llm/encoder/rank0.safetensors"),
        (inner_path, "..a/b.."),
        (list_of(flag, 2), [True]),
        (optional(flag), None),
        (record({"a": flag, "b": flag}, may_lack=("b",)), {"a": True}),
        (record({"a": flag}, closed=False), {"a": True, "other": 1}),
    ],
)
def test_a_right_value_is_none(check, value):
    assert check(value, "field") is None


def test_the_place_of_a_field_is_its_path():
    check = record({"a": list_of(record({"b": integer(0, 1)}), 9)})
    assert check({"a": [{"b": 0}, {"b": 2}]}, "x") == "`x.a[1].b` is 2, not an integer from 0 to 1"
    assert check({"a": [{}]}, "") == "`a[0].b` is missing"
