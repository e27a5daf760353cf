"""Lowers a recipe to actions for backend tensorrt-llm: downloads, the toolchain's commands, the engine directory.

Each group of commands that builds one artifact is an action (:mod:`mmbuild.backends.tensorrt_llm.toolchains.tasks`).
Its parameters are the commands and their expected outputs, so its key changes exactly when a command does: convert
does not depend on lengths, and all precisions of a model share one visual engine.

If a recipe names calibration data, mmbuild's own action writes the checkpoint instead of TensorRT-LLM's quantizer,
which would calibrate on text: the same action, with the same key, as for backend torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmbuild.backends.base import PlanContext
from mmbuild.backends.lowering import calibration as lower_calibration
from mmbuild.backends.lowering import estimate, local_environment
from mmbuild.backends.lowering.downloads import download
from mmbuild.backends.tensorrt_llm.output_checks.expectations import expect
from mmbuild.backends.tensorrt_llm.toolchains.capabilities import refusals
from mmbuild.backends.tensorrt_llm.toolchains.commands import Command
from mmbuild.backends.tensorrt_llm.toolchains.load import load_toolchain
from mmbuild.backends.tensorrt_llm.toolchains.memory_model import predict
from mmbuild.backends.tensorrt_llm.toolchains.model import Step
from mmbuild.backends.tensorrt_llm.toolchains.tasks import Task, places_of, shared, tasks
from mmbuild.backends.tensorrt_llm.toolchains.template_context import variables
from mmbuild.core.graph.action import Action, RecipeGraph, Resources
from mmbuild.core.graph.keys import make_action
from mmbuild.core.steps.registry import steps
from mmbuild.schema.model import WEIGHT_ONLY
from mmbuild.schema.resolved import ResolvedRecipe

# Names in `variables` that describe sources and are useless to a built engine.
_OF_SOURCES = frozenset(
    {
        "source",
        "source_url",
        "source_path",
        "revision",
        "vision_source",
        "visual_sources",
        "code_url",
        "code_revision",
        "inner_directories",
    }
)
_ENGINE_PARTS = ("model", "code", "llm", "visual")
_SECONDS: Mapping[str, float] = {
    "prepare": 30,
    "convert": 120,
    "quantize": 900,
    "build_llm": 300,
    "build_visual": 300,
}


@dataclass(frozen=True, slots=True)
class Environment:
    """The environment that runs a toolchain's commands, as far as a plan depends on it.

    Attributes:
        locator: :class:`~mmbuild.config.model.ToolchainEnvironment` as JSON; not part of keys. None if only its
            versions are known, from a lock.
        installed: Versions of installed packages; part of keys, because an engine loads only in the TensorRT that
            built it.
    """

    locator: str | None
    installed: Mapping[str, str]


def lower_toolchain(
    variant: ResolvedRecipe, context: PlanContext, environment: Environment | None
) -> RecipeGraph:
    """The actions of one variant with backend tensorrt-llm.

    Args:
        variant: A validated recipe with all numbers solved.
        context: Inputs besides the recipe. The recipe's ``target`` overrides the context's ``sm`` for the engine;
            calibration runs on the context's target, whichever GPU the engine is for.
        environment: Environment of the recipe's toolchain; None if none is configured: the plan can then be shown but
            not applied.

    Raises:
        ToolchainError: The toolchain cannot build the recipe.
        MmbuildError: The source cannot be identified, or calibration is not possible here.
    """
    return _Lowering(variant, context, environment).graph()


class _Lowering:
    """State of lowering one variant."""

    def __init__(
        self, variant: ResolvedRecipe, context: PlanContext, environment: Environment | None
    ) -> None:
        self.context, self.variant = context, variant
        self.engine, self.facts = variant.recipe.engine, variant.facts
        self.toolchain = load_toolchain(self.engine.tensorrt_llm.toolchain)
        self.building = shared(self.toolchain)
        stated = variant.recipe.target
        self.sm = stated.sm if stated is not None and stated.sm else context.target["sm"]
        self.target = {"device": "cuda", "sm": self.sm, "isa": None}
        self.versions = {
            "tensorrt-llm": self.toolchain.version,
            **(environment.installed if environment else {}),
        }
        self.locators = {"environment": environment.locator} if environment and environment.locator else {}
        stacks = [self.facts.llm] + ([self.facts.encoder] if self.facts.encoder else [])
        self.size = estimate.sizes(stacks, self.engine.dtype.value, self.engine.quantization.algorithm.value)
        self.known = variables(variant, self.toolchain)
        self.actions: list[Action] = []

    def graph(self) -> RecipeGraph:
        # Unlike the schema's checks, this one knows the GPU even if the recipe does not set it.
        for refusal in refusals(self.variant, self.toolchain, sm=self.sm):
            raise refusal
        sources = {
            name: self.add(download(self.variant, name, self.size.model, self.context))
            for name in self._sources()
        }
        producers = {"model": sources[self._source_read()]}
        if self.known["calibrated"]:
            producers["checkpoint"] = self.calibrate(sources)
        for task in tasks(self.variant, self.building):
            producers[task.makes] = self.task(task, producers)
        engine = self.assemble(producers)
        if self.variant.recipe.verify is not None:
            self.verify(engine)
        return RecipeGraph(self.variant.name, tuple(self.actions), engine.definition_key)

    def _sources(self) -> tuple[str, ...]:
        """Sources to fetch: calibration runs the whole model, commands read a single source."""
        return tuple(self.variant.configs) if self.known["calibrated"] else (self._source_read(),)

    def _source_read(self) -> str:
        """The source that the commands read: BLIP-2's full checkpoint is a recipe's second source."""
        whole = self.toolchain.families[self.variant.recipe.model.family].weights == "whole"
        return "vision" if whole and "vision" in self.variant.configs else "model"

    def calibrate(self, sources: Mapping[str, Action]) -> Action:
        """The checkpoint that mmbuild calibrates on the recipe's data, in its own environment."""
        inputs = {name: action.definition_key for name, action in sources.items()}
        target = local_environment.target(self.context.target)
        actions = lower_calibration.lower_calibration(self.variant, inputs, self.size, target, self.context)
        self.actions += actions
        return actions[-1]

    def add(self, action: Action) -> Action:
        self.actions.append(action)
        return action

    def action(self, label: str, step: str, params: Mapping[str, Any], **rest: Any) -> Action:
        return self.add(
            make_action(
                label=f"{self.variant.name}/{label}",
                step=step,
                version=steps()[step].version,
                params=params,
                **rest,
            )
        )

    def task(self, task: Task, producers: Mapping[str, Action]) -> Action:
        # Converting packs integer weights for one GPU architecture, and engines are specific to one.
        packed = task.step == "convert" and self.engine.quantization.algorithm in WEIGHT_ONLY
        bound = packed or task.step in ("build_llm", "build_visual")
        host = task.step == "prepare"
        return self.action(
            task.step,
            "toolchain",
            self.task_params(task),
            inputs={name: producers[name].definition_key for name in task.reads},
            target=self.target if bound else {},
            toolchain={} if host else self.versions,
            locators=self.locators,
            resources=self.resources(task.step),
        )

    def task_params(self, task: Task) -> dict[str, Any]:
        return {
            "toolchain": self.toolchain.version,
            "workdir": self.toolchain.workdir,
            "commands": [self.command(command) for command in task.commands],
            "reads": dict(task.reads),
            "place": task.place,
            "files": {name: dict(content) for name, content in task.files.items()},
        }

    def command(self, command: Command) -> dict[str, Any]:
        expected = expect(command, self.variant, self.building)
        return {
            "name": command.name,
            "argv": list(command.argv),
            "environment": dict(command.environment),
            "edit": command.edit and command.edit.model_dump(mode="json"),
            "expected": expected.model_dump(mode="json"),
        }

    def resources(self, step: Step) -> Resources:
        if step == "prepare":
            return Resources(memory=estimate.GIB, disk=estimate.GIB, seconds=_SECONDS[step])
        memory = predict(step, self.variant, self.toolchain)
        disk = estimate.GIB if step == "build_visual" else self.size.quantized
        # Converters also load the model onto a GPU, and none of the programs can be imported without a driver.
        # A converter with too little GPU memory falls back to host memory.
        gpu_memory = 0 if step == "convert" else memory.gpu
        return Resources(memory=memory.host, disk=disk, gpus=1, gpu_memory=gpu_memory, seconds=_SECONDS[step])

    def assemble(self, producers: Mapping[str, Action]) -> Action:
        return self.action(
            "assemble",
            "toolchain_engine",
            self.description(),
            inputs={name: producers[name].definition_key for name in _ENGINE_PARTS if name in producers},
            target=self.target,
            toolchain=self.versions,
            resources=Resources(memory=estimate.DOWNLOAD_MEMORY, seconds=0.5),
        )

    def description(self) -> dict[str, Any]:
        """Contents of ``engine.json``: enough to run the engine without its recipe."""
        family = self.variant.recipe.model.family
        known = {name: value for name, value in self.known.items() if name not in _OF_SOURCES}
        return {
            "family": self.facts.family,
            "tensor_parallel": self.engine.tensor_parallel,
            "variables": known,
            "places": {name: place for name, place in places_of(known).items() if name in _ENGINE_PARTS},
            "versions": self.versions,
            "generation_config": self.engine.generation_config.value,
            "files": {
                f"model/{name}": content
                for name, content in self.toolchain.families[family].model_files.items()
            },
        }

    def verify(self, engine: Action) -> Action:
        required = self.variant.recipe.verify
        assert required is not None
        images = {f"image{number}": Path(image) for number, image in enumerate(required.images)}
        return self.action(
            "verify",
            "toolchain_verify",
            {
                "prompts": list(required.prompts),
                "max_new_tokens": min(required.max_new_tokens, self.engine.max_output_len),
            },
            inputs={"engine": engine.definition_key},
            sources={name: self.context.digest(path) for name, path in images.items()},
            locators={**self.locators, **{name: str(path) for name, path in images.items()}},
            target=self.target,
            toolchain=self.versions,
            resources=Resources(
                memory=estimate.GIB + self.size.quantized, gpus=self.engine.tensor_parallel, seconds=120.0
            ),
        )
