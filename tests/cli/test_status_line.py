"""On a terminal, verbs that may take seconds show what they wait for; nothing of it is left at the end."""

import os
import pty
import re
import threading
from contextlib import contextmanager, redirect_stderr, suppress

import pytest

from mmbuild.base.status_line import StatusLine
from mmbuild.cli import main
from support.engines.loaded import demo_directory, drawn
from support.projects.demo_project import RECIPE, Project


@contextmanager
def drawn_once(line):
    """In place of a thread that draws after half a second, which faster commands never reach."""
    line.draw()
    try:
        yield
    finally:
        line.clear()


@pytest.fixture
def shown(monkeypatch, tmp_path):
    """Runs a command with a pseudo-terminal as standard error; returns what that showed."""
    project = Project(tmp_path)
    monkeypatch.chdir(project.root)
    for name in ("MMBUILD_STORE", "MMBUILD_STEPS"):
        monkeypatch.setenv(name, project.environment[name])
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(StatusLine, "drawn", drawn_once)

    def run(words):
        master, slave = pty.openpty()
        chunks = []

        def read():
            with suppress(OSError):  # EIO: the other end is closed
                while chunk := os.read(master, 1 << 16):
                    chunks.append(chunk)

        reader = threading.Thread(target=read)
        reader.start()
        with os.fdopen(slave, "w") as stream, redirect_stderr(stream):
            main([str(word) for word in words])
        reader.join()
        os.close(master)
        return b"".join(chunks).decode()

    return run


def assert_removed(text):
    """Each drawn line is followed by its removal, not by other text on the same line."""
    ends = re.findall(r"\r\x1b\[K[^\r\n]+, \d+ s[^\r\n]*(.{0,4})", text, flags=re.S)
    assert ends
    for after in ends:
        assert after.startswith("\r\x1b[K"), text


@pytest.mark.parametrize(
    ("words", "task"),
    [
        (["plan", RECIPE], "planning"),
        (["cache", "verify"], "checking the store"),
        (["doctor", "--quick"], "checking this host"),
    ],
)
def test_verbs_without_an_engine(shown, words, task):
    text = shown(words)
    assert f"{task}, 0 s" in text
    assert_removed(text)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("verb", "tasks"),
    [("run", ["checking ", "loading the engine", "answering"]), ("compare", ["checking ", "comparing"])],
)
def test_verbs_with_an_engine(shown, tmp_path, verb, tasks):
    picture = tmp_path / "picture.png"
    drawn(1, 1)[0][0].save(picture)
    more = ["--image", picture, "--prompt", "how many ?"] if verb == "run" else [demo_directory()]
    text = shown([verb, demo_directory(), *more])
    for task in tasks:
        assert task in text
    assert_removed(text)
