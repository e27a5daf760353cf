"""Complete output of `mmbuild apply`, also of one that fails. `pytest --inline-snapshot=fix` writes it again."""

from __future__ import annotations

from inline_snapshot import snapshot

from support.projects.demo_project import RECIPE, Project
from support.screen import run_screen


def test_apply_of_a_new_recipe(project: Project) -> None:
    assert run_screen(project, "apply", RECIPE, "--jobs", "1") == snapshot("""\
exit status 0
--- stdout
build/llava-shapes-int4
--- stderr
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
[6/9] done   llava-shapes-int4/quantize: N s, peak N MB, output N kB
[6/9] run    llava-shapes-int4/assemble: never built
[7/9] done   llava-shapes-int4/assemble: N s, peak N MB, output N kB
[7/9] run    llava-shapes-int4/measure: never built
[8/9] done   llava-shapes-int4/measure: N s, peak N MB, output N kB
[8/9] run    llava-shapes-int4/verify: never built
[9/9] done   llava-shapes-int4/verify: N s, peak N MB, output N kB
[9/9] engine llava-shapes-int4: ROOT/build/llava-shapes-int4
done in N s: 9 ran, 0 reused
  llava-shapes-int4/build_llm N s
  llava-shapes-int4/build_visual N s
  llava-shapes-int4/download N s
  llava-shapes-int4/convert_visual N s
  llava-shapes-int4/convert N s
  llava-shapes-int4/quantize N s
  llava-shapes-int4/assemble N s
  llava-shapes-int4/measure N s
  llava-shapes-int4/verify N s
""")
    assert run_screen(project, "apply", RECIPE, "--jobs", "1") == snapshot("""\
exit status 0
--- stdout
build/llava-shapes-int4
--- stderr
everything is up to date (9 actions)
""")


def test_apply_with_a_step_that_raises(project: Project) -> None:
    failed = run_screen(project, "apply", RECIPE, "--jobs", "1", status=1, MMBUILD_TEST_FAIL="int4")
    assert failed == snapshot("""\
exit status 1
--- stderr
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
[6/9] FAILED llava-shapes-int4/quantize [MM310]

error: step `quantize` of `llava-shapes-int4/quantize` failed: ZeroDivisionError: the test asked for it [MM310]
  log: `mmbuild logs llava-shapes-int4/quantize`

hint: read the log; `--debug` shows the traceback
1 failed, 5 ran; finished actions are kept
""")


def test_apply_with_a_worker_that_is_killed(project: Project) -> None:
    """The end of its log is shown."""
    failed = run_screen(project, "apply", RECIPE, "--jobs", "1", status=1, MMBUILD_TEST_KILL="int4")
    assert failed == snapshot("""\
exit status 1
--- stderr
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
[6/9] FAILED llava-shapes-int4/quantize [MM311]

error: the worker of `llava-shapes-int4/quantize` was killed (SIGKILL), most likely because memory ran out [MM311]
  | layer 1 of 2
  | layer 2 of 2
  log: `mmbuild logs llava-shapes-int4/quantize`

hint: use fewer `--jobs` or a machine with more memory; see `dmesg`; finished actions are kept
1 failed, 5 ran; finished actions are kept
""")
