"""What to write instead of a value of the wrong type."""

from __future__ import annotations

from typing import Any

import pytest

from mmbuild.base.value_hints import foreign_hint, percent_hint, wrong_type_hint


@pytest.mark.parametrize(
    ("value", "expected", "written", "hint"),
    [
        (None, "a number", "", "give a value, or leave the key out"),
        (1.2, "text", "1.20", "quote it: `'1.20'`"),
        (
            {"What": "is"},
            "text",
            "What: is",
            "put the text in quotes: a colon followed by a space makes it a mapping",
        ),
        ("x.png", "a list", "x.png", "put it in brackets: `[x.png]`"),
        ({"a": 1}, "a list", "{a: 1}", None),
        ("128", "a whole number", "'128'", "remove the quotes"),
        ("0128", "a whole number", "0128", "write 128"),
        ("\u0661\u0662\u0668", "a whole number", "\u0661\u0662\u0668", "write 128"),
        ("4k", "a whole number", "4k", "write 4096"),
        ("4 K", "a whole number", "4 K", "write 4096"),
        (192.0, "a whole number", "192.0", "write 192"),
        ("1e3", "a whole number", "1e3", "write 1000"),
        ("1e300", "a whole number", "1e300", None),
        ("nan", "a whole number", "nan", None),
        (float("inf"), "a whole number", ".inf", None),
        (True, "a whole number", "true", None),
        ([2], "a whole number", "[", None),
        ("95 %", "a number", "95 %", "write 0.95"),
        ("95%", "a whole number", "95%", None),
        ("many", "a number", "many", None),
        (
            "363 tokens",
            "a whole number",
            "363 tokens",
            "remove `tokens`: the value is a number without a unit",
        ),
        ("1.5GB", "a number", "1.5GB", "remove `GB`: the value is a number without a unit"),
        ("2M", "a whole number", "2M", None),
        ("GB", "a whole number", "GB", None),
    ],
)
def test_values_of_the_wrong_type(value: Any, expected: str, written: str, hint: str | None) -> None:
    assert wrong_type_hint(value, expected, written) == hint


@pytest.mark.parametrize(
    ("value", "most", "hint"),
    [
        (95, 1, "write it as a fraction: 95 % is 0.95"),
        (99.5, 1.0, "write it as a fraction: 99.5 % is 0.995"),
        (101, 1, None),
        (95, 64, None),
        (True, 1, None),
        (-2, 1, None),
    ],
)
def test_percentages(value: Any, most: float, hint: str | None) -> None:
    assert percent_hint(value, most) == hint


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("backend\u00a0", "it contains U+00A0 (no-break space): type it again"),
        ("torch\u200b", "it contains U+200B (zero width space): type it again"),
        ("backend\uff1atorch", "it contains U+FF1A (fullwidth colon): type it again"),
        ("backend torch", None),
        ("größe", None),
        (5, None),
    ],
)
def test_characters_of_text_processors_are_named(text: Any, hint: str | None) -> None:
    assert foreign_hint(text) == hint
