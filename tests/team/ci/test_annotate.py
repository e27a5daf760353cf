"""Workflow commands: nothing in a message or log can end a command or inject another."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from mmbuild.base.diagnostics import workflow_command
from mmbuild.core.execution.failures import Failed
from mmbuild.team.ci import annotate
from mmbuild.team.ci.annotate import RecipeLocation

TEXT = st.text(alphabet="a%:,\r\n=é ", max_size=20)


def read(line):
    """A command as a runner reads it (actions/runner, ActionCommand: `%25` last)."""
    name, properties, message = re.fullmatch(r"::([a-z-]+)(?: (.*?))?::(.*)", line, flags=re.S).groups()

    def plain(text, more=()):
        for escape, character in (("%0D", "\r"), ("%0A", "\n"), *more, ("%25", "%")):
            text = text.replace(escape, character)
        return text

    within = (("%3A", ":"), ("%2C", ","))
    pairs = [item.partition("=")[::2] for item in (properties or "").split(",") if item]
    return name, {key: plain(value, within) for key, value in pairs}, plain(message)


@given(TEXT, st.dictionaries(st.sampled_from(["file", "title"]), TEXT.filter(bool), max_size=2))
def test_whatever_is_in_a_message_comes_back_from_one_line(message, properties):
    line = workflow_command("error", message, properties)
    assert "\n" not in line
    assert "\r" not in line
    assert read(line) == ("error", properties, message)


def test_places_are_properties_and_hints_follow_the_message():
    line = annotate.error_command("MM1 a/b", "it is odd", "make it even", RecipeLocation("r/x.yaml", 3, 5))
    assert read(line) == (
        "error",
        {"file": "r/x.yaml", "line": "3", "col": "5", "title": "MM1 a/b"},
        "it is odd\nhint: make it even",
    )


def test_a_log_gives_no_commands(tmp_path):
    log = tmp_path / "log"
    log.write_bytes(b"one\n::error::not mine\n::endgroup::\n\xff\n")
    failed = Failed("a/b", "it broke", "MM310", None, ("a cause",), str(log))
    first, group, stop, *lines = annotate.failure(failed, None).splitlines()
    assert read(first) == ("error", {"title": "MM310 a/b"}, "it broke\ncaused by: a cause")
    assert group == "::group::log of a/b (log)"
    token = stop.removeprefix("::stop-commands::")
    assert lines == ["one", "::error::not mine", "::endgroup::", "\ufffd", f"::{token}::", "::endgroup::"]
    assert token not in log.read_text(errors="replace")
    other = annotate.failure(failed, None).splitlines()[2]
    assert other != stop


def test_a_log_that_is_gone_is_left_out():
    failed = Failed("a/b", "it broke", "MM310", None, (), "/no/such/log")
    assert len(annotate.failure(failed, None).splitlines()) == 1


def test_warnings_of_the_shared_store_carry_their_code():
    line = annotate.warning({"message": "it is down", "code": "MM821", "hint": "wait"})
    assert read(line) == ("warning", {"title": "MM821"}, "it is down\nwait")
