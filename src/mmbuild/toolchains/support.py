"""What a toolchain cannot build: told before any work, with the reason and what to do instead."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from mmbuild.schema.fault import Fault
from mmbuild.schema.resolved import ResolvedRecipe
from mmbuild.toolchains.model import Toolchain
from mmbuild.toolchains.template import fill, holds
from mmbuild.toolchains.variables import variables
from mmbuild.toolchains.versions import ToolchainError

_TOOLCHAIN = "engine.tensorrt_llm.toolchain"
_CALIBRATION = "engine.quantization.calibration"


def faults(variant: ResolvedRecipe, toolchain: Toolchain, *, sm: int | None = None) -> tuple[Fault, ...]:
    """Why ``toolchain`` cannot build ``variant``, and the keys to blame; empty where it can.

    Args:
        variant: A recipe with all numbers solved; rules of recipes may still object to it.
        toolchain: A version of TensorRT-LLM.
        sm: Compute capability of the GPU that is to run it, where the recipe states none; None: not looked at.
    """
    known = variables(variant, toolchain)
    if known["sm"] is None:
        known["sm"] = sm
    return tuple(
        Fault(code, (*blame, _TOOLCHAIN), f"TensorRT-LLM {toolchain.version}: {reason}", way)
        for code, blame, reason, way in _found(known, toolchain)
    )


def refusals(
    variant: ResolvedRecipe, toolchain: Toolchain, *, sm: int | None = None
) -> tuple[ToolchainError, ...]:
    """:func:`faults` as errors that name the variant.

    The errors are MM603 (quantization), MM604 (a model in this form), MM605 (a number beyond a limit of the version)
    and MM606 (calibration data that the version's quantizer would not look at).
    """
    return tuple(
        ToolchainError(f"{variant.name} with {fault.message}", code=fault.code, hint=fault.hint)
        for fault in faults(variant, toolchain, sm=sm)
    )


def _found(known: Mapping[str, Any], toolchain: Toolchain) -> Iterator[tuple[str, tuple[str, ...], str, str]]:
    family, algorithm, silent = known["family"], known["algorithm"], True
    for entry in toolchain.unsupported:
        if family in entry.families and algorithm in entry.algorithms and holds(entry.when, known):
            yield entry.code, entry.blame, fill(entry.reason, known), fill(entry.way, known)
            silent = False
    if silent and known["calibrated"]:
        reason = (
            "its quantizer calibrates on a text data set of its own, and would not look at calibration.data"
        )
        yield "MM606", (_CALIBRATION,), reason, f"Remove {_CALIBRATION}"


def notes(variant: ResolvedRecipe, toolchain: Toolchain) -> tuple[str, ...]:
    """What a reader of the commands for ``variant`` should know."""
    known = variables(variant, toolchain)
    return tuple(
        fill(note.text, known)
        for note in toolchain.notes
        if known["family"] in note.families and holds(note.when, known)
    )
