"""What a terminal acts on is shown as an escape."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmbuild.base.visible import visible


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain ü 漢 \t`x`", "plain ü 漢 \t`x`"),
        ("\x1b[2J", "\\x1b[2J"),
        ("a\nb\r", "a\\nb\\r"),
        ("\x9b31m", "\\x9b31m"),
        ("\u202eabc", "\\u202eabc"),
        ("\ud800", "\\ud800"),
        ("\u2028", "\\u2028"),
    ],
)
def test_control_characters_become_escapes(text: str, shown: str) -> None:
    assert visible(text) == shown


@given(st.text())
def test_what_is_shown_is_one_line_that_any_stream_takes(text: str) -> None:
    assert len(visible(text).splitlines()) <= 1
    visible(text).encode()
