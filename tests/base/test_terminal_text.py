"""Untrusted text printed to a terminal."""

import json

import pytest

from mmbuild.base.terminal_text import clean, clean_but_colors, encodable, one_line

HARMFUL = [
    "\x00",
    "\x07",
    "\x08",
    "\r",
    "\x1b",
    "\x7f",
    "\x85",
    "\x9b",
    "\u061c",
    "\u200e",
    "\u200f",
    "\u2028",
    "\u2029",
    *map(chr, range(0x202A, 0x202F)),
    *map(chr, range(0x2066, 0x206A)),
    "\udc9b",
    "\ufeff",
]


@pytest.mark.parametrize("sign", HARMFUL, ids=lambda sign: f"{ord(sign):04x}")
def test_what_could_change_a_terminal_is_escaped_as_json_does_it(sign):
    shown = clean(f"a{sign}b")
    assert shown == f"a\\u{ord(sign):04x}b"
    assert json.loads(f'"{shown}"') == f"a{sign}b"


@pytest.mark.parametrize("text", ["plain", "two\nlines\tand a tab", "é 漢 🙂 e\u0301", ""])
def test_other_text_stays_as_it_is(text):
    assert clean(text) is text or clean(text) == text
    assert clean_but_colors(text) == text


def test_a_text_on_one_line_begins_no_other():
    assert one_line("a\nerror: b\tc") == "a\\nerror: b\\tc"
    assert clean("a\nb", newline="\n  ") == "a\n  b"


def test_our_colors_stay_and_no_other_sequence_does():
    assert clean_but_colors("\x1b[31;1merror:\x1b[0m x") == "\x1b[31;1merror:\x1b[0m x"
    for foreign in ("\x1b[2J", "\x1b]0;title\x07", "\x1b[5m", "\x1b[31;1;5m", "\x1bc", "\x9b31m"):
        assert "\x1b" not in clean_but_colors(foreign)
        assert "\x9b" not in clean_but_colors(foreign)


def test_characters_missing_from_an_encoding_are_escaped():
    assert encodable("aé🙂", "ascii") == "a\\u00e9\\ud83d\\ude42"
    assert encodable("aé🙂", "latin-1") == "aé\\ud83d\\ude42"
    assert encodable("aé🙂", "utf-8") == "aé🙂"
