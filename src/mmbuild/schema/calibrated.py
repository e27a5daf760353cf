"""What is wrong with the data that a quantization is fitted on: told while a recipe is validated."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from mmbuild.calibration import data
from mmbuild.calibration.data import CalibrationError
from mmbuild.schema.fault import Fault, touches
from mmbuild.schema.model import CALIBRATED, Backend, Recipe

_ALGORITHM = "engine.quantization.algorithm"
_DATA = "engine.quantization.calibration.data"
_SAMPLES = "engine.quantization.calibration.samples"
# What is blamed before the data itself.
_BLAME = {"MM165": (_SAMPLES, _DATA)}


def calibration_faults(recipe: Recipe, faulty: Collection[str]) -> tuple[list[Fault], list[Path]]:
    """Faults of the calibration data that backend torch would be given, and the files that were read.

    Args:
        recipe: With absolute paths.
        faulty: Dotted paths that are at fault already; what follows from them is not told.
    """
    quantization = recipe.engine.quantization
    if recipe.engine.backend is not Backend.TORCH or quantization.algorithm not in CALIBRATED:
        return [], []
    wanted = quantization.calibration
    if touches((_ALGORITHM, _DATA), set(faulty)):
        return [], []
    if wanted is None or wanted.data.startswith("hf://"):
        return [], []
    path = Path(wanted.data)
    try:
        data.load(path, wanted.samples, wanted.seed, text_only=wanted.text_only)
    except CalibrationError as error:
        return [Fault(error.code, _BLAME.get(error.code, (_DATA,)), error.message, error.hint)], [path]
    return [], [path]
