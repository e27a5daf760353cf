"""mmbuild ci plan and the jobs it lists, as a CI service runs them."""

from __future__ import annotations

import json
import re
import shlex

import pytest
import yaml

from support.projects.ci_project import CiProject
from support.projects.demo_project import Project

MATRIX = """\
version: 1
name: tiny
extends: llava-int4.yaml
matrix: {quantization: [none, int8, int4]}
"""
_RAN = re.compile(r"^\[\S+\] done   (\S+): [\d.]+ s, peak", flags=re.M)


@pytest.fixture
def project(tmp_path, monkeypatch, capsys):
    return CiProject(tmp_path / "project", monkeypatch, capsys)


def outputs(text):
    return dict(line.partition("=")[::2] for line in text.splitlines())


@pytest.mark.slow
def test_every_action_runs_once_with_each_job_on_its_own_machine(tmp_path):
    def machine(name):
        (tmp_path / name).mkdir()
        found = Project(tmp_path / name)
        (found.root / "recipes" / "demo" / "tiny.yaml").write_text(MATRIX)
        found.environment |= {"MMBUILD_REMOTE": f"file://{tmp_path}/shared", "CI": "true"}
        return found

    (tmp_path / "shared").mkdir()
    planner = machine("planner")
    jobs = json.loads(planner.run("ci", "plan", "recipes/demo/tiny.yaml", "--format", "json").stdout)["jobs"]
    assert [(job["name"], job["needs"]) for job in jobs] == [
        ("shared-tiny", []),
        ("shared-tiny-build_visual", []),
        *((f"tiny-{name}", ["shared-tiny", "shared-tiny-build_visual"]) for name in ("none", "int8", "int4")),
    ]
    ran = []
    for job in jobs:
        here = machine(job["name"])
        said = here.run("ci", "run", "recipes/demo/tiny.yaml", "--job", job["name"])
        assert sorted(_RAN.findall(said.stderr)) == sorted(job["actions"])
        ran += _RAN.findall(said.stderr)
        laid_out = [path.name for path in (here.root / "build").glob("*")]
        assert laid_out == ([] if job["kind"] == "shared" else [job["name"]])
    plan = json.loads(planner.run("plan", "recipes/demo/tiny.yaml", "--json").stdout)
    assert sorted(ran) == sorted(action["label"] for action in plan["actions"])
    assert not [action for action in plan["actions"] if action["verdict"] == "run"]


def test_github_gets_a_matrix_for_each_stage(project):
    found = outputs(
        project.run("ci", "plan", "recipes", "--format", "github", "--runner", "cpu=a,m{memory_gib}").out
    )
    assert (found["has_sources"], found["has_shared"], found["has_engines"]) == ("false", "true", "true")
    assert json.loads(found["sources"]) == {"include": []}
    # The towers of both models have one shape, so that they share a compilation.
    shared = {entry["name"]: entry for entry in json.loads(found["shared"])["include"]}
    assert set(shared) == {"shared-small", "shared-build_visual"}
    assert (shared["shared-small"]["recipes"], shared["shared-small"]["runner"]) == (
        "recipes/small.yaml",
        ["a", "m1"],
    )
    assert shared["shared-build_visual"]["recipes"] == "recipes/other.yaml recipes/small.yaml"
    engines = json.loads(found["engines"])["include"]
    assert [entry["name"] for entry in engines] == ["other", "small-none", "small-int8", "small-int4"]


def test_recipes_of_a_job_are_words_of_a_shell(project):
    project.git("mv", "recipes/other.yaml", "recipes/an other.yaml")
    found = outputs(project.run("ci", "plan", "recipes", "--format", "github").out)
    entries = {
        entry["name"]: shlex.split(entry["recipes"]) for entry in json.loads(found["shared"])["include"]
    }
    assert entries["shared-build_visual"] == ["recipes/an other.yaml", "recipes/small.yaml"]


def test_gitlab_gets_a_child_pipeline_with_needs_whose_lines_run(project):
    words = ("--set", "engine.max_input_len=64", "--format", "gitlab", "--include", "ci/mmbuild.yml")
    pipeline = yaml.safe_load(project.run("ci", "plan", "recipes", *words).out)
    assert pipeline.pop("include") == [{"local": "ci/mmbuild.yml"}]
    stages = pipeline.pop("stages")
    assert set(pipeline) == {
        "shared-small", "shared-build_visual", "other", "small-none", "small-int8", "small-int4",
    }  # fmt: skip
    assert {job["stage"] for job in pipeline.values()} <= set(stages)
    job = pipeline["small-int8"]
    assert (job["extends"], job["needs"]) == (".mmbuild", ["shared-small", "shared-build_visual"])
    line = ["mmbuild", "ci", "run", "recipes", "--set", "engine.max_input_len=64", "--job", "small-int8"]
    assert shlex.split(job["script"][0]) == line


def test_empty_pipeline_still_has_a_job(project):
    said = project.run("ci", "plan", "recipes", "--changed-since", "HEAD", "--format", "gitlab")
    pipeline = yaml.safe_load(said.out)
    assert pipeline.keys() - {"stages"} == {"nothing to build"}
    assert "0 of 4 variants changed since HEAD" in said.err


@pytest.mark.parametrize(
    ("path", "old", "new", "changed"),
    [
        ("recipes/small.yaml", "int8, int4", "int8", []),
        ("recipes/small.yaml", "[none,", "[none, # a comment\n ", []),
        ("recipes/small.yaml", "matrix:", "engine: {tensorrt_llm: {fused_mlp: false}}\nmatrix:", []),
        ("recipes/small.yaml", "small", "tiny", ["tiny-none", "tiny-int8", "tiny-int4"]),
        ("recipes/other.yaml", "name: other", "name: other\nengine: {quantization: int8}", ["other"]),
        ("recipes/base/base.yaml", "len: 32", "len: 33", ["other", "small-none", "small-int8", "small-int4"]),
        ("model2/config.json", '"vocab_size": 102', '"vocab_size": 103', ["other"]),
    ],
)
def test_changed_since_names_the_variants_whose_keys_changed(project, path, old, new, changed):
    first = project.commit() if project.git("status", "--short") else "HEAD"
    project.change(path, old, new)
    jobs = project.json("ci", "plan", "recipes", "--changed-since", first, "--format", "json")["jobs"]
    assert [job["name"] for job in jobs if job["kind"] == "engine"] == changed
    shared = [job["name"] for job in jobs if job["kind"] == "shared"]
    assert ("shared-build_visual" in shared) == bool(changed)
    assert (set(shared) > {"shared-build_visual"}) == any(name.endswith("none") for name in changed)


def test_recipe_that_was_invalid_or_missing_counts_as_changed(project):
    project.change("recipes/other.yaml", "version: 1", "version: 7")
    broken = project.commit()
    project.change("recipes/other.yaml", "version: 7", "version: 1")
    project.write("recipes/more/new.yaml", "version: 1\nname: new\nextends: ../base/base.yaml\n")
    words = ("ci", "plan", "recipes", "recipes/more", "--changed-since", broken, "--format", "json")
    jobs = project.json(*words)["jobs"]
    assert [job["name"] for job in jobs if job["kind"] == "engine"] == ["other", "new"]


def test_job_of_a_changed_recipe_matches_the_job_of_ci(project):
    """`mmbuild ci run` does not know what changed: names and contents of jobs must not depend on it."""
    project.change("recipes/small.yaml", "quantization: [none, int8, int4]", "quantization: [int8, int4]")
    all_jobs = project.json("ci", "plan", "recipes", "--format", "json")["jobs"]
    project.change("recipes/other.yaml", "model2", "model")
    some = project.json("ci", "plan", "recipes", "--changed-since", "HEAD", "--format", "json")["jobs"]
    assert [job["name"] for job in some] != [job["name"] for job in all_jobs]
    for job in some:
        said = project.run("ci", "run", "recipes", "--job", job["name"] + "x", status=1).err
        assert "[MM813]" in said
        assert f"`{job['name']}`" in said


def test_shallow_clone_gets_a_hint_what_to_fetch(project, tmp_path, monkeypatch):
    old = project.git("rev-parse", "HEAD")
    project.change("recipes/base/base.yaml", "len: 32", "len: 33")
    project.commit()
    project.git("clone", "-q", "--depth", "1", f"file://{project.root}", str(tmp_path / "shallow"))
    monkeypatch.chdir(tmp_path / "shallow")
    said = project.run("ci", "plan", "recipes", "--changed-since", old, status=1).err
    assert "this shallow clone has no revision" in said
    assert "[MM811]" in said
    assert "fetch-depth: 0" in said


def test_a_revision_that_looks_like_an_option_is_a_revision(project):
    assert "[MM811]" in project.run("ci", "plan", "recipes", "--changed-since=--output=x", status=1).err


def test_outside_of_git_nothing_can_be_compared(project, tmp_path, monkeypatch):
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
    (project.root / ".git").rename(tmp_path / "git")
    assert "[MM812]" in project.run("ci", "plan", "recipes", "--changed-since", "HEAD", status=1).err


def test_directory_without_recipes_and_invalid_recipes_are_reported(project):
    (project.root / "recipes" / "none").mkdir()
    assert "[MM810]" in project.run("ci", "plan", "recipes/none", status=1).err
    project.change("recipes/small.yaml", "name: small", "name: small\ngate: {}")
    project.change("recipes/other.yaml", "version: 1", "version: 7")
    said = project.run("ci", "plan", "recipes", status=1).err
    assert "recipes/small.yaml:3:1" in said
    assert "recipes/other.yaml:1:10" in said


def test_more_jobs_than_github_allows_are_refused(project):
    lengths = ", ".join(str(length) for length in range(32, 64))
    axes = f"{{quantization: [none, int8, int4], max_input_len: [{lengths}], max_batch_size: [1, 2, 3]}}"
    project.write("recipes/small.yaml", f"version: 1\nname: small\nextends: base/base.yaml\nmatrix: {axes}\n")
    assert "[MM814]" in project.run("ci", "plan", "recipes/small.yaml", "--format", "github", status=1).err


def test_locks_are_trusted_but_refused_where_recipes_changed(project):
    for name in ("small", "other"):
        project.run("lock", f"recipes/{name}.yaml")
    assert len(project.json("ci", "plan", "recipes", "--locked", "--format", "json")["jobs"]) == 6
    project.change("recipes/base/base.yaml", "len: 32", "len: 33")
    assert "[MM802]" in project.run("ci", "plan", "recipes", "--locked", status=1).err
    assert "[MM804]" in project.run("ci", "plan", "recipes", "--locked", "--set", "name=x", status=2).err
