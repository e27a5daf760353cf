"""What `mmbuild apply` shows: live on a terminal, plain lines elsewhere, and how it ends."""

import json
import os
import re

import pytest

from mmbuild.core.store.layout import open_store
from support.projects.demo_project import NAME, RECIPE
from support.terminal import CONTROL, HIDE, SGR, SHOW, Terminal

LABEL = f"{NAME}/quantize"


def held(project, *options, **environment):
    """`mmbuild apply` on a terminal, with quantize waiting until something is written into the pipe."""
    pipe = project.root / "pipe"
    os.mkfifo(pipe)
    variables = {**project.environment, "MMBUILD_TEST_HOLD": str(pipe), **environment}
    if not environment.get("NO_COLOR"):
        del variables["NO_COLOR"]
    return Terminal(["apply", RECIPE, *options], project.root, variables), pipe


def test_a_terminal_shows_the_running_action_with_its_progress_and_time(project):
    terminal, pipe = held(project)
    shown = terminal.read_until("held by the test 25%")
    line = next(line for line in shown.splitlines() if "held by the test" in line)
    assert LABEL in line
    assert re.search(r"\d+ s", CONTROL.sub("", line))
    pipe.write_text("go on")
    assert terminal.finish() == 0


def test_terminal_keeps_a_line_with_the_time_of_each_action_and_the_engine_path(project):
    terminal, pipe = held(project)
    terminal.read_until("held by the test")
    pipe.write_text("go on")
    assert terminal.finish() == 0
    text = CONTROL.sub("", terminal.shown)
    assert len(re.findall(r"done +\S+/\w+: \d+\.\d s, peak [\d.]+ MB", text)) == 9
    assert text.rstrip().endswith(f"build/{NAME}")
    assert_clean_end(terminal)


@pytest.mark.parametrize("columns", [80, 60])
def test_a_narrow_terminal_shows_amounts_and_breaks_no_line(project, columns):
    """The pseudo-terminal is as wide as COLUMNS says; a line that is too long would be folded by the display."""
    terminal, pipe = held(project, COLUMNS=str(columns))
    shown = terminal.read_until("25%")
    pipe.write_text("go on")
    assert terminal.finish() == 0
    running = [line for line in re.split(r"[\r\n]+", CONTROL.sub("", shown)) if "\u25b8" in line]
    assert any("quantize" in line and line.rstrip().endswith("25%") for line in running)
    assert all(len(line.rstrip()) <= columns for line in running)
    assert_clean_end(terminal)


def test_the_time_ticks_while_an_action_reports_nothing(project):
    terminal, pipe = held(project)
    terminal.read_until("held by the test")
    before = len(terminal.shown)
    for seconds in ("  2 s", "  3 s"):
        terminal.read_until(seconds)
    assert len(terminal.shown) > before
    assert re.search(r"8/9 actions|\d/9 actions, \d s so far", CONTROL.sub("", terminal.shown))
    pipe.write_text("go on")
    assert terminal.finish() == 0


def assert_clean_end(terminal):
    """The cursor is back, and nothing of the live part is left below."""
    assert terminal.shown.count(HIDE) == terminal.shown.count(SHOW) > 0
    assert terminal.shown.rindex(SHOW) > terminal.shown.rindex(HIDE)
    assert "\u25b8" not in terminal.shown[terminal.shown.rindex(SHOW) :]


def test_ctrl_c_on_a_terminal_ends_cleanly_and_says_how_to_continue(project):
    terminal, _ = held(project)
    terminal.read_until("held by the test")
    terminal.press("\x03")
    assert terminal.finish() == 130
    text = CONTROL.sub("", terminal.shown)
    assert "interrupted; finished actions are kept, run the same command again to continue" in text
    assert "Traceback" not in text
    assert_clean_end(terminal)
    assert list(open_store(project.root / "store").staging.iterdir()) == []
    again = [json.loads(line) for line in project.run("apply", RECIPE, "--json").stdout.splitlines()]
    ran = {event["label"].split("/")[1] for event in again if event["event"] == "finished"}
    assert "quantize" in ran
    assert not ran & {"download", "convert"}


def test_no_color_leaves_a_terminal_without_colours(project):
    terminal, pipe = held(project, NO_COLOR="1")
    terminal.read_until("held by the test")
    pipe.write_text("go on")
    assert terminal.finish() == 0
    assert SGR.findall(terminal.shown) == []


@pytest.mark.parametrize(("options", "variables"), [(["--no-progress"], {}), ([], {"TERM": "dumb"})])
def test_a_terminal_without_progress_gets_plain_lines(project, options, variables):
    terminal, pipe = held(project, *options, **variables)
    terminal.read_until(f"run    {LABEL}")
    pipe.write_text("go on")
    assert terminal.finish() == 0
    assert CONTROL.findall(terminal.shown) == []
    assert "[9/9]" in terminal.shown
    assert "held by the test" not in terminal.shown


def test_without_a_terminal_lines_are_plain_and_every_action_has_its_time(project):
    done = project.run("apply", RECIPE)
    assert CONTROL.findall(done.stderr) == []
    assert re.search(rf"\[\d/9\] done   {LABEL}: \d+\.\d s", done.stderr)
    end = done.stderr[done.stderr.index("done in") :]
    for step in (
        "download",
        "convert",
        "quantize",
        "build_llm",
        "build_visual",
        "convert_visual",
        "assemble",
        "measure",
        "verify",
    ):
        assert re.search(rf"^  {NAME}/{step} +\d+\.\d s$", end, re.M)
    assert done.stdout == f"build/{NAME}\n"


def test_a_failing_step_is_an_event_and_an_error_under_json(project):
    done = project.run("apply", RECIPE, "--json", status=1, MMBUILD_TEST_FAIL="int4")
    events = [json.loads(line) for line in done.stdout.splitlines()]
    assert [event["code"] for event in events if event["event"] == "failed"] == ["MM310"]
    assert done.stderr.startswith(f"error: step `quantize` of `{LABEL}` failed: ZeroDivisionError")
    assert "hint: " in done.stderr


def test_a_wrong_recipe_is_an_error_under_json(project):
    (project.root / "bad.yaml").write_text("version: 1\nname: x\nmodle: {}\n")
    done = project.run("apply", "bad.yaml", "--json", status=1)
    assert "bad.yaml:3:1: error: " in done.stderr
    (line,) = done.stdout.splitlines()  # as each event is a line
    assert {found["file"] for found in json.loads(line)["diagnostics"]} == {"bad.yaml"}
