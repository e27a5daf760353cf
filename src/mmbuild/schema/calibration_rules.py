"""Validates calibrated quantization and its data."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

from mmbuild.base.diagnostics import Violation, touches
from mmbuild.models.calibration_data import hub_dataset
from mmbuild.models.calibration_data import samples as data
from mmbuild.models.calibration_data.samples import CalibrationError
from mmbuild.models.checkpoint.calibrated_layout import FLOAT8_FROM_SM
from mmbuild.models.families.facts import ModelFacts
from mmbuild.schema.gate_rules import is_dummy
from mmbuild.schema.model import CALIBRATED, FITTED, Algorithm, Backend, Device, Engine, Recipe

_ALGORITHM = "engine.quantization.algorithm"
_DATA = "engine.quantization.calibration.data"
_SAMPLES = "engine.quantization.calibration.samples"
# Keys to blame before the data itself, by code.
_BLAME = {"MM165": (_SAMPLES, _DATA)}

_REVISION = Violation(
    "MM173",
    ("engine.quantization.calibration.revision",),
    "calibration.revision is for data sets on the hub, but calibration.data is a file",
    "remove calibration.revision, or set calibration.data to hf://datasets/owner/name",
)
_SM = "target.sm"
# Narrower language models are demos and tests.
_REAL_WIDTH = 1024


def is_fitted_by_mmbuild(engine: Engine) -> bool:
    """Whether mmbuild fits the quantization on data; TensorRT-LLM's weight-only quantizers need none."""
    quantization = engine.quantization
    if quantization.calibration is None:
        return engine.backend in FITTED and quantization.algorithm in CALIBRATED
    # TensorRT-LLM's converters quantize int8 and int4 themselves; `none` takes no calibration.
    if engine.backend not in FITTED:
        return quantization.algorithm in CALIBRATED
    return quantization.algorithm is not Algorithm.NONE


def generated_pictures(recipe: Recipe, facts: ModelFacts) -> Iterator[Violation]:
    """Warn about real weights that would be calibrated on generated pictures, which suit only demos."""
    quantization = recipe.engine.quantization
    fitted = recipe.engine.backend in FITTED and quantization.algorithm in CALIBRATED
    # Another rule rejects encoder-decoders.
    if (
        fitted
        and is_production_model(recipe, facts)
        and quantization.calibration is None
        and facts.encoder is None
    ):
        yield Violation(
            "MM168",
            (_ALGORITHM,),
            f"{quantization.algorithm} of `{recipe.model.source}` would be calibrated on generated pictures, "
            "which are unlike the model's real input",
            "provide pictures and prompts in engine.quantization.calibration.data",
            "warning",
        )


def is_production_model(recipe: Recipe, facts: ModelFacts) -> bool:
    """Whether the model is meant for real use: no random weights, and larger than the demo models."""
    return facts.llm.hidden_size >= _REAL_WIDTH and not is_dummy(recipe)


def float8_gpu(recipe: Recipe) -> Iterator[Violation]:
    """Reject fp8 for a target GPU without float8 support; TensorRT-LLM has its own rule."""
    target, algorithm = recipe.target, recipe.engine.quantization.algorithm
    if target is None or recipe.engine.backend != Backend.TORCH or algorithm is not Algorithm.FP8:
        return
    # Another rule reports an SM given for a CPU.
    if target.sm is not None and target.device is not Device.CPU and target.sm < FLOAT8_FROM_SM:
        yield Violation(
            "MM545",
            (_SM, _ALGORITHM),
            f"fp8 needs a GPU of SM {FLOAT8_FROM_SM} or later, but target.sm is {target.sm}",
            "set engine.quantization to int4_awq or int8, or name another GPU in target.sm",
        )


def _data_set_name(source: str) -> list[Violation]:
    try:
        hub_dataset.parse(source)
    except CalibrationError as error:
        return [Violation(error.code, (_DATA,), error.message, error.hint)]
    return []


def calibration_faults(recipe: Recipe, faulty: Collection[str]) -> tuple[list[Violation], list[Path]]:
    """Violations in the recipe's calibration data, and the files that were read.

    Args:
        recipe: With absolute paths.
        faulty: Dotted paths with known violations; violations that follow from them are not reported.
    """
    quantization = recipe.engine.quantization
    # Another rule reports calibration for `none`.
    calibration = quantization.calibration
    if (
        calibration is None
        or not is_fitted_by_mmbuild(recipe.engine)
        or touches((_ALGORITHM, _DATA), set(faulty))
    ):
        return [], []
    if hub_dataset.is_data_set(calibration.data):
        return _data_set_name(calibration.data), []
    if calibration.revision is not None:
        return [_REVISION], []
    path = Path(calibration.data)
    try:
        samples = data.load(path, calibration.samples, calibration.seed, text_only=calibration.text_only)
    except CalibrationError as error:
        return [Violation(error.code, _BLAME.get(error.code, (_DATA,)), error.message, error.hint)], [path]
    return list(_pictures(path, samples)), [path, *data.images(samples)]


def _pictures(path: Path, samples: Sequence[data.Sample]) -> Iterator[Violation]:
    """Report the first unusable picture. Reads only headers, since there may be hundreds of pictures."""
    # Imported late: most recipes have no calibration.
    from mmbuild.models.image_files import TAKEN, problem

    for sample in samples:
        fault = None if sample.image is None else problem(sample.image, whole=False)
        if fault is not None:
            yield Violation(
                "MM517",
                (_DATA,),
                f"calibration data {path}:{sample.line}: the image `{sample.image}` {fault}",
                f"use a {TAKEN} file, or remove the line",
            )
            return
