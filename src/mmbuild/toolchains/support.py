"""What a toolchain cannot build: told before any work, with the reason and what to do instead."""

from __future__ import annotations

from mmbuild.schema.resolved import ResolvedRecipe
from mmbuild.toolchains.model import Toolchain
from mmbuild.toolchains.template import fill, holds
from mmbuild.toolchains.variables import variables
from mmbuild.toolchains.versions import ToolchainError


def refusals(variant: ResolvedRecipe, toolchain: Toolchain) -> tuple[ToolchainError, ...]:
    """Why ``toolchain`` cannot build ``variant``; empty where it can.

    The errors are MM603 (quantization), MM604 (a model in this form), MM605 (a number beyond a limit of the version)
    and MM606 (calibration data that the version's quantizer would not look at).
    """
    known = variables(variant, toolchain)
    family, algorithm = known["family"], variant.recipe.engine.quantization.algorithm
    found = [
        ToolchainError(
            f"{variant.name} with TensorRT-LLM {toolchain.version}: {fill(entry.reason, known)}",
            code=entry.code,
            hint=fill(entry.way, known),
        )
        for entry in toolchain.unsupported
        if family in entry.families and algorithm in entry.algorithms and holds(entry.when, known)
    ]
    if not found and known["calibrated"]:
        found.append(
            ToolchainError(
                f"{variant.name} with TensorRT-LLM {toolchain.version}: its quantizer calibrates on a text data set "
                "of its own, and would not look at calibration.data",
                code="MM606",
                hint="Remove engine.quantization.calibration",
            )
        )
    return tuple(found)


def notes(variant: ResolvedRecipe, toolchain: Toolchain) -> tuple[str, ...]:
    """What a reader of the commands for ``variant`` should know."""
    known = variables(variant, toolchain)
    return tuple(
        fill(note.text, known)
        for note in toolchain.notes
        if known["family"] in note.families and holds(note.when, known)
    )
