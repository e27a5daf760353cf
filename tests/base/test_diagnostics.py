"""How findings look on a terminal, as JSON, as annotations."""

from __future__ import annotations

import json
import pickle
import re
from dataclasses import replace

import pytest

from mmbuild.base.diagnostics import Diagnostic, RecipeError, render_github, render_json, render_text

FOUND = Diagnostic(
    code="MM112",
    message="`engine.dtype` cannot be `flaot16`",
    file="a.yaml",
    line=7,
    column=10,
    path="engine.dtype",
    allowed=("float32", "float16"),
    suggestion="float16",
    hint="Spell it right",
    excerpt="  dtype: flaot16",
    width=7,
)


def test_text_is_complete_without_colour() -> None:
    assert render_text([FOUND]) == (
        "a.yaml:7:10: error: `engine.dtype` cannot be `flaot16` [MM112]\n"
        "    7 |   dtype: flaot16\n"
        "      |          ^^^^^^^\n"
        "      allowed: float32, float16\n"
        "      did you mean: float16\n"
        "      hint: Spell it right\n"
    )


def test_colour_adds_escapes_only() -> None:
    coloured = render_text([FOUND], color=True)
    assert "\x1b[31;1m" in coloured
    for escape in ("\x1b[31;1m", "\x1b[33;1m", "\x1b[36m", "\x1b[32m", "\x1b[2m", "\x1b[0m"):
        coloured = coloured.replace(escape, "")
    assert coloured == render_text([FOUND])


def test_a_tab_in_the_line_keeps_the_caret_in_place() -> None:
    found = replace(FOUND, excerpt="a:\tb", column=4, width=1, allowed=(), suggestion=None, hint=None)
    _, line, caret, _ = render_text([found]).split("\n")
    assert line.index("b") == caret.index("^")


@pytest.mark.parametrize("column", [1, 30, 150, 290, 300])
def test_a_long_line_is_shown_around_the_caret(column: int) -> None:
    letters = "".join(chr(ord("a") + n % 26) for n in range(300))
    found = replace(FOUND, excerpt=letters, column=column, width=200, allowed=(), suggestion=None, hint=None)
    _, line, caret, _ = render_text([found]).split("\n")
    assert len(line) < 140
    assert len(caret) <= len(line)
    assert line[caret.index("^")] == letters[column - 1]
    assert line.count("...") == (1 if column in (1, 30, 290, 300) else 2)


def test_json_has_a_version_and_every_field_of_use() -> None:
    document = json.loads(render_json([FOUND]))
    assert document["version"] == 1
    (row,) = document["diagnostics"]
    assert (row["file"], row["line"], row["column"], row["suggestion"]) == ("a.yaml", 7, 10, "float16")
    assert json.loads(render_json([])) == {"version": 1, "diagnostics": []}


def test_github_annotations_are_one_line_each_and_escaped() -> None:
    found = replace(FOUND, message="50% of\nit", file="a,b:c.yaml", allowed=(), suggestion=None, hint=None)
    assert render_github([found]) == "::error file=a%2Cb%3Ac.yaml,line=7,col=10,title=MM112::50%25 of\\nit"


@pytest.mark.parametrize("count", [1, 3])
def test_the_error_speaks_for_all_and_crosses_processes(count: int) -> None:
    error = RecipeError([replace(FOUND, line=n) for n in range(1, count + 1)])
    again = pickle.loads(pickle.dumps(error))
    assert again.diagnostics == error.diagnostics
    assert error.code == "MM112"
    assert ("a.yaml:1:10" in error.message) == (count == 1)


def test_warnings_do_not_lead() -> None:
    error = RecipeError([replace(FOUND, severity="warning", code="MM153"), FOUND])
    assert error.code == "MM112"


def test_findings_are_folded_between_words() -> None:
    found = replace(FOUND, file="--set engine.dtype=flaot16", line=1, column=14, excerpt="", hint="a b " * 20)
    text = render_text([found], width=40)
    assert text == render_text([found], width=40, color=False)
    assert text.split("\n")[:3] == [
        "--set engine.dtype=flaot16:1:14: error:",
        "  `engine.dtype` cannot be `flaot16`",
        "  [MM112]",
    ]
    assert max(map(len, text.split("\n"))) <= 40
    assert text.split() == render_text([found]).split()


def test_colours_do_not_change_where_lines_are_folded() -> None:
    found = replace(FOUND, hint="a b " * 20)
    coloured = render_text([found], color=True, width=40)
    assert re.sub("\x1b\\[[0-9;]*m", "", coloured) == render_text([found], width=40)


@pytest.mark.parametrize("column", [1, 30, 70, 99])
@pytest.mark.parametrize("width", [40, 60])
def test_a_source_line_that_does_not_fit_is_shown_around_the_caret(column: int, width: int) -> None:
    letters = "".join(chr(ord("a") + n % 26) for n in range(100))
    found = replace(FOUND, excerpt=letters, column=column, width=20, allowed=(), suggestion=None, hint=None)
    line, caret = render_text([found], width=width).split("\n")[-3:-1]
    assert len(line) <= width
    assert len(caret) <= len(line)
    assert line[caret.index("^")] == letters[column - 1]
