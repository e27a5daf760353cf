"""Step ``quantize``: an unquantized checkpoint to a weight-only one, or a model and data to a calibrated one."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmbuild.checkpoint.quantize import quantize_checkpoint
from mmbuild.families.base import read_llm
from mmbuild.steps.assemble import link_processor
from mmbuild.steps.base import StepContext

if TYPE_CHECKING:
    from mmbuild.checkpoint.progress import Progress
    from mmbuild.engine.processor import Request


def run(context: StepContext) -> None:
    """Quantize ``inputs["checkpoint"]``; or, without one, calibrate ``inputs["model"]`` (:func:`calibrated`).

    Params: ``algorithm``, ``int8`` or ``int4``.

    Raises:
        CheckpointError: The checkpoint is unreadable, quantized already, or its outputs do not pack.
    """
    if "checkpoint" not in context.inputs:
        calibrated(context)
        return
    quantize_checkpoint(
        context.inputs["checkpoint"],
        context.out,
        context.params["algorithm"],
        context.progress,
        max(1, context.cores),
    )


def calibrated(context: StepContext) -> None:
    """Fit the quantization of ``inputs["model"]`` (and ``inputs["vision"]``) on data, and write the checkpoint.

    Where data come from a data set, ``inputs["data"]`` holds what step ``calibration_data`` left.

    Params: those of ``convert``, ``algorithm``, ``group_size``, ``image_size`` (height, width), and ``calibration``:
    ``samples``, ``seed``, with data ``text_only``, without data ``prompts``. Locators: ``data``, the JSONL file.

    Raises:
        CalibrationError: The data cannot be used, a layer could not be fitted, or memory did not suffice.
        CheckpointError: The model's weights are missing or damaged.
        EngineError: transformers cannot load the model or its processor.
    """
    from mmbuild.calibration.data_set import FILE as DATA_FILE
    from mmbuild.calibration.loop import calibrate
    from mmbuild.calibration.write import write
    from mmbuild.checkpoint.calibrated import ALGORITHMS
    from mmbuild.checkpoint.config import CheckpointConfig

    params, sources, locators = context.params, dict(context.inputs), dict(context.locators)
    if "data" in sources:
        locators["data"] = str(sources.pop("data") / DATA_FILE)
    device = str(context.target.get("device", "cpu"))
    with tempfile.TemporaryDirectory(dir=context.out.parent) as files:
        link_processor(sources, Path(files))
        requests = _requests(params, Path(files), locators, context.progress)
    observed = calibrate(
        sources,
        params["family"],
        requests,
        algorithm=params["algorithm"],
        group_size=params["group_size"],
        # CPUs are slow in 16 bits, and have the memory.
        dtype=params["dtype"] if device == "cuda" else "float32",
        device=device,
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
    write(sources["model"], context.out, params["family"], config, observed, context.progress)
    _tell_readers(context.out)


def _tell_readers(checkpoint: Path) -> None:
    """Into the log: which lines of TensorRT-LLM read what was really written."""
    from mmbuild.checkpoint.accepted import lines_that_read

    lines, objection = lines_that_read(checkpoint)
    if objection is None:
        print(f"known to be read by TensorRT-LLM {', '.join(lines)}")
    else:
        print(f"not known to be read by any TensorRT-LLM version: `{objection.key}` {objection.why}")


def _requests(
    params: Mapping[str, Any], processor_files: Path, locators: Mapping[str, str], progress: Progress
) -> list[Request]:
    """What the model is shown."""
    from mmbuild.calibration import data, drawn, loop
    from mmbuild.engine.processor import load_processor

    processor = load_processor(processor_files, params["family"])
    asked = params["calibration"]
    if "data" not in locators:
        progress(f"{asked['samples']} generated pictures: the recipe names no calibration.data", None)
        height, width = params["image_size"]
        prompts = asked["prompts"] or drawn.DEFAULT_PROMPTS
        return list(loop.generated(processor, (height, width), prompts, asked["samples"], asked["seed"]))
    path = Path(locators["data"])
    samples = data.load(path, asked["samples"], asked["seed"], text_only=asked["text_only"])
    positions = params["llm"]["max_position_embeddings"]
    return list(loop.sampled(processor, samples, params["family"], positions))
