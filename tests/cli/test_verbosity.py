"""`-q` and `-v`, before and after the command."""

from __future__ import annotations

import re

import pytest
from inline_snapshot import snapshot

from mmbuild.base import status_line
from mmbuild.cli import main
from support.projects.demo_project import NAME, RECIPE, Project
from support.screen import run_screen, without_volatile


def test_a_quiet_plan_is_its_counts(project: Project) -> None:
    for words in (["plan", RECIPE, "-q"], ["-q", "plan", RECIPE], ["plan", "--quiet", RECIPE]):
        assert run_screen(project, *words) == "exit status 0\n--- stdout\n9 to run\n"


def test_a_quiet_apply_prints_the_directories(project: Project) -> None:
    expected = f"exit status 0\n--- stdout\nbuild/{NAME}\n"
    assert run_screen(project, "apply", RECIPE, "-q") == expected
    assert run_screen(project, "-q", "apply", RECIPE) == expected


def test_a_quiet_apply_that_fails_prints_the_failure(project: Project) -> None:
    failed = run_screen(project, "apply", RECIPE, "-q", "-j1", status=1, MMBUILD_TEST_FAIL="int4")
    assert failed == snapshot("""\
exit status 1
--- stderr
error: step `quantize` of `llava-shapes-int4/quantize` failed: ZeroDivisionError: the test asked for it [MM310]
  log: `mmbuild logs llava-shapes-int4/quantize`

hint: read the log; `--debug` shows the traceback
1 failed, 5 ran; finished actions are kept
""")


def test_quiet_leaves_notes_out(project: Project) -> None:
    assert "note:" in project.run("plan", RECIPE, "--detailed-exitcode", status=3).stderr
    assert project.run("plan", RECIPE, "--detailed-exitcode", "-q", status=3).stderr == ""
    assert project.run("plan", "-q", RECIPE, "-o", "saved.plan").stderr == ""


def test_a_verbose_plan_has_all_reasons_inputs_and_keys(project: Project) -> None:
    project.run("apply", RECIPE)
    said = project.run("plan", RECIPE, "-v", "--set", "engine.max_batch_size=3").stdout
    (block,) = re.findall(r"^run +\S+/build_llm.*\n((?: .*\n)*)", said, re.M)
    assert without_volatile(block) == snapshot("""\
    parameter `max_batch_size` changed from 4 to 3
    parameter `max_multimodal_len` changed from 256 to 192
    definition: KEY
""")
    (block,) = re.findall(r"^up to date +\S+/convert .*\n((?: .*\n)*)", said, re.M)
    assert without_volatile(block) == snapshot("""\
    input `model`: llava-shapes-int4/download
    definition: KEY
    artifact: KEY
""")


def test_a_verbose_apply_prints_the_store_cached_results_and_log_lines(project: Project) -> None:
    failed = run_screen(project, "apply", RECIPE, "-v", "-j1", status=1, MMBUILD_TEST_KILL="int4")
    assert failed == snapshot("""\
exit status 1
--- stderr
store ROOT/store
[0/9] run    llava-shapes-int4/build_llm: never built
[1/9] done   llava-shapes-int4/build_llm: N s, peak N MB, output N kB
[1/9] run    llava-shapes-int4/build_visual: never built
[2/9] done   llava-shapes-int4/build_visual: N s, peak N MB, output 535 B
[2/9] run    llava-shapes-int4/download: never built
[3/9] done   llava-shapes-int4/download: N s, peak N MB, output N kB
[3/9] run    llava-shapes-int4/convert_visual: never built
[4/9] done   llava-shapes-int4/convert_visual: N s, peak N MB, output N kB
[4/9] run    llava-shapes-int4/convert: never built
[5/9] done   llava-shapes-int4/convert: N s, peak N MB, output N kB
[5/9] run    llava-shapes-int4/quantize: never built
  llava-shapes-int4/quantize | layer 1 of 2
  llava-shapes-int4/quantize | layer 2 of 2
[6/9] FAILED llava-shapes-int4/quantize [MM311]

error: the worker of `llava-shapes-int4/quantize` was killed (SIGKILL), most likely because memory ran out [MM311]
  | layer 1 of 2
  | layer 2 of 2
  log: `mmbuild logs llava-shapes-int4/quantize`

hint: use fewer `--jobs` or a machine with more memory; see `dmesg`; finished actions are kept
1 failed, 5 ran; finished actions are kept
""")
    again = project.run("apply", "-v", RECIPE).stderr
    assert f"cached {NAME}/convert: nothing it depends on changed\n" in again


def test_quiet_and_verbose_exclude_each_other(project: Project) -> None:
    for words in (["plan", "-q", "-v", RECIPE], ["-q", "plan", "-v", RECIPE]):
        assert project.run(*words, status=2).stderr.startswith(
            "error: --quiet and --verbose cannot be combined"
        )


@pytest.mark.parametrize("words", [["-q", "plan"], ["plan", "-q"], ["apply", "--dry-run", "--no-progress"]])
def test_quiet_commands_and_those_without_progress_show_no_status_line(
    project: Project, monkeypatch, words
) -> None:
    shown = []
    monkeypatch.setattr(status_line, "_terminal", lambda: shown.append("line"))
    monkeypatch.chdir(project.root)
    for name, value in project.environment.items():
        monkeypatch.setenv(name, value)
    assert main([*words, RECIPE]) == 0
    assert shown == []
    assert main(["plan", RECIPE]) == 0
    assert shown == ["line"]
