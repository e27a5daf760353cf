"""mmbuild history, after real applies."""

import json
import re

from support.projects.demo_project import NAME, RECIPE, Project


def test_a_build_that_was_never_built(tmp_path):
    project = Project(tmp_path)
    assert "nothing has been built yet" in project.run("history", "nope").stdout
    project.run("apply", RECIPE)
    done = project.run("history", "nope", status=1)
    assert done.stdout == ""
    assert done.stderr == (f"error: no recorded apply built `nope` [MM542]\n\nhint: the history has {NAME}\n")
    assert f"hint: did you mean `{NAME}`?" in project.run("history", NAME[:-1], "--json", status=1).stderr


def test_applies_are_listed_with_counts(tmp_path):
    project = Project(tmp_path)
    assert "nothing has been built yet" in project.run("history").stdout
    project.run("apply", RECIPE)
    project.run("apply", RECIPE)  # up to date: nothing to list
    project.run("apply", RECIPE, "--set", "engine.max_batch_size=2")
    project.run("apply", "recipes/demo/vila.yaml")
    rows = project.run("history").stdout.splitlines()
    assert re.split(r"  +", rows[0]) == [
        "began",
        "ended",
        "took",
        "built",
        "cached",
        "pulled",
        "saved",
        "builds",
    ]
    lines = [[*re.split(r"  +", row)[3:5], re.split(r"  +", row)[7]] for row in rows[1:-1]]
    assert lines[:2] == [["9", "0", NAME], ["5", "4", NAME]]
    assert rows[-1].startswith("3 applies took ")
    assert len(project.run("history", "-n", "1").stdout.splitlines()) == 3
    found = [
        json.loads(line) for line in project.run("history", f"build/{NAME}", "--json").stdout.splitlines()
    ]
    assert [len(entry["ran"]) for entry in found] == [9, 5]


def test_one_apply_is_singular(tmp_path):
    project = Project(tmp_path)
    project.run("apply", RECIPE)
    assert project.run("history").stdout.splitlines()[-1].startswith("1 apply took ")
