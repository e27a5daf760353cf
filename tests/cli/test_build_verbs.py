"""plan, apply, cache and graph on real recipes with trivial step bodies, as a user runs them."""

import json
import re
import shutil

import pytest

from mmbuild.cli import main
from mmbuild.core.store.layout import open_store
from mmbuild.core.store.publish import publish
from support.projects.demo_project import NAME, RECIPE, Project

STEPS = (
    "download",
    "convert",
    "quantize",
    "build_llm",
    "build_visual",
    "convert_visual",
    "assemble",
    "measure",
    "verify",
)


@pytest.fixture
def project(tmp_path):
    return Project(tmp_path)


def planned(text):
    """Label -> verdict of a printed plan."""
    pattern = r"(run|may change|restore|up to date) +(\S+)/(\S+)  "
    return {m[3]: m[1] for line in text.splitlines() if (m := re.match(pattern, line))}


def test_plan_then_apply_then_nothing_to_do(project):
    assert planned(project.run("plan", RECIPE).stdout) == dict.fromkeys(STEPS, "run")
    project.run("plan", RECIPE, "--exit-code", status=3)
    done = project.run("apply", RECIPE)
    assert done.stdout.strip() == f"build/{NAME}"
    assert (project.root / "build" / NAME / "manifest.json").exists()
    assert set(planned(project.run("plan", RECIPE, "--exit-code").stdout).values()) == {"up to date"}
    assert "everything is up to date" in project.run("apply", RECIPE).stderr


def test_plan_of_a_change_names_exactly_what_runs(project):
    project.run("apply", RECIPE)
    change = ("--set", "engine.quantization=int8")
    verdicts = planned(project.run("plan", RECIPE, *change).stdout)
    named = {step for step, verdict in verdicts.items() if verdict in ("run", "may change")}
    assert named == {"quantize", "build_llm", "assemble", "measure", "verify"}
    events = [
        json.loads(line) for line in project.run("apply", RECIPE, *change, "--json").stdout.splitlines()
    ]
    assert {e["label"].split("/")[1] for e in events if e["event"] == "finished"} == named


def test_json_events_are_objects_with_a_schema(project):
    lines = project.run("apply", RECIPE, "--json").stdout.splitlines()
    events = [json.loads(line) for line in lines]
    assert {e["schema"] for e in events} == {1}
    assert events[0]["event"] == "plan"
    assert events[-1] | {"at": 0, "seconds": 0, "laid_out": []} == {
        "schema": 1, "event": "summary", "at": 0, "label": "", "ran": 9, "reused": 0, "failed": 0,
        "laid_out": [], "seconds": 0,
    }  # fmt: skip


def test_plan_json_has_the_schema_and_every_action(project):
    data = json.loads(project.run("plan", RECIPE, "--json").stdout)
    assert (data["schema"], data["kind"]) == (1, "plan")
    assert data["actions"][0]["step"] == "download"
    assert {a["verdict"] for a in data["actions"]} == {"run"}


def test_explain_shows_the_derivations(project):
    assert "num_visual_features = 64: (64 // 8)^2 = 64" in project.run("plan", RECIPE, "--explain").stdout


def test_a_dry_run_prints_the_plan_and_builds_nothing(project):
    for words in ((RECIPE,), (RECIPE, "--json")):
        planned_text = project.run("plan", *words).stdout
        assert project.run("apply", *words, "--dry-run").stdout == planned_text
    assert not (project.root / "build").exists()
    project.run("plan", RECIPE, "-o", "saved.plan")
    assert set(planned(project.run("apply", "saved.plan", "--dry-run").stdout).values()) == {"run"}
    project.run("apply", "saved.plan")
    again = planned(project.run("apply", RECIPE, "--dry-run").stdout)
    assert set(again.values()) == {"up to date"}
    assert (
        "--format github" in project.run("apply", RECIPE, "--dry-run", "--format", "github", status=2).stderr
    )


def test_a_saved_plan_is_applied_once(project):
    project.run("plan", RECIPE, "-o", "saved.plan")
    project.run("apply", "saved.plan")
    assert "stale" in project.run("apply", "saved.plan", status=4).stderr


@pytest.mark.parametrize("change", ["recipe", "source"])
def test_a_saved_plan_is_refused_when_something_changed(project, change):
    project.run("plan", RECIPE, "-o", "saved.plan")
    if change == "recipe":
        path = project.root / RECIPE
        path.write_text(path.read_text().replace("int4\n", "int8\n"))
    else:
        path = project.root / "examples/models/llava-shapes/tokenizer.json"
        path.write_text(path.read_text() + "\n")
    done = project.run("apply", "saved.plan", status=4)
    assert "hint:" in done.stderr
    assert not (project.root / "build").exists()


@pytest.mark.parametrize("text", ["{", "{}", '{"kind": "plan"}', '{"kind": "plan", "schema": 99}'])
def test_file_that_is_not_a_plan_is_reported(project, text):
    (project.root / "x.plan").write_text(text)
    assert "[MM201]" in project.run("apply", "x.plan", status=1).stderr


def test_changed_source_is_detected_and_named(project):
    project.run("apply", RECIPE)
    path = project.root / "examples/models/llava-shapes/tokenizer.json"
    path.write_text(path.read_text() + "\n")
    out = project.run("plan", RECIPE).stdout
    assert "source `model` changed" in out


def test_file_added_to_a_source_is_detected(project):
    """The plan cache must notice files it never read."""
    project.run("apply", RECIPE)
    (project.root / "examples/models/llava-shapes/added_tokens.json").write_text("{}")
    assert planned(project.run("plan", RECIPE).stdout)["download"] == "run"


def test_failure_fits_on_one_screen_with_the_log(project):
    done = project.run("apply", RECIPE, "--no-progress", status=1, MMBUILD_TEST_FAIL="int4")
    assert "ZeroDivisionError: the test asked for it" in done.stderr
    assert "log: " in done.stderr
    assert "finished actions are kept" in done.stderr
    assert len(done.stderr.splitlines()) < 25
    assert project.run(
        "apply", RECIPE, "--debug", status=1, MMBUILD_TEST_FAIL="int4", traceback="yes"
    ).stderr.count("Traceback")
    project.run("apply", RECIPE)


def test_broken_recipe_is_reported_with_its_location(project):
    (project.root / "bad.yaml").write_text("version: 1\nname: x\nmodle: {}\n")
    done = project.run("plan", "bad.yaml", status=1)
    assert "bad.yaml:3:1" in done.stderr
    assert done.stdout == ""


def test_foreign_store_and_missing_recipe_are_reported(project):
    (project.root / "mine").mkdir()
    (project.root / "mine" / "x").write_text("")
    assert "[MM303]" in project.run("plan", RECIPE, "--store", "mine", status=1).stderr
    assert "error" in project.run("plan", "absent.yaml", status=1).stderr


def test_cache_verbs(project):
    project.run("apply", RECIPE)
    listed = json.loads(project.run("cache", "ls", "--json").stdout)
    assert len(listed["artifacts"]) == len(STEPS)
    assert NAME in project.run("cache", "ls").stdout
    assert "0 faults" in project.run("cache", "verify").stderr
    shutil.rmtree(project.root / "build")
    assert "would free" in project.run("cache", "gc", "--dry-run").stderr
    assert len(project.run("cache", "gc", "--older-than", "1h").stdout.splitlines()) == 0
    assert len(project.run("cache", "gc", "--max-size", "0MB").stdout.splitlines()) == len(STEPS)
    assert json.loads(project.run("cache", "ls", "--json").stdout)["artifacts"] == []
    assert "error:" in project.run("cache", "gc", "--max-size", "lots", status=2).stderr


@pytest.mark.parametrize(
    ("options", "verb"),
    [(["--dry-run", "--max-size", "4kB"], "would free"), (["--max-size", "4kB"], "freed")],
)
def test_gc_says_why_it_frees_less_than_it_lists(tmp_path, capsys, options, verb):
    store = open_store(tmp_path / "store")
    for name in ("one", "two"):
        files = {"shared": b"s" * 2_000, name: name.encode() * 500}
        (store.staging / name).mkdir(parents=True)
        for path, content in files.items():
            (store.staging / name / path).write_bytes(content)
        publish(store, store.staging / name)
    assert main(["cache", "gc", "--store", str(store.root), *options]) == 0
    shown = capsys.readouterr()
    assert [line.split()[1:3] for line in shown.out.splitlines()] == [["3.5", "kB"]]
    assert shown.err.splitlines()[0] == (
        f"{verb} 1.5 kB of 3.5 kB, because artifacts share files; 1 artifacts kept (3.5 kB)"
    )


def test_cache_verify_exits_with_1_on_damage(project):
    project.run("apply", RECIPE)
    target = next((project.root / "store" / "objects").glob("*/*"))
    target.chmod(0o644)
    target.write_text("damage")
    assert "removed:" in project.run("cache", "verify", status=1).stdout
    project.run("cache", "verify")


def test_graph_prints_what_its_format_promises(project):
    assert project.run("graph", RECIPE).stdout.startswith("flowchart TD")
    assert project.run("graph", RECIPE, "--format", "dot").stdout.startswith("digraph")
    refused = project.run("graph", RECIPE, "--format", "svg", status=1, PATH=str(project.root))
    assert "MM206" in refused.stderr
    assert "--format mermaid" in refused.stderr


def test_a_second_plan_imports_neither_pydantic_nor_yaml_nor_torch(project):
    import time

    project.run("apply", RECIPE)
    deadline = (
        time.monotonic() + 20
    )  # files copied a moment ago are not cached until their times have settled
    while True:
        shown = project.run("apply", RECIPE, PYTHONPROFILEIMPORTTIME="1").stderr
        loaded = {line.split("|")[-1].strip().split(".")[0] for line in shown.splitlines() if "|" in line}
        if not loaded & {"pydantic", "yaml", "rich", "torch", "transformers", "jinja2", "pynvml"}:
            return
        assert time.monotonic() < deadline, loaded
