"""The action that calibrates a quantization and writes the quantized checkpoint.

Calibrated algorithms read the model itself and replace convert and quantize; int8 and int4 with calibration data read
the converted checkpoint.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from mmbuild.backends.base import PlanContext
from mmbuild.backends.lowering import estimate, local_environment, step_params
from mmbuild.backends.lowering.blame import blaming
from mmbuild.backends.lowering.estimate import Sizes
from mmbuild.base.gpu import gpus, least_memory
from mmbuild.base.optional_packages import install_hint
from mmbuild.base.pins import Pins
from mmbuild.core.graph.action import Action, Resources
from mmbuild.core.graph.keys import make_action
from mmbuild.core.steps.registry import steps
from mmbuild.models.calibration_data import hub_dataset
from mmbuild.models.calibration_data import samples as data
from mmbuild.models.calibration_data.samples import DEFAULT_SAMPLES, CalibrationError
from mmbuild.models.errors import SourceError
from mmbuild.models.sources import hub
from mmbuild.schema.model import WEIGHT_ONLY
from mmbuild.schema.resolved import ResolvedRecipe

# In addition to the packages that the model itself needs.
OPTIMIZER = "nvidia-modelopt"
# Bytes per image, and seconds to fetch one: guesses.
_PICTURE, _PICTURE_SECONDS = 500_000, 0.2


def _optimizer_version(recipe: str, pins: Pins) -> str:
    """Version of Model Optimizer: the pinned one, else the installed one.

    Raises:
        CalibrationError: MM462, it is not installed.
    """
    try:
        return pins.package(OPTIMIZER) or metadata.version(OPTIMIZER)
    except metadata.PackageNotFoundError:
        raise CalibrationError(
            f"the quantization of `{recipe}` needs `{OPTIMIZER}`, which is not installed",
            code="MM462",
            hint=install_hint("quantize") + local_environment.PLAN_WITH_LOCK,
        ) from None


def lower_calibration(
    variant: ResolvedRecipe,
    inputs: Mapping[str, str],
    size: Sizes,
    target: Mapping[str, Any],
    context: PlanContext,
) -> tuple[Action, ...]:
    """The action that writes the quantized checkpoint, preceded by the download of a hub data set if there is one.

    It runs in mmbuild's own environment for every backend, so backends share its result.

    Args:
        variant: A recipe whose quantization is calibrated.
        inputs: Definition keys of ``model``, optionally ``vision``, and ``checkpoint`` for int8 and int4.
        size: Sizes of the model.
        target: What mmbuild's torch runs on; part of the key.
        context: Inputs besides the recipe.

    Raises:
        MissingPackageError: MM230, torch or transformers is missing.
        CalibrationError: As :func:`fetch_data` and :func:`quantize`.
        SourceError: As :func:`fetch_data`.
    """
    versions = local_environment.versions(context.pins)
    fetched = fetch_data(variant, context)
    if fetched is None:
        return (quantize(variant, inputs, size, target, context, versions),)
    inputs = {**inputs, "data": fetched.definition_key}
    return (fetched, quantize(variant, inputs, size, target, context, versions))


def fetch_data(variant: ResolvedRecipe, context: PlanContext) -> Action | None:
    """The action that fetches samples of a hub data set; None if the recipe names none.

    Args:
        variant: A recipe whose quantization is calibrated.
        context: If it is offline, a branch resolves to its last known commit.

    Raises:
        CalibrationError: MM464, the data set's layout is not supported, as far as its file list shows.
        SourceError: The revision cannot be resolved.
    """
    calibration = variant.recipe.engine.quantization.calibration
    if calibration is None or not hub_dataset.is_data_set(calibration.data):
        return None
    requested = hub_dataset.parse(calibration.data)
    commit = _commit(requested.repo, calibration.revision, context)
    if commit is not None:
        _check_layout(requested, commit, offline=context.offline)
    return make_action(
        label=f"{variant.name}/calibration_data",
        step="calibration_data",
        version=steps()["calibration_data"].version,
        params={
            "repo": requested.repo,
            "commit": commit,
            "file": requested.file,
            "samples": calibration.samples,
            "seed": calibration.seed,
            "text_only": calibration.text_only,
            **({"revision": calibration.revision or "main"} if commit is None else {}),
        },
        resources=Resources(
            memory=estimate.DOWNLOAD_MEMORY,
            disk=calibration.samples * _PICTURE,
            download=calibration.samples * _PICTURE,
            seconds=1 + calibration.samples * _PICTURE_SECONDS,
        ),
    )


def _commit(repo: str, revision: str | None, context: PlanContext) -> str | None:
    key = "engine.quantization.calibration"
    try:
        with blaming(f"{key}.revision", f"{key}.data"):
            return hub.resolve_revision(repo, revision, offline=context.offline, pins=context.pins)
    except SourceError as error:
        if not context.offline or error.code != "MM422":
            raise
        # Good enough for a plan; the step itself refuses to run without a commit.
        return None


def _check_layout(requested: hub_dataset.DataSet, commit: str, *, offline: bool) -> None:
    try:
        names = hub.list_files(requested.repo, commit, offline=offline)
    except SourceError as error:
        if error.code != "MM422":
            raise
        return  # checked again when the data set is fetched
    hub_dataset.sample_file(requested, names)


def quantize(
    variant: ResolvedRecipe,
    inputs: Mapping[str, str],
    size: Sizes,
    target: Mapping[str, Any],
    context: PlanContext,
    toolchain: Mapping[str, str],
) -> Action:
    """The action that calibrates the model and writes the quantized checkpoint.

    Args:
        variant: A recipe whose quantization is calibrated.
        inputs: Definition keys of ``model``, optionally ``vision``, ``data`` if :func:`fetch_data` returned one,
            and ``checkpoint`` for int8 and int4.
        size: Sizes of the model.
        target: What mmbuild's torch runs on; calibration runs on that device.
        context: Inputs besides the recipe.
        toolchain: Versions of torch and transformers.

    Raises:
        CalibrationError: The data cannot be used (MM164 to MM167), or MM462.
    """
    engine, quantization = variant.recipe.engine, variant.recipe.engine.quantization
    files = data_files(variant)
    request = calibration_request(variant)
    on_gpu = target["device"] == "cuda"
    split = on_gpu and 0 < least_memory(gpus()) < estimate.calibration_gpu_memory(size)
    return make_action(
        label=f"{variant.name}/quantize",
        step="quantize",
        version=steps()["quantize"].version,
        params={
            **step_params.convert(variant.facts, engine.dtype.value, engine.tensor_parallel),
            "algorithm": quantization.algorithm.value,
            "group_size": quantization.group_size,
            "image_size": list(variant.facts.visual.image_size),
            "calibration": request,
        },
        inputs=inputs,
        sources={name: context.digest(path) for name, path in files.items()},
        locators={name: str(path) for name, path in files.items()},
        target=target,
        toolchain=toolchain
        if quantization.algorithm in WEIGHT_ONLY
        else {**toolchain, OPTIMIZER: _optimizer_version(variant.recipe.name, context.pins)},
        resources=Resources(
            cores=estimate.weight_cores(size.checkpoint),
            memory=estimate.calibration_memory(size, on_gpu=on_gpu, split=split),
            disk=size.quantized,
            gpus=1 if on_gpu else 0,
            gpu_memory=estimate.calibration_gpu_memory(size, split=split) if on_gpu else 0,
            seconds=estimate.calibration_seconds(
                size, quantization.algorithm.value, request["samples"], on_gpu=on_gpu
            ),
        ),
    )


def calibration_request(variant: ResolvedRecipe) -> dict[str, Any]:
    """Parameter ``calibration`` of a step that calibrates: which samples, or which prompts for generated pictures."""
    calibration = variant.recipe.engine.quantization.calibration
    if calibration is not None:
        return {
            "samples": calibration.samples,
            "seed": calibration.seed,
            "text_only": calibration.text_only,
        }
    prompts = list(variant.recipe.verify.prompts) if variant.recipe.verify else []
    return {"samples": DEFAULT_SAMPLES, "seed": 0, "prompts": prompts}


def data_files(variant: ResolvedRecipe) -> dict[str, Path]:
    """The data file and the images of the selected samples, by name.

    Raises:
        CalibrationError: The data cannot be used (MM164 to MM167).
    """
    calibration = variant.recipe.engine.quantization.calibration
    if calibration is None or hub_dataset.is_data_set(calibration.data):
        return {}
    path = Path(calibration.data)
    samples = data.load(path, calibration.samples, calibration.seed, text_only=calibration.text_only)
    images = {f"image{number}": image for number, image in enumerate(data.images(samples))}
    return {"data": path, **images}
