"""Finds what local models lack, for commands that check recipes but plan nothing.

Planning finds the same when it lowers a recipe, so :mod:`mmbuild.pipeline.load` does not repeat it.
"""

from __future__ import annotations

from dataclasses import replace

from mmbuild.base.diagnostics import Diagnostic
from mmbuild.pipeline.load import LoadResult, to_diagnostic
from mmbuild.schema.model_file_rules import missing_files
from mmbuild.schema.resolved import ResolvedRecipe


def with_missing_files(loaded: LoadResult) -> LoadResult:
    """``loaded`` without the variants whose local model lacks files (MM402, MM405), and with a finding for each."""
    missing = {variant.name: _missing(variant) for variant in loaded.variants}
    findings = dict.fromkeys(item for found in missing.values() for item in found)
    return replace(
        loaded,
        variants=tuple(variant for variant in loaded.variants if not missing[variant.name]),
        diagnostics=(*loaded.diagnostics, *findings),
    )


def _missing(variant: ResolvedRecipe) -> list[Diagnostic]:
    if variant.node is None:
        return []
    faults = missing_files(variant.recipe.model, variant.root, variant.facts)
    return [to_diagnostic(variant.node, fault) for fault in faults]
