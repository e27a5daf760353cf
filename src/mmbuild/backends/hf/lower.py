"""A resolved recipe to actions.

``hf_weights`` holds everything that takes time, and depends on the model, the quantization and its data alone;
``hf_model`` adds the other files, ``measure`` asks the result, and ``hf_card`` writes what was measured into the
model card of the final directory.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmbuild.backends.base import PlanContext
from mmbuild.backends.hf import names
from mmbuild.backends.hf.commands import serving
from mmbuild.backends.hf.forms import FORMS, SAMPLED, quant_algo, quantization_config
from mmbuild.backends.lowering import calibration, estimate, local_environment, step_params
from mmbuild.backends.lowering.downloads import download
from mmbuild.core.graph.action import Action, RecipeGraph, Resources
from mmbuild.core.graph.keys import make_action
from mmbuild.core.steps.registry import steps
from mmbuild.evaluation.bounds import bounds
from mmbuild.models.sources.config import parse_source
from mmbuild.schema.calibration_rules import is_fitted_by_mmbuild
from mmbuild.schema.gate_rules import is_dummy
from mmbuild.schema.resolved import ResolvedRecipe

READER = "compressed-tensors"
"""The distribution that transformers reads quantized checkpoints with."""


def lower(variant: ResolvedRecipe, context: PlanContext) -> RecipeGraph:
    """The actions of one variant.

    Raises:
        MissingPackageError: MM230, torch or transformers is not installed; or compressed-tensors, if a quantized
            checkpoint is to be verified.
        MmbuildError: The source or the calibration data cannot be identified.
    """
    return _Lowering(variant, context).graph()


class _Lowering:
    """One variant on its way to a graph."""

    def __init__(self, variant: ResolvedRecipe, context: PlanContext) -> None:
        self.variant, self.recipe, self.facts = variant, variant.recipe, variant.facts
        self.context, self.engine = context, variant.recipe.engine
        # Where mmbuild's own torch calibrates and asks; a recipe's target is the server's.
        self.target = local_environment.target(context.target)
        self.algorithm = str(self.engine.quantization.algorithm.value)
        self.form = FORMS.get(self.algorithm)
        self.size = estimate.sizes([self.facts.llm], self.engine.dtype.value, self.algorithm)
        self.actions: list[Action] = []

    def graph(self) -> RecipeGraph:
        fetched = download(self.variant, "model", self.size.model, self.context)
        self.actions.append(fetched)
        model = fetched.definition_key
        checkpoint = self.model(self.weights(model), model)
        measures = self.measure(checkpoint, model) if self.recipe.verify is not None else None
        card = self.card(checkpoint, measures)
        if measures is not None:
            self.verify(measures)
        return RecipeGraph(self.variant.name, tuple(self.actions), card.definition_key)

    def add(self, step: str, params: Mapping[str, Any], **rest: Any) -> Action:
        action = make_action(
            label=f"{self.variant.name}/{step}",
            step=step,
            version=steps()[step].version,
            params=params,
            **rest,
        )
        self.actions.append(action)
        return action

    def weights(self, model: str) -> Action:
        """The action that writes the weights; if they are fitted, after the download of the data."""
        params = {
            **step_params.convert(self.facts, self.engine.dtype.value, 1),
            "algorithm": self.algorithm,
            "group_size": self.engine.quantization.group_size,
        }
        inputs, rest = {"model": model}, {}
        memory, seconds, gpus, gpu_memory = self.size.convert_memory, self.size.model / 200e6, 0, 0
        if is_fitted_by_mmbuild(self.engine):
            inputs |= self.data()
            files = calibration.data_files(self.variant)
            request = calibration.calibration_request(self.variant)
            params |= {"image_size": list(self.facts.visual.image_size), "calibration": request}
            on_gpu = self.target["device"] == "cuda"
            rest = {
                "sources": {name: self.context.digest(path) for name, path in files.items()},
                "locators": {name: str(path) for name, path in files.items()},
                "target": self.target,
                "toolchain": local_environment.versions(self.context.pins),
            }
            memory = estimate.calibration_memory(self.size, on_gpu=on_gpu) + self.sampled()
            seconds += estimate.calibration_seconds(
                self.size, self.algorithm, request["samples"], on_gpu=on_gpu
            )
            gpus, gpu_memory = int(on_gpu), estimate.calibration_gpu_memory(self.size) if on_gpu else 0
        resources = Resources(
            cores=estimate.weight_cores(self.size.checkpoint),
            # One layer in float32, twice.
            memory=memory + 2 * self.size.layer * 4,
            disk=self.size.quantized,
            gpus=gpus,
            gpu_memory=gpu_memory,
            seconds=seconds,
        )
        return self.add("hf_weights", params, inputs=inputs, resources=resources, **rest)

    def sampled(self) -> int:
        """Bytes of the inputs that are kept of all layers, float32."""
        llm = self.facts.llm
        return 4 * SAMPLED * llm.num_hidden_layers * (3 * llm.hidden_size + llm.intermediate_size)

    def data(self) -> dict[str, str]:
        """The input with the samples of a hub data set, if the recipe names one."""
        fetched = calibration.fetch_data(self.variant, self.context)
        if fetched is None:
            return {}
        self.actions.append(fetched)
        return {"data": fetched.definition_key}

    def model(self, weights: Action, model: str) -> Action:
        family, group_size = str(self.facts.family), self.engine.quantization.group_size
        quantization = (
            None
            if self.form is None
            else quantization_config(
                self.form, group_size, names.targets(family, self.facts.llm), names.ignored(family)
            )
        )
        return self.add(
            "hf_model",
            {
                "family": family,
                "dtype": self.engine.dtype.value,
                "quant_algo": quant_algo(self.algorithm),
                "quantization": quantization,
                "image_size": list(self.facts.visual.image_size),
                "image_token_id": self.facts.image_token_id,
                "vocab_size": self.facts.llm.vocab_size,
                "max_input_len": self.engine.max_input_len,
                "max_output_len": self.engine.max_output_len,
                "generation_config": self.engine.generation_config.value,
                "serving": serving(self.variant),
            },
            inputs={"weights": weights.definition_key, "model": model},
            resources=Resources(memory=estimate.DOWNLOAD_MEMORY, seconds=0.5),
        )

    def measure(self, checkpoint: Action, model: str) -> Action:
        required = self.recipe.verify
        assert required is not None
        images = {f"image{number}": Path(image) for number, image in enumerate(required.images)}
        reader = {} if self.form is None else {READER: self.reader()}
        return self.add(
            "measure",
            {
                "prompts": list(required.prompts),
                "max_new_tokens": min(required.max_new_tokens, self.engine.max_output_len),
            },
            inputs={"engine": checkpoint.definition_key, "model": model},
            sources={name: self.context.digest(path) for name, path in images.items()},
            locators={name: str(path) for name, path in images.items()},
            target=self.target,
            toolchain={**local_environment.versions(self.context.pins), **reader},
            resources=Resources(
                memory=self.size.verify_memory + self.size.checkpoint,
                gpus=1 if self.target["device"] == "cuda" else 0,
                seconds=20.0,
            ),
        )

    def reader(self) -> str:
        return local_environment.version(READER, self.context.pins)

    def card(self, checkpoint: Action, measures: Action | None) -> Action:
        model = self.recipe.model
        inputs = {"checkpoint": checkpoint.definition_key}
        if measures is not None:
            inputs["measures"] = measures.definition_key
        return self.add(
            "hf_card",
            {
                "name": self.variant.name,
                "source": self.source(),
                "revision": model.revision,
                "algorithm": self.algorithm,
                "calibration": self.calibrated_on(),
                "gates": self.gates(),
            },
            inputs=inputs,
            resources=Resources(memory=estimate.DOWNLOAD_MEMORY, seconds=0.5),
        )

    def source(self) -> str:
        """The model's source, without directories of this machine."""
        ref = parse_source(self.recipe.model.source)
        return self.recipe.model.source if ref.kind in ("hub", "dummy-hub") else Path(ref.value).name

    def calibrated_on(self) -> str | None:
        if not is_fitted_by_mmbuild(self.engine):
            return None
        stated = self.engine.quantization.calibration
        request = calibration.calibration_request(self.variant)
        return (
            f"{request['samples']} samples of `{Path(stated.data).name if stated else 'generated pictures'}`"
        )

    def gates(self) -> dict[str, Any]:
        stated = self.recipe.gates
        return bounds(self.algorithm, stated.model_dump() if stated else {}, dummy=is_dummy(self.recipe))

    def verify(self, measures: Action) -> Action:
        dummy = is_dummy(self.recipe)
        return self.add(
            "verify",
            {"algorithm": self.algorithm, "gates": self.gates(), "weights": "dummy" if dummy else "model"},
            inputs={"measures": measures.definition_key},
            resources=Resources(memory=estimate.DOWNLOAD_MEMORY, seconds=0.5),
        )
