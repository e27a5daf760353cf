"""Complete terminal output of the verbs that people read most. `pytest --inline-snapshot=fix` writes it again."""

from __future__ import annotations

import tarfile
from pathlib import Path

import pytest
from inline_snapshot import snapshot

from mmbuild.cli import main
from support.projects.demo_project import NAME, RECIPE, Project
from support.projects.recipe_project import RECIPE as SMALL
from support.projects.recipe_project import write_project
from support.screen import run_screen, screen

BUILT = Path(__file__).parents[1] / "fixtures" / "project-9d5f9bf.tar.xz"


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path)


def edit(project: Project, name: str, old: str, new: str) -> None:
    path = project.root / "recipes" / "demo" / name
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_validate_with_errors_and_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = SMALL.replace("source: model", "source: model\n  revision: v1").replace("float32", "flaot16")
    recipe = recipe.replace("max_batch_size", "max_batchsize") + "  max_multimodal_len: 97\n"
    write_project(tmp_path, recipe + "gates: {max_kl: many}\n")
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.chdir(tmp_path)
    status = main(["validate", "recipe.yaml"])
    assert screen(status, *capsys.readouterr(), tmp_path) == snapshot("""\
exit status 1
--- stderr
recipe.yaml:9:10: error: `engine.dtype` cannot be `flaot16` [MM112]
    9 |   dtype: flaot16
      |          ^^^^^^^
      allowed: float32, float16, bfloat16
      did you mean: float16

recipe.yaml:11:3: error: `engine` has no key `max_batchsize` [MM103]
   11 |   max_batchsize: 2
      |   ^^^^^^^^^^^^^
      allowed: backend, dtype, quantization, tensor_parallel, max_batch_size, max_images_per_prompt, max_beam_width, max_input_len, max_output_len, generation_config, max_multimodal_len, num_visual_features, tensorrt_llm, torch, hf
      did you mean: max_batch_size

recipe.yaml:16:17: error: `gates.max_kl` must be a number, not `many` [MM114]
   16 | gates: {max_kl: many}
      |                 ^^^^

recipe.yaml:6:13: warning: model.revision applies only to hf:// sources and is ignored [MM153]
    6 |   revision: v1
      |             ^^
      hint: remove model.revision

recipe.yaml:15:23: error: max_multimodal_len is 97, but max_batch_size 1 x max_images_per_prompt 3 x num_visual_features 16 = 48 [MM141]
   15 |   max_multimodal_len: 97
      |                       ^^
      hint: set it to 48, or omit the key: it is computed

4 errors, 1 warning; `mmbuild explain MM112` says more
""")


def test_explained_plan_of_a_new_recipe(project: Project) -> None:
    assert run_screen(project, "plan", RECIPE, "--explain") == snapshot("""\
exit status 0
--- stdout
llava-shapes-int4:
  num_visual_features = 64: (64 // 8)^2 = 64
  max_multimodal_len = 256: max_batch_size 4 x max_images_per_prompt 1 x num_visual_features 64 = 256
  visual.max_batch_size = 4: max_batch_size 4 x max_images_per_prompt 1 = 4
  max_seq_len = 168: max_input_len 128 + max_output_len 40 = 168

run  llava-shapes-int4/download         ~1 s  never built
run  llava-shapes-int4/convert          <1 s  never built
run  llava-shapes-int4/quantize         <1 s  never built
run  llava-shapes-int4/build_llm       ~30 s  never built
run  llava-shapes-int4/build_visual    ~30 s  never built
run  llava-shapes-int4/convert_visual   ~5 s  never built
run  llava-shapes-int4/assemble         <1 s  never built
run  llava-shapes-int4/measure         ~20 s  never built
run  llava-shapes-int4/verify           <1 s  never built
9 to run
takes about N s (estimated)
writes N MB, one action takes up to 2.7 GB of memory
llava-shapes-int4 takes about 1.6 GB of memory to run:
  weights N kB, caches N MB, tower N MB, 1.6 GB to work in
""")


def test_explained_plan_of_an_edited_recipe(project: Project) -> None:
    project.run("apply", RECIPE)
    assert run_screen(project, "plan", RECIPE) == snapshot("""\
exit status 0
--- stdout
up to date  llava-shapes-int4/download        nothing it depends on changed
up to date  llava-shapes-int4/convert         nothing it depends on changed
up to date  llava-shapes-int4/quantize        nothing it depends on changed
up to date  llava-shapes-int4/build_llm       nothing it depends on changed
up to date  llava-shapes-int4/build_visual    nothing it depends on changed
up to date  llava-shapes-int4/convert_visual  nothing it depends on changed
up to date  llava-shapes-int4/assemble        nothing it depends on changed
up to date  llava-shapes-int4/measure         nothing it depends on changed
up to date  llava-shapes-int4/verify          nothing it depends on changed
everything is up to date (9 actions)
""")
    edit(project, "llava.yaml", "max_batch_size: 4", "max_batch_size: 3")
    assert run_screen(project, "plan", RECIPE, "--explain") == snapshot("""\
exit status 0
--- stdout
llava-shapes-int4:
  num_visual_features = 64: (64 // 8)^2 = 64
  max_multimodal_len = 192: max_batch_size 3 x max_images_per_prompt 1 x num_visual_features 64 = 192
  visual.max_batch_size = 3: max_batch_size 3 x max_images_per_prompt 1 = 3
  max_seq_len = 168: max_input_len 128 + max_output_len 40 = 168

up to date  llava-shapes-int4/download               nothing it depends on changed
up to date  llava-shapes-int4/convert                nothing it depends on changed
up to date  llava-shapes-int4/quantize               nothing it depends on changed
run         llava-shapes-int4/build_llm       ~30 s  parameter `max_batch_size` changed from 4 to 3 (and 1 more)
run         llava-shapes-int4/build_visual    ~30 s  parameter `max_batch_size` changed from 4 to 3
up to date  llava-shapes-int4/convert_visual         nothing it depends on changed
may change  llava-shapes-int4/assemble         <1 s  depends on the result of `llava-shapes-int4/build_llm` (input `llm`)
may change  llava-shapes-int4/measure          <1 s  depends on the result of `llava-shapes-int4/assemble` (input `engine`)
may change  llava-shapes-int4/verify           <1 s  depends on the result of `llava-shapes-int4/measure` (input `measures`)
2 to run, 3 may change, 4 up to date
takes about N s (3 of 5 durations measured before, others estimated)
writes N MB, one action takes up to 2.7 GB of memory
llava-shapes-int4 takes about 1.6 GB of memory to run:
  weights N kB, caches N MB, tower N MB, 1.6 GB to work in
""")


def test_why_after_an_edit(project: Project) -> None:
    project.run("apply", RECIPE)
    edit(project, "llava.yaml", "max_batch_size: 4", "max_batch_size: 3")
    assert run_screen(project, "why", RECIPE) == snapshot("""\
exit status 0
--- stdout
llava-shapes-int4: what changed since TIME

  llava-shapes-int4/build_llm (run)
    parameter `max_batch_size` changed from 4 to 3
    parameter `max_multimodal_len` changed from 256 to 192
      recipes/demo/llava.yaml:11:19: `engine.max_batch_size: 3` was 4
    leads to assemble, measure, verify

  llava-shapes-int4/build_visual (run)
    parameter `max_batch_size` changed from 4 to 3
      recipes/demo/llava.yaml:11:19: `engine.max_batch_size: 3` was 4
    leads to assemble, measure, verify
""")
    assert run_screen(project, "why", RECIPE, "verify") == snapshot("""\
exit status 0
--- stdout
llava-shapes-int4/verify (may change)
  input `measures` changed, which is produced by
    llava-shapes-int4/measure (may change)
      input `engine` changed, which is produced by
        llava-shapes-int4/assemble (may change)
          input `llm` changed, which is produced by
            llava-shapes-int4/build_llm (run)
              parameter `max_batch_size` changed from 4 to 3
              parameter `max_multimodal_len` changed from 256 to 192
                recipes/demo/llava.yaml:11:19: `engine.max_batch_size: 3` was 4
          input `visual` changed, which is produced by
            llava-shapes-int4/build_visual (run)
              parameter `max_batch_size` changed from 4 to 3
                recipes/demo/llava.yaml:11:19: `engine.max_batch_size: 3` was 4
""")


def test_diff_of_two_builds(project: Project) -> None:
    project.run("apply", RECIPE)
    project.run("apply", RECIPE, "--set", "engine.max_batch_size=3", "--build-dir", "other")
    assert run_screen(project, "diff", f"build/{NAME}", f"other/{NAME}", "--exit-code", status=1) == snapshot("""\
exit status 1
--- stdout
- build/llava-shapes-int4  llava-shapes-int4  built TIME
+ other/llava-shapes-int4  llava-shapes-int4  built TIME

recipe:
  engine.max_batch_size  4 -> 3

steps:
  build_llm: different result
    parameter `max_batch_size` changed from 4 to 3
    parameter `max_multimodal_len` changed from 256 to 192
  build_visual: different result
    parameter `max_batch_size` changed from 4 to 3
  assemble: different result
    input `llm` comes from build_llm
    input `visual` comes from build_visual
  measure: different result
    input `engine` comes from assemble
  verify: different result
    input `measures` comes from measure

files:
  result.json         N kB
  verify/result.json  N kB
""")


def test_compare_of_an_old_build(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with tarfile.open(BUILT) as archive:
        archive.extractall(tmp_path, filter="data")
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.chdir(tmp_path)
    status = main(["compare", "build/old"])
    assert screen(status, *capsys.readouterr(), tmp_path) == snapshot("""\
exit status 0
--- stdout
                        old
family                  llava
backend                 torch
device                  cpu avx512
ranks                   1
dtype                   float32
quantization            W8A16
weights                 N kB
packages                N MB
building took N s
building's peak memory  N MB

note: the weights of `build/old` are random: its quality is meaningless
--- stderr
warning: `build/old` was built by a version that wrote no digests to manifest.json; its files are not checked [MM762]
  hint: run `mmbuild apply` with its recipe to restore it, with digests
""")
