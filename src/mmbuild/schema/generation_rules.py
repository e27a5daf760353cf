"""Validates the generation settings of a recipe's model.

This needs the model's small files, from a local directory or fetched from the hub; for other models the assemble step
reports the findings.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from mmbuild.base.diagnostics import Violation, touches
from mmbuild.models.families import family
from mmbuild.models.families.facts import ModelFacts
from mmbuild.models.files.generation_settings import (
    Load,
    Reader,
    SettingsError,
    files_of,
    read_settings,
    runner_findings,
    settings_files,
)
from mmbuild.models.files.small_files import display
from mmbuild.schema.model import Backend, GenerationConfig, Recipe

_SOURCE = "model.source"


def _reader_of(recipe: Recipe, facts: ModelFacts) -> Reader:
    """How the engine of ``recipe`` reads generation settings."""
    return Reader(
        vocab_size=facts.llm.vocab_size,
        encoder_decoder=facts.llm.cross_attention,
        beams=recipe.engine.max_beam_width > 1,
        obey=recipe.engine.generation_config is GenerationConfig.OBEY,
    )


def generation_faults(
    recipe: Recipe,
    facts: ModelFacts,
    config: Mapping[str, Any],
    directory: Path | None,
    faulty: Collection[str],
) -> tuple[list[Violation], tuple[Path, ...]]:
    """Violations in a model's settings, and the files that were read.

    Args:
        recipe: The recipe.
        facts: Facts of its model.
        config: The model's ``config.json``.
        directory: Directory of the model's small files; None if they are not available.
        faulty: Keys with known violations.
    """
    if directory is None or touches((_SOURCE,), faulty):
        return [], ()
    faults = settings_faults(recipe, facts, config, files_of(directory), display(directory))
    return faults, settings_files(directory, family(recipe.model.family).settings_place(config))


def settings_faults(
    recipe: Recipe, facts: ModelFacts, config: Mapping[str, Any], load: Load, label: str
) -> list[Violation]:
    """Violations in a model's settings.

    Args:
        recipe: The recipe.
        facts: Facts of its model.
        config: The model's ``config.json``.
        load: Returns the model's small files as parsed JSON.
        label: Name of the model in messages.
    """
    place = family(recipe.model.family).settings_place(config)
    try:
        reading = read_settings(load, place, _reader_of(recipe, facts), label)
    except SettingsError as error:
        return [Violation(error.code, (_SOURCE,), error.message, error.hint)]
    findings = list(reading.findings)
    if recipe.engine.backend == Backend.TENSORRT_LLM:
        findings += runner_findings(reading, beams=recipe.engine.max_beam_width > 1)
    return [Violation(item.code, (_SOURCE,), item.message, item.hint, item.severity) for item in findings]
