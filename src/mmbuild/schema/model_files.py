"""What is wrong with the files of a recipe's model, found while the recipe is validated."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from mmbuild.families.base import Config, ModelFacts
from mmbuild.schema.fault import Fault
from mmbuild.schema.model import Model
from mmbuild.sources.config import parse_source

if TYPE_CHECKING:
    from mmbuild.models.given import Model as GivenModel

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
    given = given_model(model, root, facts, configs)
    if given is None:
        return [], []
    # Late: Jinja costs 20 ms to import, and many recipes name no directory.
    from mmbuild.models.directory import findings, looked_at

    faults = [
        Fault(item.error.code, (_KEYS[item.source],), item.error.message, item.error.hint)
        for item in findings(given)
    ]
    return faults, list(looked_at(given))


def given_model(
    model: Model, root: Path, facts: ModelFacts, configs: Mapping[str, Config]
) -> GivenModel | None:
    """The model as checks take it; None where no source is a directory."""
    named = [(name, place, weights) for name, place, weights in _directories(model, root) if name in configs]
    if not named:
        return None
    from mmbuild.models import given

    sources = {name: given.Source(place, weights=weights) for name, place, weights in named}
    return given.Model(model.family, facts, configs, sources)


def _directories(model: Model, root: Path) -> Iterator[tuple[str, Path, bool]]:
    """Sources that are directories, and whether their weights are meant; random weights have small files alone."""
    for name, source in (("model", model), ("vision", model.vision)):
        ref = None if source is None else parse_source(source.source)
        if ref is not None and ref.kind in ("directory", "dummy-directory"):
            yield name, root / ref.value, ref.kind == "directory"
