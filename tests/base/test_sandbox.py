"""Untrusted programs end soon and use little memory."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from typing import Any

import pytest

from mmbuild.base import sandbox
from mmbuild.base.sandbox import BoundsExceededError, run_bounded


def test_what_the_work_returns_comes_back() -> None:
    assert run_bounded(lambda: {"a": [1, None, "ü"]}) == {"a": [1, None, "ü"]}


def test_a_loop_without_end_is_ended() -> None:
    def work() -> None:
        while True:
            pass

    begun = time.monotonic()
    with pytest.raises(BoundsExceededError, match="more than 1 second"):
        run_bounded(work)
    assert time.monotonic() - begun < 5


def test_memory_is_bounded() -> None:
    with pytest.raises(BoundsExceededError, match="MB of memory"):
        run_bounded(lambda: len(bytearray(3 * sandbox.MEMORY)))


def test_the_result_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "OUTPUT", 1_000_000)
    with pytest.raises(BoundsExceededError, match="produces more than"):
        run_bounded(lambda: "a" * 1_100_000)


def _killed() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.parametrize("end", [_killed, lambda: os._exit(0), lambda: 1 / 0, object])
def test_a_child_that_dies_is_an_error(end: Callable[[], Any]) -> None:
    with pytest.raises(BoundsExceededError, match="ends without a result"):
        run_bounded(end)
