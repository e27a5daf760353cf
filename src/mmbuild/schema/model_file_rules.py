"""Validates the files of a recipe's model."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mmbuild.base.diagnostics import Violation
from mmbuild.base.errors import MmbuildError
from mmbuild.base.pins import Pins
from mmbuild.models.errors import SourceError
from mmbuild.models.families.facts import Config, ModelFacts
from mmbuild.models.sources.config import parse_source
from mmbuild.schema.model import Model

if TYPE_CHECKING:
    from mmbuild.models.validation.checked_model import Model as CheckedModel

_KEYS = {"model": "model.source", "vision": "model.vision.source"}


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """Result of validating a model's files.

    Attributes:
        faults: Violations.
        files: Files and directories that were inspected.
        given: The model as later checks take it; None if none of its files are available.
    """

    faults: tuple[Violation, ...] = ()
    files: tuple[Path, ...] = ()
    given: CheckedModel | None = None

    @property
    def directory(self) -> Path | None:
        """Directory of the small files of ``model.source``; None if they are not available."""
        source = None if self.given is None else self.given.sources.get("model")
        return None if source is None else source.directory


def check_files(
    model: Model,
    root: Path,
    facts: ModelFacts,
    configs: Mapping[str, Config],
    fetched: Collection[str],
    pins: Pins,
) -> ModelFiles:
    """Check the files of a model against each other and against config.json.

    Args:
        model: The recipe's ``model``.
        root: Base of relative directories.
        facts: Facts from config.json.
        configs: config.json by source, ``model`` and ``vision``.
        fetched: Sources whose config.json was fetched from the hub: their other small files are fetched too. If the
            hub refuses, the download step reports it.
        pins: Commits that replace branches and tags.
    """
    faults: list[Violation] = []
    places: dict[str, tuple[Path, bool]] = {}
    for name, place, weights in _places(model, root, facts, fetched, pins, faults):
        if name in configs:
            places[name] = (place, weights)
    if not places:
        return ModelFiles(tuple(faults))
    # Imported late: Jinja takes 20 ms to import, and many recipes name no directory.
    from mmbuild.models.validation import checked_model
    from mmbuild.models.validation.consistency import findings, inspected_paths

    sources = {
        name: checked_model.Source(place, weights=weights) for name, (place, weights) in places.items()
    }
    requested = checked_model.Model(model.family, facts, configs, sources)
    try:
        results = findings(requested)
    except MmbuildError as error:  # config.json does not determine which files belong to the model
        blame = getattr(error, "blame", ()) or (_KEYS["model"],)
        return ModelFiles((*faults, Violation(error.code, blame, error.message, error.hint)))
    faults += [
        Violation(item.error.code, (_KEYS[item.source],), item.error.message, item.error.hint)
        for item in results
    ]
    return ModelFiles(tuple(faults), tuple(inspected_paths(requested)), requested)


def missing_files(model: Model, root: Path, facts: ModelFacts) -> Iterator[Violation]:
    """What local directories of a model lack, by the names of their files, as planning requires it.

    Args:
        model: The recipe's ``model``.
        root: Base of relative directories.
        facts: Facts from config.json.
    """
    from mmbuild.models.validation.integrity import require_files

    sources = {"model": model.source}
    if model.vision is not None:
        sources["vision"] = model.vision.source
    for name, source in sources.items():
        ref = parse_source(source)
        if ref.kind != "directory":
            continue
        try:
            require_files(root / ref.value, name, len(sources), facts.directories)
        except MmbuildError as error:
            yield Violation(error.code, (_KEYS[name],), error.message, error.hint)


def _places(
    model: Model,
    root: Path,
    facts: ModelFacts,
    fetched: Collection[str],
    pins: Pins,
    faults: list[Violation],
) -> Iterator[tuple[str, Path, bool]]:
    """Sources as (name, directory, whether it has weights)."""
    for name, source in (("model", model), ("vision", model.vision)):
        ref = None if source is None else parse_source(source.source)
        if source is None or ref is None:
            continue
        if ref.kind in ("directory", "dummy-directory"):
            yield name, root / ref.value, ref.kind == "directory"
        elif name in fetched:
            from mmbuild.models.sources.hub import fetch_small_files

            try:
                yield name, fetch_small_files(ref.value, source.revision, facts.directories, pins), False
            except SourceError:
                continue
            except MmbuildError as error:
                faults.append(Violation(error.code, (_KEYS[name],), error.message, error.hint))
