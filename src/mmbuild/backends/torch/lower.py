"""A resolved recipe to actions: which steps, with which parameters, fed by what.

What is in an action's parameters is in its key, so each action gets exactly what its result depends on:
``convert`` and ``quantize`` know nothing of lengths or targets, ``build_llm`` and ``build_visual`` know shapes and no
weights, so that fine-tunes share a compilation, and ``build_visual`` and ``convert_visual`` know no quantization, so
that all quantizations of a model share them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from mmbuild.backends.base import PlanContext
from mmbuild.backends.lowering import calibration as lower_calibration
from mmbuild.backends.lowering import estimate, local_environment, step_params
from mmbuild.backends.lowering.downloads import download
from mmbuild.backends.tensorrt.plan import plan_tensorrt
from mmbuild.base.optional_packages import require
from mmbuild.base.pins import EMBEDDED
from mmbuild.core.graph.action import Action, RecipeGraph, Resources
from mmbuild.core.graph.keys import make_action
from mmbuild.core.steps.registry import steps
from mmbuild.evaluation.bounds import bounds
from mmbuild.models.checkpoint import calibrated_layout as calibrated_layouts
from mmbuild.models.families import family
from mmbuild.models.sources.config import parse_source
from mmbuild.schema.gate_rules import is_dummy
from mmbuild.schema.model import VisualBackend
from mmbuild.schema.resolved import ResolvedRecipe

QUANT_ALGO: Mapping[str, str | None] = {
    "none": None,
    "int8": "W8A16",
    "int4": "W4A16",
    **{name: how.quant_algo for name, how in calibrated_layouts.ALGORITHMS.items()},
}

# Packages of an engine that compile at once, and of its tower, of which most have three.
_COMPILE_CORES, _VISUAL_CORES = 4, 3
_LIMITS = ("max_batch_size", "max_beam_width", "max_input_len", "max_output_len", "max_multimodal_len")


def lower(variant: ResolvedRecipe, context: PlanContext) -> RecipeGraph:
    """The actions of one variant, for the torch backend.

    Args:
        variant: A validated recipe with all numbers solved.
        context: Inputs besides the recipe; the recipe's ``target`` overrides the context's.

    Raises:
        MissingPackageError: MM230, torch or transformers is not installed.
        MmbuildError: The source cannot be identified.
    """
    return _Lowering(variant, context).graph()


def _target(variant: ResolvedRecipe, host: Mapping[str, Any]) -> dict[str, Any]:
    stated = variant.recipe.target
    merged = dict(host)
    if stated is not None:
        merged |= {key: str(value) if key != "sm" else value for key, value in stated if value is not None}
    return local_environment.target(merged)


def _require_tokenizer_library(variant: ResolvedRecipe) -> None:
    """Refuse a local model whose only tokenizer is a SentencePiece file where nothing reads one: the engine could be
    built and not asked.

    Raises:
        MissingPackageError: MM230, sentencepiece is not installed.
    """
    ref = parse_source(variant.recipe.model.source)
    if ref.kind not in ("directory", "dummy-directory"):
        return
    for name in ("", *variant.facts.directories):
        directory = variant.root / ref.value / name
        if (directory / "tokenizer.model").is_file() and not (directory / "tokenizer.json").is_file():
            require("sentencepiece", needed_by="the model's tokenizer.model", extra="torch,sentencepiece")


class _Lowering:
    """One variant on its way to a graph."""

    def __init__(self, variant: ResolvedRecipe, context: PlanContext) -> None:
        self.variant, self.recipe, self.facts = variant, variant.recipe, variant.facts
        self.context, self.target = context, _target(variant, context.target)
        self.engine = variant.recipe.engine
        self.algorithm = str(self.engine.quantization.algorithm.value)
        self.traits = family(self.facts.family).TRAITS
        stacks = [self.facts.llm] + ([self.facts.encoder] if self.facts.encoder else [])
        self.size = estimate.sizes(stacks, self.engine.dtype.value, self.algorithm)
        self.actions: list[Action] = []

    def graph(self) -> RecipeGraph:
        if self.context.pins.packages(EMBEDDED) is None:  # with pins, the plan may be for another machine
            _require_tokenizer_library(self.variant)
        sources = {name: self.download(name) for name in self.variant.configs}
        keys = {name: action.definition_key for name, action in sources.items()}
        checkpoint = self.checkpoint(keys)
        inputs = {
            "checkpoint": checkpoint.definition_key,
            "llm": self.build_llm().definition_key,
            **self.visual(keys),
            **keys,
        }
        engine = self.assemble(inputs)
        if self.recipe.verify is not None:
            self.verify(engine, keys)
        return RecipeGraph(self.variant.name, tuple(self.actions), engine.definition_key)

    def checkpoint(self, sources: Mapping[str, str]) -> Action:
        """What makes the LLM's weights: convert, and quantize; or calibration, which reads the model itself."""
        if self.algorithm in calibrated_layouts.ALGORITHMS:
            return self.fitted(sources)
        converted = self.convert(sources["model"])
        if self.algorithm == "none":
            return converted
        if self.engine.quantization.calibration is not None:
            return self.fitted({**sources, "checkpoint": converted.definition_key})
        return self.quantize(converted)

    def fitted(self, inputs: Mapping[str, str]) -> Action:
        """Quantization that is fitted on data, and what fetches them."""
        found = lower_calibration.lower_calibration(
            self.variant, inputs, self.size, self.target, self.context
        )
        self.actions += found
        return found[-1]

    def add(self, step: str, params: Mapping[str, Any], *, label: str | None = None, **rest: Any) -> Action:
        action = make_action(
            label=f"{self.variant.name}/{label or step}",
            step=step,
            version=steps()[step].version,
            params=params,
            **rest,
        )
        self.actions.append(action)
        return action

    def download(self, name: str) -> Action:
        action = download(self.variant, name, self.size.model, self.context)
        self.actions.append(action)
        return action

    def convert(self, model: str) -> Action:
        return self.add(
            "convert",
            step_params.convert(self.facts, self.engine.dtype.value, self.engine.tensor_parallel),
            inputs={"model": model},
            resources=Resources(
                cores=estimate.weight_cores(self.size.checkpoint),
                memory=self.size.convert_memory,
                disk=self.size.checkpoint,
                seconds=self.size.checkpoint / 500e6,
            ),
        )

    def quantize(self, checkpoint: Action) -> Action:
        return self.add(
            "quantize",
            {"algorithm": self.algorithm},
            inputs={"checkpoint": checkpoint.definition_key},
            resources=Resources(
                cores=estimate.weight_cores(self.size.checkpoint),
                memory=self.size.convert_memory,
                disk=self.size.quantized,
                seconds=self.size.checkpoint / 200e6,
            ),
        )

    def build_llm(self) -> Action:
        facts, engine = self.facts, self.engine
        dtype = engine.dtype.value
        limits = {name: getattr(engine, name) for name in _LIMITS}
        return self.add(
            "build_llm",
            step_params.build_llm(
                facts,
                dtype,
                QUANT_ALGO[self.algorithm],
                engine.tensor_parallel,
                limits,
                engine.quantization.group_size,
            ),
            target=self.target,
            toolchain={"torch": local_environment.compiler(self.target, self.context.pins)},
            resources=self.compiling(
                2 * self.size.engine_memory + self._caches() // facts.llm.num_hidden_layers,
                30.0,
                _COMPILE_CORES,
            ),
        )

    def _caches(self) -> int:
        """Bytes of the key-value caches."""
        engine, cross = self.engine, self.facts.llm.cross_attention
        slots = engine.max_input_len + engine.max_output_len
        if cross and self.facts.encoder is None:
            slots += engine.max_multimodal_len or 0
        sequences = engine.max_batch_size * engine.max_beam_width
        return estimate.cache_memory(self.facts.llm, engine.dtype.value, sequences, slots)

    def visual(self, sources: Mapping[str, str]) -> dict[str, str]:
        """What makes the visual engine, by name of the input of ``assemble``: its packages and its weights; or a
        TensorRT engine, which contains them."""
        dtype = (self.recipe.visual.dtype or self.engine.dtype).value
        shape = step_params.visual_shape(self.facts.family, self.variant.configs)
        params = step_params.build_visual(
            self.facts, shape, dtype, self.engine.dtype.value, self.recipe.visual.max_batch_size
        )
        if self.recipe.visual.backend is VisualBackend.TENSORRT:
            params["tensorrt"] = plan_tensorrt(self.target, dtype, self.context.pins)
            return {"visual": self.tensorrt_visual(params, sources).definition_key}
        return {
            "visual": self.build_visual(params).definition_key,
            "visual_weights": self.convert_visual(shape, dtype, sources).definition_key,
        }

    def build_visual(self, params: Mapping[str, Any]) -> Action:
        return self.add(
            "build_visual",
            params,
            target=self.target,
            toolchain=self._visual_toolchain(),
            resources=self.compiling(2 * self.size.engine_memory, 30.0, _VISUAL_CORES),
        )

    def tensorrt_visual(self, params: Mapping[str, Any], sources: Mapping[str, str]) -> Action:
        visual = self.facts.visual
        compiling = self.compiling(estimate.visual_memory(visual), 10.0 + 2.0 * visual.num_hidden_layers)
        return self.add(
            "build_visual",
            params,
            inputs=sources,
            target=self.target,
            toolchain=self._visual_toolchain(),
            # TensorRT chooses kernels by timing them.
            resources=replace(compiling, gpu_shared=False),
        )

    def _visual_toolchain(self) -> dict[str, str]:
        return {
            "torch": local_environment.compiler(self.target, self.context.pins),
            "transformers": self._transformers(),
        }

    def _transformers(self) -> str:
        return local_environment.version("transformers", self.context.pins)

    def convert_visual(self, shape: Mapping[str, Any], dtype: str, sources: Mapping[str, str]) -> Action:
        size = estimate.visual_size(self.facts.visual, dtype)
        return self.add(
            "convert_visual",
            step_params.convert_visual(self.facts.family, shape, dtype),
            inputs=sources,
            # It names and shapes the tensors.
            toolchain={"transformers": self._transformers()},
            resources=Resources(memory=estimate.GIB, disk=size, seconds=5.0 + size / 500e6),
        )

    def compiling(self, memory: int, seconds: float, cores: int = 1) -> Resources:
        on_gpu = self.target["device"] == "cuda"
        one_layer = self.size.checkpoint - self.size.layers + self.size.layer
        return Resources(
            cores=cores,
            memory=memory,
            disk=estimate.PACKAGE_DISK,
            gpus=1 if on_gpu else 0,
            gpu_memory=estimate.compile_gpu_memory(one_layer, cores) if on_gpu else 0,
            gpu_shared=True,
            seconds=seconds,
        )

    def assemble(self, inputs: Mapping[str, str]) -> Action:
        return self.add(
            "assemble",
            step_params.assemble(
                self.facts,
                local_environment.versions(self.context.pins),
                self.engine.generation_config.value,
            ),
            inputs=inputs,
            target=self.target,
            resources=Resources(memory=estimate.DOWNLOAD_MEMORY, seconds=0.5),
        )

    def verify(self, engine: Action, sources: Mapping[str, str]) -> Action:
        """What is measured, and its verdict, which has the gates in its key and nothing else."""
        required, stated = self.recipe.verify, self.recipe.gates
        assert required is not None
        images = {f"image{number}": Path(image) for number, image in enumerate(required.images)}
        gpus = self.engine.tensor_parallel if self.target["device"] == "cuda" else 0
        measures = self.add(
            "measure",
            {
                "prompts": list(required.prompts),
                "max_new_tokens": min(required.max_new_tokens, self.engine.max_output_len),
            },
            inputs={"engine": engine.definition_key, **sources},
            sources={name: self.context.digest(path) for name, path in images.items()},
            locators={name: str(path) for name, path in images.items()},
            target=self.target,
            toolchain=local_environment.versions(self.context.pins),
            resources=Resources(memory=self.size.verify_memory, gpus=gpus, seconds=20.0),
        )
        dummy = is_dummy(self.recipe)
        gates = bounds(self.algorithm, stated.model_dump() if stated else {}, dummy=dummy)
        return self.add(
            "verify",
            {"algorithm": self.algorithm, "gates": gates, "weights": "dummy" if dummy else "model"},
            inputs={"measures": measures.definition_key},
            resources=Resources(memory=estimate.DOWNLOAD_MEMORY, seconds=0.5),
        )
