"""calls.json of a visual engine: written and read again, and refused with a code if it is damaged."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mmbuild.backends.torch.visual_calls import Call, Calls, read, write
from mmbuild.models.errors import EngineError
from support.errors import refused

CALLS = Calls(
    (
        Call("outside", (0,), ("embed.weight",), 2),
        Call("layers", (1, 2), ("layers.0.weight",), 1),
        Call("layers", (3, 2), ("layers.1.weight",), 1),
        Call("outside_2", (4,), (), 1),
    ),
    5,
)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    write(tmp_path, CALLS)
    assert read(tmp_path) == CALLS


def test_a_value_is_dropped_after_its_last_use_and_the_result_is_kept() -> None:
    assert CALLS.last_uses() == [(0,), (1,), (2, 3), (4,)]
    again = Calls((*CALLS.calls, Call("more", (5,), (), 1)), 5)
    assert again.last_uses()[-1] == ()


@pytest.mark.parametrize(
    ("place", "value", "problem"),
    [
        (("calls", 0, "values"), [1], "1 values exist"),
        (("calls", 2, "values"), [4], "only 4 values exist"),
        (("calls", 0, "values"), [-1], "not an integer"),
        (("calls", 0, "values"), [True], "not an integer"),
        (("calls", 0, "package"), "../llm/embed", "not the name of a package"),
        (("calls", 0, "package"), "/etc/passwd", "not the name of a package"),
        (("calls", 0, "package"), "", "not the name of a package"),
        (("calls", 0, "package"), "x" * 300, "not the name of a package"),
        (("calls", 0, "package"), "\u0410", "not the name of a package"),
        (("calls", 0, "package"), 7, "not the name of a package"),
        (("calls", 1, "outputs"), 0, "not an integer"),
        (("calls", 1, "outputs"), 10**9, "not an integer"),
        (("calls", 1, "weights"), ["a\0b"], "weights"),
        (("calls", 1, "weights"), [["a"]], "weights"),
        (("calls", 1, "weights"), "abc", "not an array"),
        (("calls", 1, "more"), 1, "not a known field"),
        (("calls",), [], "not an array"),
        (("calls",), {}, "not an array"),
        (("result",), 6, "there are 6 values"),
        (("result",), None, "not an integer"),
        (("more",), None, "not a known field"),
    ],
)
def test_a_damaged_file_is_refused(tmp_path: Path, place: tuple[Any, ...], value: Any, problem: str) -> None:
    write(tmp_path, CALLS)
    path = tmp_path / "calls.json"
    content = json.loads(path.read_text())
    inner = content
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    path.write_text(json.dumps(content))
    error = refused(EngineError, "MM501", read, tmp_path)
    assert str(path) in error.message
    assert problem in error.message
    assert "mmbuild apply" in error.hint


@pytest.mark.parametrize(
    "text", [None, "", "{", "[]", "{}", '{"calls": []}', "[" * 100_000, '{"calls": ' * 50]
)
def test_a_file_that_is_no_such_list_is_refused(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / "calls.json").write_text(text)
    refused(EngineError, "MM501", read, tmp_path)


def test_many_values_are_read_in_no_time(tmp_path: Path) -> None:
    calls = [Call("layers", tuple(range(max(0, n - 50), n + 1)), (), 1) for n in range(4_000)]
    write(tmp_path, Calls(tuple(calls), 4_000))
    assert len(read(tmp_path).last_uses()) == 4_000
