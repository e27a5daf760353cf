"""`mmbuild logs`."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path

import pytest
from inline_snapshot import snapshot

from mmbuild.cli import main
from mmbuild.core.store.action_logs import RUNNING, LoggedRun, append_run, process_start, read_runs
from mmbuild.core.store.layout import open_store
from support.projects.demo_project import NAME, RECIPE, Project
from support.screen import run_screen

LABEL = f"{NAME}/quantize"


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path)


@pytest.fixture
def failed(project: Project) -> Project:
    """Its last apply failed: quantize printed two lines and was killed."""
    project.run("apply", RECIPE, "-j1", status=1, MMBUILD_TEST_KILL="int4")
    return project


def test_nothing_has_been_built(project: Project) -> None:
    assert run_screen(project, "logs") == "exit status 0\n--- stdout\nnothing has been built yet\n"


def test_the_logs_of_the_last_apply(failed: Project) -> None:
    assert run_screen(failed, "logs") == snapshot("""\
exit status 0
--- stdout
action                            status  began                took   log
llava-shapes-int4/build_llm       done    TIME N s  0 B
llava-shapes-int4/build_visual    done    TIME N s  0 B
llava-shapes-int4/download        done    TIME N s  0 B
llava-shapes-int4/convert_visual  done    TIME N s  0 B
llava-shapes-int4/convert         done    TIME N s  0 B
llava-shapes-int4/quantize        failed  TIME N s  26 B
""")


def test_only_the_last_apply_is_listed(failed: Project) -> None:
    failed.run("apply", RECIPE)
    found = json.loads(failed.run("logs", "--json").stdout)
    assert [(run["label"].split("/")[1], run["status"]) for run in found] == [
        ("quantize", "done"),
        ("assemble", "done"),
        ("measure", "done"),
        ("verify", "done"),
    ]


@pytest.mark.parametrize("label", [LABEL, "quantize"])
def test_the_log_of_a_failed_action(failed: Project, label: str) -> None:
    assert run_screen(failed, "logs", label) == "exit status 0\n--- stdout\nlayer 1 of 2\nlayer 2 of 2\n"


def test_the_failure_names_the_command_that_prints_the_log(failed: Project) -> None:
    words = ["apply", RECIPE, "--store", "other store", "-j1"]
    said = failed.run(*words, status=1, MMBUILD_TEST_KILL="int4").stderr
    assert f"  log: `mmbuild logs {LABEL} --store '{failed.root}/other store'`\n" in said
    assert "logs/" not in said
    events = failed.run("apply", RECIPE, "-j1", "--json", status=1, MMBUILD_TEST_KILL="int4").stdout
    (failure,) = [event for event in map(json.loads, events.splitlines()) if event["event"] == "failed"]
    assert Path(failure["log"]).read_text() == "layer 1 of 2\nlayer 2 of 2\n"


def test_json_of_one_run_has_the_text(failed: Project) -> None:
    found = json.loads(failed.run("logs", LABEL, "--json").stdout)
    assert (found["label"], found["status"], found["cut"]) == (LABEL, "failed", False)
    assert found["text"] == "layer 1 of 2\nlayer 2 of 2\n"
    assert found["size"] == Path(found["log"]).stat().st_size
    assert found["seconds"] >= 0


def test_a_log_that_is_empty_says_so(failed: Project) -> None:
    done = failed.run("logs", "convert")
    assert (done.stdout, done.stderr) == ("", f"`{NAME}/convert` (done) printed nothing\n")


@pytest.mark.parametrize(
    ("label", "message", "hint"),
    [
        ("quantise", "no action `quantise` has run with this store", "did you mean `quantize`?"),
        (f"{NAME}/quantise", f"no action `{NAME}/quantise` has run", f"did you mean `{LABEL}`?"),
        ("%%%", "no action `%%%`", "`mmbuild logs` lists the logs of the last apply"),
    ],
)
def test_a_misspelt_label(failed: Project, label: str, message: str, hint: str) -> None:
    said = failed.run("logs", label, status=1).stderr
    assert f"error: {message}" in said
    assert "[MM328]" in said
    assert f"hint: {hint}" in said


@pytest.mark.parametrize("build", [NAME, f"build/{NAME}", f"./build/{NAME}/"])
def test_the_logs_of_a_build(project: Project, build: str) -> None:
    project.run("apply", RECIPE)
    project.run("apply", "recipes/demo/vila.yaml")
    listed = project.run("logs", build).stdout.splitlines()[1:]
    assert {line.split()[0].rpartition("/")[0] for line in listed} == {NAME}
    assert f"{NAME}/build_llm" in {line.split()[0] for line in listed}
    assert {one["label"] for one in json.loads(project.run("logs", build, "--json").stdout)} == {
        line.split()[0] for line in listed
    }


def test_a_name_without_logs_names_the_builds_that_have_some(failed: Project) -> None:
    said = failed.run("logs", RECIPE, status=1).stderr
    assert f"hint: `mmbuild logs` lists the logs of the last apply; builds with logs are `{NAME}`\n" in said


def test_a_step_of_several_variants_is_ambiguous(project: Project) -> None:
    project.run("apply", RECIPE, "recipes/demo/vila.yaml")
    said = project.run("logs", "assemble", status=1).stderr
    assert "several actions of the last apply are `assemble`" in said
    assert f"`{NAME}/assemble`, `vila-shapes/assemble`" in said


def test_control_characters_are_visible(failed: Project) -> None:
    log = Path(json.loads(failed.run("logs", LABEL, "--json").stdout)["log"])
    log.write_bytes(b"a\x1b[31;1merror:\x1b[0m\rb\xff\tc\xe2\x80\xae\n")
    assert failed.run("logs", LABEL).stdout == "a\\u001b[31;1merror:\\u001b[0m\\u000db\ufffd\tc\\u202e\n"


def test_a_log_that_was_removed(failed: Project) -> None:
    Path(json.loads(failed.run("logs", LABEL, "--json").stdout)["log"]).unlink()
    said = failed.run("logs", LABEL, status=1).stderr
    assert f"error: the log of `{LABEL}` is no longer in the store" in said
    row = next(line for line in failed.run("logs").stdout.splitlines() if LABEL in line)
    assert row.split()[-1] == "-"


def test_follow_prints_what_is_added_until_the_run_ends(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mmbuild.cli import logs

    store, key, pid = open_store(project.root / "store"), "a" * 64, os.getpid()
    run = LoggedRun("1", LABEL, key, RUNNING, 1.0, pid, process_start(pid), os.uname().nodename)
    append_run(store, run)
    store.log(key).write_text("first\n")
    printed: list[str] = []
    monkeypatch.setattr(logs.click, "echo", lambda text, **_: printed.append(text))
    waits = iter([lambda: store.log(key).open("a").write("second\n"), lambda: _end(store, run)])
    monkeypatch.setattr(logs.time, "sleep", lambda _: next(waits)())
    logs._follow(read_runs(store)[0], store)
    assert printed == ["first\n", "second\n", "last\n"]


def _end(store, run) -> None:
    from dataclasses import replace

    with store.log(run.key).open("a") as stream:
        stream.write("last\n")
    append_run(store, replace(run, status="done", at=3.0))


def test_a_running_action_is_followed(project: Project) -> None:
    """With a real apply, which waits until something is written into its pipe."""
    pipe = project.root / "pipe"
    os.mkfifo(pipe)
    applying = threading.Thread(
        target=project.run, args=("apply", RECIPE), kwargs={"MMBUILD_TEST_HOLD": str(pipe)}
    )
    applying.start()
    with pipe.open("w") as writer:  # opens once the action reads
        found = json.loads(project.run("logs", "quantize", "--json").stdout)
        assert (found["status"], found["seconds"]) == ("running", None)
        writer.write("go on")
    project.run("logs", "quantize", "--follow")
    assert json.loads(project.run("logs", "quantize", "--json").stdout)["status"] == "done"
    applying.join()


def test_follow_needs_an_action(project: Project) -> None:
    assert "give VARIANT/STEP" in project.run("logs", "--follow", status=2).stderr


@pytest.mark.parametrize("words", ["cache ls", "cache verify", "cache gc", "history", "logs"])
def test_a_store_that_does_not_exist_is_not_created_to_look_into_it(
    words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    missing = tmp_path / "mistyped"
    assert main([*words.split(), "--store", str(missing)]) == 1
    assert capsys.readouterr().err.startswith(f"error: there is no store at `{missing}` [MM303]\n")
    assert not missing.exists()
