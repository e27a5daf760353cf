"""mmbuild ci run: shards as a CI service runs them, and invalid requests."""

from __future__ import annotations

import json

import pytest

from support.projects.ci_project import CiProject
from support.projects.demo_project import Project

RECIPES = ("recipes/demo/llava.yaml", "recipes/demo/llava-int4.yaml", "recipes/demo/blip2-t5.yaml")
NAMES = {"llava-shapes", "llava-shapes-int4", "blip2-t5-shapes"}


@pytest.fixture
def project(tmp_path, monkeypatch, capsys):
    return CiProject(tmp_path / "project", monkeypatch, capsys)


@pytest.mark.slow
def test_shards_build_every_variant_once_and_exit_as_documented(tmp_path):
    machines = Project(tmp_path)
    reported = json.loads(machines.run("ci", "run", *RECIPES, "--shards", 2, "--json").stdout)
    assert {name for shard in reported["shards"] for name in shard["variants"]} == NAMES
    assert reported["makespan"] >= reported["bound"] >= reported["critical"]
    for shard in reported["shards"]:
        at = shard["index"]
        words = ("--shards", 2, "--index", at, "--store", f"store{at}", "--build-dir", f"build{at}")
        machines.run("ci", "run", *RECIPES, *words)
        assert sorted(path.name for path in (tmp_path / f"build{at}").iterdir()) == shard["variants"]
        journal = (tmp_path / f"store{at}" / "journal.jsonl").read_text().splitlines()
        assert len(journal) == len(shard["actions"])
    machines.run("ci", "run", *RECIPES, "--save-times", "times.json", "--store", "store1")
    times = json.loads((tmp_path / "times.json").read_text())["seconds"]
    assert set(times) <= {label for shard in reported["shards"] for label in shard["actions"]}
    assert len(times) >= len(reported["shards"][0]["actions"])
    text = machines.run("ci", "run", *RECIPES, "--shards", 2, "--times", "times.json").stdout
    assert "total time" in text
    assert sum(text.count(f"\n  {name}\n") for name in NAMES) == 3


def test_measured_times_move_variants(project):
    """All four have similar estimates; once one is measured at an hour, it gets its own shard."""
    labels = {
        job["name"]: job["actions"][-1]
        for job in project.json("ci", "plan", "recipes", "--format", "json")["jobs"]
    }
    times = {"version": 1, "seconds": {labels["small-int8"]: 3600.0}}
    project.write("times.json", json.dumps(times))
    shards = project.json("ci", "run", "recipes", "--shards", 2, "--times", "times.json", "--json")["shards"]
    assert ["small-int8"] in [shard["variants"] for shard in shards]
    assert max(shard["seconds"] for shard in shards) > 3600


def test_repeated_actions_are_listed_with_their_cost(project):
    found = project.json("ci", "run", "recipes/small.yaml", "--shards", 3, "--json")
    assert all(len(shard["variants"]) == 1 for shard in found["shards"])
    visual = next(item for item in found["repeated"] if item["label"].endswith("/build_visual"))
    assert visual["shards"] == [1, 2, 3]
    assert visual["extra"] == pytest.approx(2 * 30.0)
    assert (
        "repeated in shards 1, 2, 3: small-none/build_visual, 60 s extra"
        in project.run("ci", "run", "recipes/small.yaml", "--shards", 3).out
    )


def test_shard_without_variants_finishes_immediately(project):
    said = project.run("ci", "run", "recipes/other.yaml", "--shards", 2, "--index", 2)
    assert "shard 2 of 2: nothing" in said.err
    assert said.out == ""


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "give one of"),
        (["--job", "x", "--shards", "2"], "give one of"),
        (["--job", "x", "--index", "2"], "require --shards"),
        (["--shards", "2", "--index", "3"], "there are 2 shards"),
        (["--shards", "2", "--index", "1", "--json"], "--json cannot be combined with --index"),
    ],
)
def test_conflicting_options_are_usage_errors(project, words, said):
    assert said in project.run("ci", "run", "recipes", *words, status=2).err


@pytest.mark.parametrize(
    "text", ["", "[]", '{"version": 9, "seconds": {}}', '{"version": 1, "seconds": {"a": "b"}}']
)
def test_unreadable_times_are_reported(project, text):
    project.write("times.json", text)
    assert (
        "[MM816]" in project.run("ci", "run", "recipes", "--shards", 2, "--times", "times.json", status=1).err
    )
