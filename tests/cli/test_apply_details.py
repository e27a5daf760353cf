"""Log lines of running actions, as `apply -v` prints them."""

from __future__ import annotations

from pathlib import Path

import pytest

from mmbuild.cli.apply_details import LogLines, log_lines
from mmbuild.core.execution.events import Event, EventKind


def started(log: Path, label: str = "v/a") -> Event:
    return Event(EventKind.STARTED, label, {"log": str(log)}, 0.0)


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "a.log"


def test_complete_lines_come_at_once_and_the_rest_at_the_end(
    log: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = LogLines()
    lines.take(started(log))
    log.write_text("one\ntwo\nthr")
    lines.poll()
    assert capsys.readouterr().err == "  v/a | one\n  v/a | two\n"
    log.write_text("one\ntwo\nthree\nfour")
    lines.poll()
    assert capsys.readouterr().err == "  v/a | three\n"
    lines.take(Event(EventKind.FAILED, "v/a"))
    assert capsys.readouterr().err == "  v/a | four\n"
    lines.poll()
    assert capsys.readouterr().err == ""


def test_a_log_cannot_imitate_mmbuild(log: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = LogLines()
    lines.take(started(log))
    log.write_bytes(b"\rerror: no\x1b[2J\n")
    lines.poll()
    assert capsys.readouterr().err == "  v/a | \\u000derror: no\\u001b[2J\n"


def test_the_lines_of_an_action_come_before_its_end(log: Path, capsys: pytest.CaptureFixture[str]) -> None:
    order: list[str] = []
    with log_lines(lambda event: order.append(f"{capsys.readouterr().err}{event.kind}")) as sink:
        sink(started(log))
        log.write_text("one\n")
        sink(Event(EventKind.FINISHED, "v/a"))
    assert "".join(order).count("  v/a | one\n") == 1
    assert "".join(order).index("| one") < "".join(order).index("finished")


def test_actions_without_a_log_print_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = LogLines()
    lines.take(started(tmp_path / "missing.log"))
    lines.poll()
    lines.take(Event(EventKind.FINISHED, "v/a"))
    lines.take(Event(EventKind.FINISHED, "v/other"))
    assert capsys.readouterr().err == ""
