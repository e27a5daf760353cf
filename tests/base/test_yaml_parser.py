"""YAML text becomes plain data with locations, or findings with locations."""

from __future__ import annotations

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from mmbuild.base.diagnostics import Diagnostic
from mmbuild.base.yaml_nodes import Source, YamlNode, keys, plain
from mmbuild.base.yaml_parser import MAX_DEPTH, parse, split_lines


def read(text: str) -> tuple[YamlNode | None, list[Diagnostic]]:
    return parse(Source("a.yaml", split_lines(text)))


@pytest.mark.parametrize(
    ("text", "code", "line", "column"),
    [
        ("a: 'x", "MM101", 1, 4),
        ("a: b: c", "MM101", 1, 5),
        ("a: @x", "MM101", 1, 4),
        ("a: *nowhere", "MM101", 1, 4),
        ("a: [1, 2", "MM101", 1, 4),
        ("a: {b: 1\nc: 2\n", "MM101", 1, 4),
        ("", "MM101", 1, 1),
        ("# only a comment\n", "MM101", 1, 1),
        ("a: 1\nb: \x00", "MM101", 2, 4),
        ("a:\n\t- b", "MM102", 2, 1),
        ("\ta: 1", "MM102", 1, 1),
        ("a: 1\nb: 2\na: 3", "MM104", 3, 1),
        ("a: 1\n---\nb: 2", "MM105", 2, 1),
        ("a: !!python/object/apply:os.system [ls]", "MM106", 1, 4),
        ("a: !mine x", "MM106", 1, 4),
        ("a: !!binary aGk=", "MM106", 1, 4),
        ("[a, b]: 1", "MM106", 1, 1),
        ("a: .nan", "MM107", 1, 4),
        ("a: -.inf", "MM107", 1, 4),
        ("a: 1.0e+999", "MM107", 1, 4),
        ("a:\n  b: yes", "MM108", 2, 6),
        ("a: Off", "MM108", 1, 4),
        ("a: 010", "MM109", 1, 4),
        ("a: 1:30", "MM109", 1, 4),
        ("a: 0x1F", "MM109", 1, 4),
        ("a: 1:30.5", "MM109", 1, 4),
        ("a: " + "9" * 5000, "MM113", 1, 4),
        ("a: &x [1, *x]", "MM110", 1, 4),
        ("a: " + "[" * (MAX_DEPTH + 1), "MM110", 1, 3 + MAX_DEPTH),
        ("- " * 100_000 + "1", "MM110", 1, 65),
    ],
)
def test_an_error_has_its_position(text: str, code: str, line: int, column: int) -> None:
    _, findings = read(text)
    assert [(item.code, item.line, item.column) for item in findings] == [(code, line, column)]


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("a: 'x", "the quote is not closed", "close it where the text ends"),
        ('a: "x\nb: 1', "the quote is not closed", "close it where the text ends"),
        (
            "a: [1, 2",
            "the `[` is not closed, or a comma is missing",
            "close it with `]`, and put commas between its entries",
        ),
        (
            "a: {b: 1\nc: 2\n",
            "the `{` is not closed, or a comma is missing",
            "close it with `}`, and put commas between its entries",
        ),
    ],
)
def test_what_is_not_closed_is_named_where_it_begins(text: str, message: str, hint: str) -> None:
    (item,) = read(text)[1]
    assert (item.message, item.hint, item.column) == (message, hint, 4)


@pytest.mark.parametrize(
    ("text", "line", "column", "message"),
    [
        ("a:\n\u00a0\u00a0b: torch\n  c: 3", 2, 1, "a line is indented with U+00A0 (no-break space)"),
        ("a:\n  backend\uff1a torch\n  c: 3", 2, 10, "a key ends with U+FF1A (fullwidth colon)"),
    ],
)
def test_spaces_and_colons_of_text_processors_are_named(
    text: str, line: int, column: int, message: str
) -> None:
    (item,) = read(text)[1]
    assert (item.code, item.line, item.column, item.message) == ("MM101", line, column, message)


def test_other_spaces_within_text_are_data() -> None:
    node, findings = read("a: 10\u00a0000 \uff1a x\nb: '\u3000'")
    assert not findings
    assert node is not None
    assert plain(node) == {"a": "10\u00a0000 \uff1a x", "b": "\u3000"}


def test_an_alias_bomb_ends_early_in_one_finding() -> None:
    levels = ["a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]"]
    levels += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 12)]
    _, findings = read("\n".join(levels))
    assert [item.code for item in findings] == ["MM110"]


def test_aliases_and_merge_keys_are_data_like_any_other() -> None:
    node, findings = read("base: &b {x: 1, y: 2}\nover:\n  <<: *b\n  y: 3\nalso: *b")
    assert not findings
    assert node is not None
    assert plain(node) == {"base": {"x": 1, "y": 2}, "over": {"x": 1, "y": 3}, "also": {"x": 1, "y": 2}}


def test_two_merge_keys_in_one_mapping_are_refused() -> None:
    # PyYAML takes values of the first, Ruby's reader of the last; others refuse it.
    text = "a: &a {x: 1}\nb: &b {x: 2}\nover:\n  <<: *a\n  <<: *b"
    assert yaml.safe_load(text)["over"] == {"x": 1}
    (item,) = read(text)[1]
    assert (item.code, item.line, item.column) == ("MM104", 5, 3)
    assert item.hint == "merge several mappings as one list: `<<: [*a, *b]`"
    node, findings = read(text.replace("  <<: *a\n  <<: *b", "  <<: [*a, *b]"))
    assert not findings
    assert node is not None
    assert plain(node)["over"] == {"x": 1}


def test_quoted_words_numbers_and_dates_stay_text() -> None:
    node, findings = read("a: 'yes'\nb: \"010\"\nc: 2024-01-02\nd: none\non: true")
    assert not findings
    assert node is not None
    assert plain(node) == {"a": "yes", "b": "010", "c": "2024-01-02", "d": "none", "on": True}


def test_columns_count_characters_not_bytes() -> None:
    node, _ = read("{é: ü, ключ: значение}")
    assert node is not None
    value = node.value["ключ"]
    assert (value.key.column, value.span.column, value.span.width) == (8, 14, 8)


scalars = st.one_of(
    st.integers(-(10**17), 10**17),
    st.booleans(),
    st.none(),
    st.floats(allow_nan=False, allow_infinity=False),
    # PyYAML's emitter loses YAML 1.1's other line breaks when it folds.
    st.text(st.characters(exclude_characters="\x85\u2028\u2029", exclude_categories=["Cs"]), max_size=20),
)
names = st.text(st.characters(categories=["Ll", "Lu", "Nd"]), min_size=1, max_size=8)
documents = st.dictionaries(
    names,
    st.recursive(
        scalars,
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(names, inner, max_size=4),
        max_leaves=20,
    ),
    min_size=1,
)


@given(documents)
def test_what_pyyaml_writes_is_read_back(document: dict[str, object]) -> None:
    text = yaml.safe_dump(document, allow_unicode=True)
    node, findings = read(text)
    assert not findings
    assert node is not None
    assert plain(node) == document


@given(st.text(max_size=200))
def test_any_text_yields_data_or_findings(text: str) -> None:
    node, findings = read(text)
    assert node is not None or findings
    if node is not None:
        list(keys(node))


@given(documents)
def test_every_key_knows_its_place(document: dict[str, object]) -> None:
    text = yaml.safe_dump(document, allow_unicode=True, default_style='"', width=10_000)
    node, _ = read(text)
    assert node is not None
    for key, child in node.value.items():
        assert child.key is not None
        excerpt = child.key.excerpt[child.key.column - 1 :]
        assert yaml.safe_load(excerpt[: child.key.width]) == key
