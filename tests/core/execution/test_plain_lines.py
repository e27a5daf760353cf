"""Progress in a log: a line when an action starts and ends, and one every 30 seconds between."""

import pytest
from inline_snapshot import snapshot

from mmbuild.base.progress import Amount, as_data
from mmbuild.core.execution.events import Event, EventKind
from mmbuild.core.execution.progress import PlainLines
from support.projects.workspace import Workspace
from support.steps.trivial import chain


@pytest.fixture
def log(tmp_path):
    """Plain lines of a plan of three actions, and the time, which tests set."""
    now = [0.0]
    return PlainLines(Workspace(tmp_path).plan(chain("r")), lambda: now[0]), now


def run(log, until, every=1):
    plain, now = log
    plain(Event(EventKind.STARTED, "r/0", {"reason": "new"}, 0.0))
    for second in range(every, until + 1, every):
        now[0] = float(second)
        amount = Amount(second // 10, 32, "layers")
        plain(Event(EventKind.PROGRESS, "r/0", as_data("writing", amount), now[0]))
        plain.tick()


def test_a_long_action_has_a_line_every_30_seconds(log, capsys):
    run(log, 95)
    assert capsys.readouterr().err == snapshot("""\
[0/3] run    r/0: new
[0/3] still  r/0: running for 30 s, writing 3/32 layers, 10 s each, 5 min left
[0/3] still  r/0: running for 1 min 0 s, writing 6/32 layers, 10 s each, 4 min left
[0/3] still  r/0: running for 1 min 30 s, writing 9/32 layers, 10 s each, 4 min left
""")


def test_a_short_action_has_none(log, capsys):
    run(log, 29)
    plain, _ = log
    plain(Event(EventKind.FINISHED, "r/0", {"seconds": 29.0, "memory": 1e6, "size": 1e6}, 29.0))
    assert [line.split()[1] for line in capsys.readouterr().err.splitlines()] == ["run", "done"]


def test_an_action_that_reports_nothing_has_a_line_too(log, capsys):
    plain, now = log
    plain(Event(EventKind.STARTED, "r/0", {"reason": "new"}, 0.0))
    now[0] = 31.0
    plain.tick()
    plain.tick()
    assert capsys.readouterr().err.splitlines()[1:] == ["[0/3] still  r/0: running for 31 s"]


def test_lines_have_no_control_characters(log, capsys):
    plain, now = log
    plain(Event(EventKind.STARTED, "r/0", {"reason": "new"}, 0.0))
    plain(Event(EventKind.PROGRESS, "r/0", as_data("image \x1b[2J\r\n", None), 1.0))
    now[0] = 31.0
    plain.tick()
    shown = capsys.readouterr().err
    assert shown.replace("\n", "").isprintable()
    assert len(shown.splitlines()) == 2
