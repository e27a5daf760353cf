"""Our engines for ``benchmarks.against_vllm``: built by applying a recipe, with random weights.

Scales of AWQ and FP8 come from the weights alone, because Model Optimizer fits others for minutes and may be missing:
the step ``quantize`` is replaced for them, and everything else is the product's. Times do not depend on the scales.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING
from unittest import mock

from mmbuild.core.steps.context import StepContext
from mmbuild.core.steps.registry import StepSpec
from mmbuild.steps.table import STEPS

if TYPE_CHECKING:
    from benchmarks.against_vllm_sides import Job
    from mmbuild.core.graph.plan import Plan

QUANTIZATION = {"fp16": "none", "awq": "int4_awq", "fp8": "fp8", "int8": "int8", "int4": "int4"}
SIZES = (8, 32)


def quantize(context: StepContext) -> None:
    """The product's step, except that nothing is calibrated."""
    from benchmarks.calibrated_parts import write_data_free
    from mmbuild.models.families.facts import read_llm
    from mmbuild.steps.quantize import run

    params = context.params
    if "checkpoint" in context.inputs:
        run(context)
        return
    llm = read_llm(params["llm"])
    write_data_free(context.inputs["model"], context.out, params["algorithm"], llm, params["dtype"])


TABLE: Mapping[str, StepSpec] = {
    **STEPS,
    "quantize": replace(
        STEPS["quantize"], version="against-vllm-1", entry="benchmarks.against_vllm_engines:quantize"
    ),
}


def recipe(job: Job, size: int) -> str:
    """A recipe for batches of at most ``size`` prompts."""
    device, dtype, longest = ("cpu", "float32", 128) if job.tiny else ("cuda", "float16", 1024)
    return f"""version: 1
name: {job.form}-{size}
model:
  family: llava
  source: dummy://./model
target:
  device: {device}
engine:
  backend: torch
  dtype: {dtype}
  quantization: {QUANTIZATION[job.form]}
  max_batch_size: {size}
  max_input_len: {longest}
  max_output_len: 129
"""


def build(job: Job) -> Iterator[tuple[Path, list[int]]]:
    """Apply a recipe for each size that the batches need; yields the engine directories with their batches."""
    from mmbuild import api

    room = Path(job.room)
    # A recipe names files below its own directory only.
    shutil.copytree(
        job.model, room / "model", dirs_exist_ok=True, ignore=shutil.ignore_patterns("*.safetensors")
    )
    batches = {size: [n for n in job.batches if size == _size(n)] for size in SIZES}
    files = [room / f"{job.form}-{size}.yaml" for size in SIZES if batches[size]]
    for file in files:
        file.write_text(recipe(job, int(file.stem.rpartition("-")[2])))
    began = time.monotonic()
    plan = _plan(room, files)
    result = api.apply(plan, ignore_estimates=True)
    print(f"built in {time.monotonic() - began:.0f} s: {dict(result.times)}", flush=True)
    for made in plan.builds:
        yield made.directory, batches[int(made.recipe.rpartition("-")[2])]


def _size(batch: int) -> int:
    return next(size for size in SIZES if batch <= size)


def _plan(room: Path, files: list[Path]) -> Plan:
    """The plan of all recipes; planned as if Model Optimizer were installed, and it uses no GPU."""
    from mmbuild import api
    from mmbuild.backends.lowering import calibration

    with mock.patch.object(calibration, "_optimizer_version", return_value="unused"):
        recipes = [one for file in files for one in api.load_recipe(file)]
        plan = api.plan(recipes, store=room / "store", build_dir=room / "build")
    actions = [
        replace(planned, action=replace(action, resources=replace(action.resources, gpus=0, gpu_memory=0)))
        if (action := planned.action).step == "quantize"
        else planned
        for planned in plan.actions
    ]
    return replace(plan, actions=tuple(actions))
