"""Requirements of recipes, for any backend, on mmbuild's own installation."""

from __future__ import annotations

from collections.abc import Iterable

from mmbuild.schema.calibration_rules import is_fitted_by_mmbuild
from mmbuild.schema.model import CALIBRATED
from mmbuild.schema.resolved import ResolvedRecipe


def fitting_extras(variants: Iterable[ResolvedRecipe]) -> tuple[str, ...]:
    """Extras for the quantizations that mmbuild itself calibrates."""
    calibrated = [item for item in variants if is_fitted_by_mmbuild(item.recipe.engine)]
    if any(item.recipe.engine.quantization.algorithm in CALIBRATED for item in calibrated):
        return ("torch", "quantize")
    return ("torch",) if calibrated else ()


def most_ranks(variants: Iterable[ResolvedRecipe]) -> int:
    """Ranks of the largest engine; 1 without any."""
    return max((item.recipe.engine.tensor_parallel for item in variants), default=1)
