"""Table of the built-in steps. Planning reads it without importing any step."""

from __future__ import annotations

from collections.abc import Mapping

from mmbuild.core.steps.registry import StepSpec

_TENSORRT_LLM = "tensorrt-llm"
_TORCH = ("torch",)
_EXPORT = (*_TORCH, "torch.export", "mmbuild.backends.torch.compile_pool")
# Towers and processors; the module of a family's own classes adds little.
_MODELS = ("transformers.models.auto.processing_auto",)

STEPS: Mapping[str, StepSpec] = {
    spec.name: spec
    for spec in (
        StepSpec("download", "1", "mmbuild.steps.download:run"),
        StepSpec("calibration_data", "1", "mmbuild.steps.calibration_data:run"),
        StepSpec("convert", "3", "mmbuild.steps.convert:run", _TORCH),
        StepSpec("quantize", "2", "mmbuild.steps.quantize:run", _TORCH),
        StepSpec("build_llm", "8", "mmbuild.steps.build_llm:run", _EXPORT),
        StepSpec("build_visual", "5", "mmbuild.steps.build_visual:run", (*_EXPORT, *_MODELS)),
        StepSpec("convert_visual", "1", "mmbuild.steps.convert_visual:run", (*_TORCH, *_MODELS)),
        StepSpec("assemble", "7", "mmbuild.steps.assemble:run"),
        StepSpec("measure", "3", "mmbuild.steps.measure:run", (*_TORCH, *_MODELS)),
        StepSpec("verify", "4", "mmbuild.steps.verify:run"),
        # Backend hf: the weights, the files next to them, and the card.
        StepSpec("hf_weights", "4", "mmbuild.steps.hf_weights:run", _TORCH),
        StepSpec("hf_model", "1", "mmbuild.steps.hf_model:run"),
        StepSpec("hf_card", "3", "mmbuild.steps.hf_card:run"),
        # Backend tensorrt-llm: one step for all commands; upstream's runner needs more files next to its engines.
        StepSpec("toolchain", "1", "mmbuild.steps.run_toolchain:run", backend=_TENSORRT_LLM),
        StepSpec("toolchain_engine", "2", "mmbuild.steps.assemble_toolchain:run", backend=_TENSORRT_LLM),
        StepSpec("toolchain_verify", "1", "mmbuild.steps.verify_toolchain:run", backend=_TENSORRT_LLM),
    )
}
