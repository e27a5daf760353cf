"""What a valid recipe may ask for and this version cannot build yet: said at plan time, before any work."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from mmbuild.schema.diagnostics import Diagnostic
from mmbuild.schema.model import CALIBRATED, WEIGHT_ONLY, Backend, Recipe, VisualBackend


@dataclass(frozen=True, slots=True)
class _Pending:
    code: str
    path: str
    asks: Callable[[Recipe], str | None]
    hint: str


def _backend(recipe: Recipe) -> str | None:
    return "backend tensorrt-llm" if recipe.engine.backend is Backend.TENSORRT_LLM else None


def _visual(recipe: Recipe) -> str | None:
    return "visual backend tensorrt" if recipe.visual.backend is VisualBackend.TENSORRT else None


def _calibrated(recipe: Recipe) -> str | None:
    algorithm = recipe.engine.quantization.algorithm
    return f"quantization {algorithm}" if algorithm in CALIBRATED else None


def _calibrated_weight_only(recipe: Recipe) -> str | None:
    quantization = recipe.engine.quantization
    asked = quantization.algorithm in WEIGHT_ONLY and quantization.calibration is not None
    return f"calibrated {quantization.algorithm}" if asked else None


def _gates(recipe: Recipe) -> str | None:
    return "gates" if recipe.gates is not None else None


_TABLE: tuple[_Pending, ...] = (
    _Pending("MM171", "engine.backend", _backend, "Use the other one: --set engine.backend=torch"),
    _Pending("MM171", "visual.backend", _visual, "Set visual.backend to auto or torch"),
    _Pending("MM172", "engine.quantization", _calibrated, "Weight-only int8 and int4 are built"),
    _Pending("MM172", "engine.quantization.calibration", _calibrated_weight_only, "Remove calibration"),
    _Pending("MM173", "gates", _gates, "Remove gates; verify reports without judging"),
)


def not_built_yet(recipe: Recipe) -> list[Diagnostic]:
    """What ``recipe`` asks for and mmbuild cannot build yet; without positions, paths only."""
    found: list[Diagnostic] = []
    for entry in _TABLE:
        asked = entry.asks(recipe)
        # A visual backend that follows the engine is told with the engine.
        followed = entry.path == "visual.backend" and recipe.engine.backend is Backend.TENSORRT_LLM
        if asked is not None and not followed:
            found.append(
                Diagnostic(entry.code, f"{asked} is not built yet", path=entry.path, hint=entry.hint)
            )
    return found


def pending_table() -> list[tuple[str, str]]:
    """Code and key of everything that is not built yet, for the documentation."""
    return [(entry.code, f"`{entry.path}`") for entry in _TABLE]
