"""What is wrong with the files of a recipe's model, found while the recipe is validated."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from mmbuild.families.base import Config, ModelFacts
from mmbuild.schema.fault import Fault
from mmbuild.schema.model import Model
from mmbuild.sources.config import parse_source

_KEYS = {"model": "model.source", "vision": "model.vision.source"}


def model_file_faults(
    model: Model, root: Path, facts: ModelFacts, configs: Mapping[str, Config]
) -> tuple[list[Fault], list[Path]]:
    """Faults of the model's files, and the files that were looked at.

    Args:
        model: The recipe's ``model``.
        root: What a relative directory is relative to.
        facts: What config.json says.
        configs: config.json by source, ``model`` and ``vision``.
    """
    named = [(name, place, weights) for name, place, weights in _directories(model, root) if name in configs]
    if not named:
        return [], []
    # Late: Jinja costs 20 ms to import, and many recipes name no directory.
    from mmbuild.models import directory

    sources = {name: directory.Source(place, weights=weights) for name, place, weights in named}
    given = directory.Model(model.family, facts, configs, sources)
    faults = [
        Fault(item.error.code, (_KEYS[item.source],), item.error.message, item.error.hint)
        for item in directory.findings(given)
    ]
    return faults, list(directory.looked_at(given))


def _directories(model: Model, root: Path) -> Iterator[tuple[str, Path, bool]]:
    """Sources that are directories, and whether their weights are meant; random weights have small files alone."""
    for name, source in (("model", model), ("vision", model.vision)):
        ref = None if source is None else parse_source(source.source)
        if ref is not None and ref.kind in ("directory", "dummy-directory"):
            yield name, root / ref.value, ref.kind == "directory"
