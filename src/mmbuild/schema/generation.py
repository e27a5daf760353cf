"""The generation settings of a recipe's model, checked while the recipe is validated.

Only where the files are at hand: of a hub model not even its ``generation_config.json`` is known before the download,
and the assemble step reports what is found in it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from mmbuild.families import family
from mmbuild.families.base import ModelFacts
from mmbuild.models.generation_settings import (
    Load,
    Reader,
    SettingsError,
    existing,
    files_of,
    read_settings,
    runner_findings,
    shown,
)
from mmbuild.schema.fault import Fault, touches
from mmbuild.schema.model import Backend, GenerationConfig, Recipe
from mmbuild.sources.config import parse_source

_SOURCE = "model.source"


def reader_of(recipe: Recipe, facts: ModelFacts) -> Reader:
    """How the engine of ``recipe`` reads generation settings."""
    return Reader(
        vocab_size=facts.llm.vocab_size,
        encoder_decoder=facts.llm.cross_attention,
        beams=recipe.engine.max_beam_width > 1,
        obey=recipe.engine.generation_config is GenerationConfig.OBEY,
    )


def generation_faults(
    recipe: Recipe, facts: ModelFacts, config: Mapping[str, Any], root: Path, faulty: Collection[str]
) -> tuple[list[Fault], tuple[Path, ...]]:
    """What is wrong with the settings of a model in a local directory, and the files that were read.

    Args:
        recipe: The recipe.
        facts: Of its model.
        config: The model's ``config.json``.
        root: What a relative source is relative to.
        faulty: Keys that are at fault already.
    """
    ref = parse_source(recipe.model.source)
    if ref.kind not in ("directory", "dummy-directory") or touches((_SOURCE,), faulty):
        return [], ()
    directory = root / ref.value
    found = settings_faults(recipe, facts, config, files_of(directory), shown(directory))
    return found, existing(directory, family(recipe.model.family).settings_place(config))


def settings_faults(
    recipe: Recipe, facts: ModelFacts, config: Mapping[str, Any], load: Load, label: str
) -> list[Fault]:
    """What is wrong with a model's settings, wherever its files are.

    Args:
        recipe: The recipe.
        facts: Of its model.
        config: The model's ``config.json``.
        load: Gives the model's small files as parsed JSON.
        label: What the model is called in messages.
    """
    place = family(recipe.model.family).settings_place(config)
    try:
        reading = read_settings(load, place, reader_of(recipe, facts), label)
    except SettingsError as error:
        return [Fault(error.code, (_SOURCE,), error.message, error.hint)]
    found = list(reading.findings)
    if recipe.engine.backend is Backend.TENSORRT_LLM:
        found += runner_findings(reading, beams=recipe.engine.max_beam_width > 1)
    return [Fault(item.code, (_SOURCE,), item.message, item.hint, item.severity) for item in found]
