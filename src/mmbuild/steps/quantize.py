"""Step ``quantize``: writes a weight-only checkpoint from an unquantized one, or a calibrated one from a model."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmbuild.core.steps.context import StepContext
from mmbuild.models.checkpoint.quantize import quantize_checkpoint
from mmbuild.models.families.facts import read_llm
from mmbuild.steps.assemble import copy_processor

if TYPE_CHECKING:
    from mmbuild.base.progress import Progress
    from mmbuild.models.checkpoint.weight_only_fit import Moments
    from mmbuild.models.families.processor import Request


def run(context: StepContext) -> None:
    """Quantize ``inputs["checkpoint"]``, or calibrate ``inputs["model"]`` if there is none (:func:`run_calibrated`).

    Params: ``algorithm``, ``int8`` or ``int4``. With ``calibration`` and the other parameters of
    :func:`run_calibrated`, the scales are fitted to the layers' inputs on the calibration samples.

    Raises:
        CheckpointError: The checkpoint is unreadable or already quantized, or its outputs cannot be packed.
        CalibrationError: The data cannot be used, or a layer's inputs were not finite.
    """
    if "checkpoint" not in context.inputs:
        run_calibrated(context)
        return
    quantize_checkpoint(
        context.inputs["checkpoint"],
        context.out,
        context.params["algorithm"],
        context.progress,
        max(1, context.cores),
        _moments(context) if "calibration" in context.params else None,
    )


def _moments(context: StepContext) -> dict[str, Moments]:
    """Statistics of the linear layers' inputs, by the weights' names in the checkpoint."""
    from mmbuild.backends.torch.calibration import activation_stats
    from mmbuild.backends.torch.calibration.calibrate import observe
    from mmbuild.models.checkpoint.tensor_table import tensors

    llm = read_llm(context.params["llm"])
    assert llm is not None
    moments = observe(activation_stats.measure, **calibration_inputs(context), progress=context.progress)
    return activation_stats.of_checkpoint(tensors(llm), moments)


def run_calibrated(context: StepContext) -> None:
    """Fit the quantization of ``inputs["model"]`` (and ``inputs["vision"]``) on data, and write the checkpoint.

    If the data comes from a data set, ``inputs["data"]`` is the output of step ``calibration_data``.

    Params: those of ``convert``, ``algorithm``, ``group_size``, ``image_size`` (height, width), and ``calibration``:
    ``samples``, ``seed``, with data ``text_only``, without data ``prompts``. Locators: ``data``, the JSONL file.

    Raises:
        CalibrationError: The data cannot be used, a layer cannot be fitted, or memory does not suffice.
        CheckpointError: The model's weights are missing or damaged.
        EngineError: transformers cannot load the model or its processor.
    """
    from mmbuild.backends.torch.calibration.calibrate import calibrate
    from mmbuild.backends.torch.calibration.write import write
    from mmbuild.models.checkpoint.calibrated_layout import ALGORITHMS
    from mmbuild.models.checkpoint.config import CheckpointConfig

    params = context.params
    observed = calibrate(
        **calibration_inputs(context),
        algorithm=params["algorithm"],
        group_size=params["group_size"],
        progress=context.progress,
    )
    llm = read_llm(params["llm"])
    assert llm is not None
    config = CheckpointConfig(
        llm=llm,
        dtype=params["dtype"],
        tensor_parallel=int(params["tensor_parallel"]),
        quant_algo=ALGORITHMS[params["algorithm"]].quant_algo,
        group_size=params["group_size"],
    )
    write(context.inputs["model"], context.out, params["family"], config, observed, context.progress)
    _log_readers(context.out)


def calibration_inputs(context: StepContext) -> dict[str, Any]:
    """Arguments of :func:`mmbuild.backends.torch.calibration.calibrate.observe`: the model, its requests, the device
    and the dtype."""
    from mmbuild.models.calibration_data.hub_dataset import FILE as DATA_FILE

    params, locators = context.params, dict(context.locators)
    sources = {name: path for name, path in context.inputs.items() if name not in ("checkpoint", "data")}
    if "data" in context.inputs:
        locators["data"] = str(context.inputs["data"] / DATA_FILE)
    device = str(context.target.get("device", "cpu"))
    with tempfile.TemporaryDirectory(dir=context.out.parent) as files:
        copy_processor(sources, Path(files))
        requests = _requests(params, Path(files), locators, context.progress)
    return {
        "sources": sources,
        "family": params["family"],
        "requests": requests,
        # CPUs are slow in 16 bits and have enough memory for 32.
        "dtype": params["dtype"] if device == "cuda" else "float32",
        "device": device,
    }


def _log_readers(checkpoint: Path) -> None:
    """Log which TensorRT-LLM release lines can read the checkpoint as written."""
    from mmbuild.backends.tensorrt_llm.toolchains.checkpoint_reader import lines_that_read, release_line

    lines, objection = lines_that_read(checkpoint)
    if objection is not None:
        print(f"no TensorRT-LLM version is known to read this: `{objection.key}` {objection.why}")
        return
    run, only_read = (
        [line for line in lines if release_line(line).reader_run is seen] for seen in (True, False)
    )
    if run:
        print(
            f"readable by TensorRT-LLM {', '.join(run)}: tested by running their readers on such checkpoints"
        )
    if only_read:
        print(
            f"readable by TensorRT-LLM {', '.join(only_read)} according to their sources; not tested by running"
        )


def _requests(
    params: Mapping[str, Any], processor_files: Path, locators: Mapping[str, str], progress: Progress
) -> list[Request]:
    """The requests that the model is calibrated on."""
    from mmbuild.backends.torch.calibration import calibrate as loop
    from mmbuild.models.calibration_data import samples as data
    from mmbuild.models.families.processor import load_processor
    from mmbuild.models.validation.prompts import DEFAULT_PROMPTS

    processor = load_processor(processor_files, params["family"])
    requested = params["calibration"]
    if "data" not in locators:
        progress(f"{requested['samples']} generated pictures: the recipe names no calibration.data", None)
        height, width = params["image_size"]
        prompts = requested["prompts"] or DEFAULT_PROMPTS
        return list(
            loop.synthetic_requests(
                processor, (height, width), prompts, requested["samples"], requested["seed"]
            )
        )
    path = Path(locators["data"])
    samples = data.load(path, requested["samples"], requested["seed"], text_only=requested["text_only"])
    positions = params["llm"]["max_position_embeddings"]
    return list(loop.calibration_requests(processor, samples, params["family"], positions))
