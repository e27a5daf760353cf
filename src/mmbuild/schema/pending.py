"""What a valid recipe may ask for and this version cannot build yet: said at plan time, before any work."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from mmbuild.schema.diagnostics import Diagnostic
from mmbuild.schema.model import WEIGHT_ONLY, Backend, Recipe


@dataclass(frozen=True, slots=True)
class _Pending:
    code: str
    path: str
    asks: Callable[[Recipe], str | None]
    hint: str


def _calibrated_weight_only(recipe: Recipe) -> str | None:
    quantization = recipe.engine.quantization
    asked = quantization.algorithm in WEIGHT_ONLY and quantization.calibration is not None
    return f"calibrated {quantization.algorithm}" if _torch(recipe) and asked else None


def _torch(recipe: Recipe) -> bool:
    # What TensorRT-LLM builds is said by its toolchains, as findings.
    return recipe.engine.backend is Backend.TORCH


_TABLE: tuple[_Pending, ...] = (
    _Pending("MM172", "engine.quantization.calibration", _calibrated_weight_only, "Remove calibration"),
)


def not_built_yet(recipe: Recipe) -> list[Diagnostic]:
    """What ``recipe`` asks for and mmbuild cannot build yet; without positions, paths only."""
    found: list[Diagnostic] = []
    for entry in _TABLE:
        asked = entry.asks(recipe)
        if asked is not None:
            found.append(
                Diagnostic(entry.code, f"{asked} is not built yet", path=entry.path, hint=entry.hint)
            )
    return found


def pending_table() -> list[tuple[str, str]]:
    """Code and key of everything that is not built yet, for the documentation."""
    return [(entry.code, f"`{entry.path}`") for entry in _TABLE]
