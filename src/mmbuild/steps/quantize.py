"""Step ``quantize``: an unquantized checkpoint to a weight-only one, or a model and data to a calibrated one."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmbuild.core.steps.context import StepContext
from mmbuild.models.checkpoint.quantize import quantize_checkpoint
from mmbuild.models.families.facts import read_llm
from mmbuild.steps.assemble import link_processor

if TYPE_CHECKING:
    from mmbuild.base.progress import Progress
    from mmbuild.models.checkpoint.clip_search import Moments
    from mmbuild.models.processor import Request


def run(context: StepContext) -> None:
    """Quantize ``inputs["checkpoint"]``; or, without one, calibrate ``inputs["model"]`` (:func:`run_calibrated`).

    Params: ``algorithm``, ``int8`` or ``int4``. Where there is ``calibration`` as well, with the other parameters of
    :func:`run_calibrated`, the model is shown its samples, and scales suit what its layers saw.

    Raises:
        CheckpointError: The checkpoint is unreadable, quantized already, or its outputs do not pack.
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
    """What the linear layers' inputs are like, by the checkpoint's names of their weights."""
    from mmbuild.backends.torch.calibration import activation_stats
    from mmbuild.backends.torch.calibration.calibrate import observe
    from mmbuild.models.checkpoint.tensor_table import tensors

    llm = read_llm(context.params["llm"])
    assert llm is not None
    found = observe(activation_stats.measure, **_calibration_inputs(context), progress=context.progress)
    return activation_stats.of_checkpoint(tensors(llm), found)


def run_calibrated(context: StepContext) -> None:
    """Fit the quantization of ``inputs["model"]`` (and ``inputs["vision"]``) on data, and write the checkpoint.

    Where data come from a data set, ``inputs["data"]`` holds what step ``calibration_data`` left.

    Params: those of ``convert``, ``algorithm``, ``group_size``, ``image_size`` (height, width), and ``calibration``:
    ``samples``, ``seed``, with data ``text_only``, without data ``prompts``. Locators: ``data``, the JSONL file.

    Raises:
        CalibrationError: The data cannot be used, a layer could not be fitted, or memory did not suffice.
        CheckpointError: The model's weights are missing or damaged.
        EngineError: transformers cannot load the model or its processor.
    """
    from mmbuild.backends.torch.calibration.calibrate import calibrate
    from mmbuild.backends.torch.calibration.write import write
    from mmbuild.models.checkpoint.calibrated_layout import ALGORITHMS
    from mmbuild.models.checkpoint.config import CheckpointConfig

    params = context.params
    observed = calibrate(
        **_calibration_inputs(context),
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


def _calibration_inputs(context: StepContext) -> dict[str, Any]:
    """The model, what it is shown, and how it runs: arguments of
    :mod:`mmbuild.backends.torch.calibration.calibrate`."""
    from mmbuild.models.calibration_data.hub_dataset import FILE as DATA_FILE

    params, locators = context.params, dict(context.locators)
    sources = {name: path for name, path in context.inputs.items() if name not in ("checkpoint", "data")}
    if "data" in context.inputs:
        locators["data"] = str(context.inputs["data"] / DATA_FILE)
    device = str(context.target.get("device", "cpu"))
    with tempfile.TemporaryDirectory(dir=context.out.parent) as files:
        link_processor(sources, Path(files))
        requests = _requests(params, Path(files), locators, context.progress)
    return {
        "sources": sources,
        "family": params["family"],
        "requests": requests,
        # CPUs are slow in 16 bits, and have the memory.
        "dtype": params["dtype"] if device == "cuda" else "float32",
        "device": device,
    }


def _log_readers(checkpoint: Path) -> None:
    """Into the log: which lines of TensorRT-LLM read what was really written."""
    from mmbuild.models.checkpoint.reader_compatibility import facts, lines_that_read

    lines, objection = lines_that_read(checkpoint)
    if objection is not None:
        print(f"no TensorRT-LLM version is known to read this: `{objection.key}` {objection.why}")
        return
    run, only_read = (
        [line for line in lines if facts().lines[line].reader_run is seen] for seen in (True, False)
    )
    if run:
        print(f"read by TensorRT-LLM {', '.join(run)}: their readers were run on checkpoints of this form")
    if only_read:
        print(f"taken by TensorRT-LLM {', '.join(only_read)} by their sources; their readers were not run")


def _requests(
    params: Mapping[str, Any], processor_files: Path, locators: Mapping[str, str], progress: Progress
) -> list[Request]:
    """What the model is shown."""
    from mmbuild.backends.torch.calibration import calibrate as loop
    from mmbuild.models.calibration_data import samples as data
    from mmbuild.models.processor import load_processor
    from mmbuild.models.prompts import DEFAULT_PROMPTS

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
