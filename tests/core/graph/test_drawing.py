"""Drawings: labels are escaped, and SVG is what Graphviz renders from the DOT text."""

import shutil
import xml.etree.ElementTree as ET

import pytest

from mmbuild.base.errors import MmbuildError
from mmbuild.core.graph import plan_text
from mmbuild.core.graph.action import RecipeGraph
from mmbuild.core.graph.plan import Plan
from mmbuild.core.graph.plan_text import dot, mermaid, svg
from support.errors import refused
from support.projects.workspace import Workspace
from support.steps.trivial import action

ODD = 'r/<"&]>&lt;\\n'


@pytest.fixture
def plan(tmp_path) -> Plan:
    one = action("write", ODD, text="1")
    two = action("write", "r/two", {'in"put': one}, text="2")
    return Workspace(tmp_path).plan(RecipeGraph("r", (one, two), two.definition_key))


def graphviz(tmp_path, monkeypatch, script: str) -> None:
    """A program in the place of Graphviz's."""
    program = tmp_path / "bin" / "dot"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:/usr/bin:/bin")


def test_odd_labels_are_escaped(plan):
    assert '\\"' in dot(plan)
    (label,) = [line for line in mermaid(plan).splitlines() if line.startswith("  a0[")]
    assert label.count('"') == 2


@pytest.mark.skipif(shutil.which("dot") is None, reason="needs Graphviz")
def test_graphviz_draws_labels_as_they_are(plan):
    picture = ET.fromstring(svg(plan))
    assert {ODD, "r/two", 'in"put'} <= {e.text for e in picture.iter("{http://www.w3.org/2000/svg}text")}


def test_svg_is_what_graphviz_makes_of_the_dot_text(plan, tmp_path, monkeypatch):
    graphviz(tmp_path, monkeypatch, f'echo "$@" > {tmp_path}/arguments; exec cat')
    assert svg(plan) == dot(plan)
    assert (tmp_path / "arguments").read_text() == "-Tsvg\n"


def test_without_graphviz_the_package_and_another_format_are_named(plan, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    error = refused(MmbuildError, "MM206", svg, plan)
    assert error.hint == "install the package `graphviz`, or use `--format mermaid`"


@pytest.mark.parametrize(
    ("script", "says"),
    [
        ("cat > /dev/null; echo 'Error: no layout' >&2; exit 3", "exited with status 3: Error: no layout"),
        ("exit 1", "exited with status 1"),
        ("exec sleep 60", "takes more than 0.2 seconds"),
        ("kill -11 $$", "exited with status -11"),
    ],
)
def test_a_graphviz_that_fails_or_hangs_is_reported(plan, tmp_path, monkeypatch, script, says):
    monkeypatch.setattr(plan_text, "_SECONDS", 0.2 if "sleep" in script else 30)
    graphviz(tmp_path, monkeypatch, script)
    assert refused(MmbuildError, "MM206", svg, plan).message.endswith(says)
