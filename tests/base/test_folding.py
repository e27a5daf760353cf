"""Lines and tables that fit into a terminal."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmbuild.base.folding import blocks, fold, fold_all, fold_markdown, table

WORDS = st.lists(st.text("abcdefg12.-/", min_size=1, max_size=12), min_size=1, max_size=30)


@given(WORDS, st.integers(4, 60))
def test_no_word_is_broken_or_lost_and_only_long_words_are_wider(words: list[str], width: int) -> None:
    lines = fold(" ".join(words), width).split("\n")
    assert " ".join(lines).split() == words
    for line in lines:
        assert len(line) <= width or len(line.split()) == 1


def test_short_lines_and_unknown_widths_are_left_alone() -> None:
    assert fold("a  b", 4) == "a  b"
    assert fold("word " * 50, None) == "word " * 50


def test_further_lines_are_indented_below_the_first() -> None:
    assert fold("  one two three", 10) == "  one two\n    three"


def test_commands_and_numbers_with_units_stay_whole() -> None:
    assert fold("say `a b c` or it takes 12.5 GB", 12) == "say `a b c`\n  or it\n  takes\n  12.5 GB"


def test_each_line_is_folded_by_itself() -> None:
    assert fold_all("a b c\n\nd e f", 3, "") == "a b\nc\n\nd e\nf"


ROWS = [("name", "size", "why"), ("a", "12 kB", "it was changed twice"), ("bb", "3 kB", "-")]


def test_a_table_that_fits() -> None:
    assert table(ROWS) == table(ROWS, 40)
    assert table(ROWS) == [
        "name  size   why",
        "a     12 kB  it was changed twice",
        "bb    3 kB   -",
    ]


def test_the_last_column_is_folded() -> None:
    rows = [("name", "why"), ("a", "it was changed twice in one day")]
    assert table(rows, 27) == ["name  why", "a     it was changed twice", "      in one day"]


def test_a_narrow_table_becomes_paragraphs() -> None:
    assert table(ROWS, 24) == [
        "a",
        "  size 12 kB, why it was",
        "  changed twice",
        "bb",
        "  size 3 kB, why -",
    ]


@pytest.mark.parametrize(("width", "columns"), [(None, [3]), (17, [2, 1]), (5, [1, 1, 1])])
def test_columns_go_below_one_another(width: int | None, columns: list[int]) -> None:
    rows = [("what", "one", "two", "three"), ("size", "1 kB", "2 kB", "3 kB")]
    found = blocks(rows, width)
    assert [len(block[0]) - 1 for block in found] == columns
    assert {block[1][0] for block in found} == {"size"}
    assert [cell for block in found for cell in block[0][1:]] == ["one", "two", "three"]


MARKDOWN = """\
### Title

| variant | | why |
|---|---|---|
| `a`<br>`b` | changed | `x \\| y` from 1 to 2 |

A sentence that is longer than the terminal."""


def test_markdown_of_a_file_is_unchanged() -> None:
    assert fold_markdown(MARKDOWN, None) == MARKDOWN
    assert fold_markdown(MARKDOWN, 200) == MARKDOWN


def test_a_wide_markdown_table_becomes_paragraphs() -> None:
    assert (
        fold_markdown(MARKDOWN, 30)
        == """\
### Title

`a`, `b`
  changed,
  why `x | y` from 1 to 2

A sentence that is longer than
  the terminal."""
    )
