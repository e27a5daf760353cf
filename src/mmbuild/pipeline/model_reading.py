"""Reads the models of recipes: facts from config.json, and checks of the files next to it; each source once."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmbuild.base.diagnostics import Violation
from mmbuild.base.errors import MmbuildError
from mmbuild.base.pins import NO_PINS, Pins
from mmbuild.models.families import family
from mmbuild.models.families.facts import ModelFacts
from mmbuild.models.families.sanity_checks import require_sound
from mmbuild.models.sources.config import SourceConfig, read_config, require_directories
from mmbuild.schema.model import Model
from mmbuild.schema.model_file_rules import ModelFiles, check_files

Configs = dict[str, Mapping[str, Any]]
"""config.json by source, ``model`` and ``vision``."""


@dataclass(slots=True)
class ModelCache:
    """What the variants of all recipes share.

    Attributes:
        offline: Whether to fetch nothing from the hub.
        pins: Commits that replace branches and tags.
        configs: config.json, or why it cannot be read, by source and revision.
        models: Checked files of a model.
    """

    offline: bool
    pins: Pins = NO_PINS
    configs: dict[tuple[str, str | None], SourceConfig | MmbuildError] = field(default_factory=dict)
    models: dict[str, ModelFiles] = field(default_factory=dict)


# Keys blamed for a family's findings that name none; codes not listed here blame the model's source.
_BLAME = {
    "MM410": ("model.family", "model.source"),
    "MM415": ("model.vision.source",),
    "MM416": ("model.vision.source",),
}


def read_facts(
    model: Model, faulty: Iterable[str], root: Path, cache: ModelCache
) -> tuple[ModelFacts | None, Configs, list[Violation], list[Path]]:
    """The facts and configs of a model, or the violations that prevent reading them.

    Args:
        model: The recipe's ``model``.
        faulty: Dotted keys that are already wrong; nothing is read if one of them is about the model.
        root: Base of relative directories.
        cache: Holds what was read before.

    Returns:
        Facts, configs, violations, and the files that were read.
    """
    if any(path.split(".")[0] == "model" for path in faulty):
        return None, {}, [], []
    configs: Configs = {}
    files: list[Path] = []
    for name, key, source in (("model", "model", model), ("vision", "model.vision", model.vision)):
        if source is None or (
            name == "vision" and "vision" not in family(model.family).TRAITS.second_sources
        ):
            continue
        config = _cached_config(source.source, source.revision, root, cache)
        if isinstance(config, MmbuildError):
            unread = Violation(config.code, (f"{key}.source",), config.message, config.hint)
            return None, {}, [unread], files
        files += config.files
        configs[name] = config.config
    try:
        facts = family(model.family).facts(configs["model"], configs.get("vision"))
        require_sound(facts)
        require_directories(model.source, root, facts.directories)
        return facts, configs, [], files
    except MmbuildError as error:
        blame = getattr(error, "blame", ()) or _BLAME.get(error.code, ("model.source",))
        fault = Violation(error.code, blame, error.message, error.hint)
    except (KeyError, TypeError, ValueError, AttributeError, ZeroDivisionError) as error:
        message = f"the config.json of `{model.source}` is damaged: {type(error).__name__} {error}"
        fault = Violation("MM132", ("model.source",), message, "download config.json again")
    return None, configs, [fault], files


def check_files_once(
    model: Model, root: Path, facts: ModelFacts, configs: Configs, cache: ModelCache
) -> ModelFiles:
    """Check the files next to config.json, once for all variants of a model."""
    key = json.dumps([model.model_dump(mode="json"), str(root)], sort_keys=True)
    if key not in cache.models:
        sources = {"model": model, "vision": model.vision}
        read = {
            name: cache.configs.get((source.source, source.revision))
            for name, source in sources.items()
            if source is not None
        }
        fetched = [
            name
            for name, config in read.items()
            if isinstance(config, SourceConfig) and config.origin == "hub"
        ]
        cache.models[key] = check_files(model, root, facts, configs, fetched, cache.pins)
    return cache.models[key]


def _cached_config(
    source: str, revision: str | None, root: Path, cache: ModelCache
) -> SourceConfig | MmbuildError:
    key = (source, revision)
    if key not in cache.configs:
        try:
            cache.configs[key] = read_config(source, revision, root, offline=cache.offline, pins=cache.pins)
        except MmbuildError as error:
            cache.configs[key] = error
    return cache.configs[key]
