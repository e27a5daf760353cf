"""The status line of commands that wait: what it shows, and that nothing of it is left."""

import os
import pty
import re
import sys
from contextlib import suppress

import pytest

from mmbuild.base.progress import BYTES, Amount, silent
from mmbuild.base.status_line import StatusLine, hidden, working

ERASE = "\r\x1b[K"
END = "<end>"


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


def line(clock, width=80, task="loading the engine"):
    written = []
    return StatusLine(task, written.append, lambda: width, clock), written


def test_it_shows_the_task_and_the_time_which_ticks(clock):
    status, written = line(clock)
    for seconds in (0.5, 1.0, 2.0, 62.0):
        clock.now = seconds
        status.draw()
    assert written == [f"{ERASE}loading the engine, {text}" for text in ("0 s", "1 s", "2 s", "1 min 2 s")]


def test_it_shows_what_is_done_with_rate_and_time_left(clock):
    status, _ = line(clock, task="checking the store")
    status.report("", Amount(0, 13.5e9, BYTES))
    clock.now = 15.0
    status.report("", Amount(3.1e9, 13.5e9, BYTES))
    assert status.text() == "checking the store, 15 s: 3.1/13.5 GB, 206.7 MB/s, 50 s left"


@pytest.mark.parametrize("width", [80, 60, 40, 20, 8, 2])
def test_it_fits_into_the_terminal(clock, width):
    status, _ = line(clock, width, "checking build/llava-1.5-7b-int4")
    status.report("files of the engine", Amount(0, 13.5e9, BYTES))
    clock.now = 15.0
    status.report("files of the engine", Amount(3.1e9, 13.5e9, BYTES))
    assert len(status.text()) < width


def test_controls_in_names_are_escaped(clock):
    status, _ = line(clock, task="checking a\x1b[2Jb\nc")
    assert status.text() == "checking a\\u001b[2Jb\\nc, 0 s"


def test_what_was_never_drawn_is_not_erased(clock):
    status, written = line(clock)
    status.clear()
    assert written == []


class Shown:
    """A pseudo-terminal that is standard error within ``with``; what it shows is ``text`` afterwards."""

    def __init__(self, monkeypatch, term="xterm"):
        self._monkeypatch, self._term = monkeypatch, term
        self.text = ""

    def __enter__(self):
        self._master, slave = pty.openpty()
        self._stream, self._before = os.fdopen(slave, "w"), sys.stderr
        self._monkeypatch.setenv("TERM", self._term)
        sys.stderr = self._stream  # here, because pytest replaces it between a fixture and its test
        return self

    def __exit__(self, *_):
        sys.stderr = self._before
        print(END, end="", file=self._stream, flush=True)  # what is written arrives some time later
        while not self.text.endswith(END):
            self.text += os.read(self._master, 65536).decode()
        self.text = self.text.removesuffix(END)
        self._stream.close()
        os.close(self._master)


def test_a_terminal_shows_reports_and_nothing_is_left(monkeypatch):
    with Shown(monkeypatch) as terminal, working("checking", at_once=True) as progress:
        progress("files", Amount(1, 4, "files"))
        progress("files", Amount(2, 4, "files"))
    assert "checking, 0 s: files 1/4 files" in terminal.text
    assert "checking, 0 s: files 2/4 files" in terminal.text
    assert terminal.text.endswith(ERASE)


def test_output_replaces_the_line(monkeypatch):
    with Shown(monkeypatch) as terminal, working("checking", at_once=True) as progress:
        progress("one", None)
        print("warning: something", file=sys.stderr, flush=True)
        progress("two", None)
    assert re.search(r"one\r\x1b\[Kwarning: something\r?\n\r\x1b\[Kchecking, 0 s: two", terminal.text)


def test_the_streams_are_those_of_before_at_the_end_of_a_failing_block(monkeypatch):
    with Shown(monkeypatch) as terminal:
        before = sys.stdout, sys.stderr
        with suppress(ZeroDivisionError), working("checking", at_once=True) as progress:
            progress("one", None)
            progress("two", 1 / 0)
        assert (sys.stdout, sys.stderr) == before
    assert terminal.text.endswith(ERASE)


def test_a_hidden_line_is_not_shown_and_the_next_one_is(monkeypatch):
    with Shown(monkeypatch) as terminal:
        with hidden(), working("planning", at_once=True) as progress:
            progress("recipes", None)
        assert progress is silent
        with working("checking", at_once=True) as progress:
            progress("files", None)
    assert "planning" not in terminal.text
    assert "checking, 0 s: files" in terminal.text


def test_nothing_is_shown_without_a_terminal(capsys):
    with working("checking", at_once=True) as progress:
        progress("files", Amount(1, 4, "files"))
    assert progress is silent
    assert capsys.readouterr() == ("", "")


def test_a_dumb_terminal_shows_nothing(monkeypatch):
    with Shown(monkeypatch, "dumb") as terminal, working("checking", at_once=True) as progress:
        progress("files", Amount(1, 4, "files"))
    assert terminal.text == ""
