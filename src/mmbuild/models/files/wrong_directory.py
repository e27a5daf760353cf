"""Explains directories that are not a model: the hub cache, a training run, an adapter, an engine."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from mmbuild.base.files import FileRefusedError, entries, read_object
from mmbuild.base.limits import ENGINE_MANIFEST
from mmbuild.base.terminal_text import one_line
from mmbuild.models.errors import ModelFilesError
from mmbuild.models.files import adapters
from mmbuild.models.files.small_files import display

_CACHED = "models--"
# Where models are below a directory of the hub's cache, or of a training run.
_BELOW = (
    "*",
    "snapshots/*",
    f"{_CACHED}*/snapshots/*",
    f"hub/{_CACHED}*/snapshots/*",
)
_MOST = 3
_ENGINE = "engine.json"
# Parts of one model (VILA), which are none by themselves.
_PARTS = ("llm", "vision_tower", "mm_projector")


def instead_of_model(directory: Path) -> ModelFilesError | None:
    """What is wrong with a directory without config.json; None where it is nothing that is known here.

    Args:
        directory: An existing directory.

    Returns:
        MM734 for an adapter, MM735 for a directory above models and for an engine that mmbuild built.
    """
    try:
        adapters.require_merged(directory, has_weights=False)
    except ModelFilesError as error:
        return error
    entries(directory)  # no more of them than can be looked at
    if (directory / _ENGINE).is_file():
        return _engine(directory)
    models = [file.parent for file in _configs(directory)]
    cached = _cached_name(directory)
    if cached is not None:
        return _above(f"the hub cache's directory of `{cached}`", directory, models, f"hf://{cached}")
    if any(directory.glob(f"{_CACHED}*")) or (directory / "hub").is_dir():
        return _above("the hub's cache", directory, models, "hf://owner/name")
    return _above("a directory of models", directory, models, None) if models else None


def _engine(directory: Path) -> ModelFilesError:
    origin = _origin(directory / "manifest.json")
    built_from = "" if origin is None else f" from `{origin}`"
    return ModelFilesError(
        f"`{display(directory)}` is an engine that mmbuild built{built_from}, not a model",
        code="MM735",
        hint="name the model that it was built from" if origin is None else f"name the model: `{origin}`",
    )


def _origin(manifest: Path) -> str | None:
    """The model that an engine was built from, as its manifest says; None if it is unknown."""
    try:
        found = [
            action
            for action in read_object(manifest, ENGINE_MANIFEST)["actions"]
            if action["step"] == "download"
        ]
        action = next((one for one in found if one["params"].get("source", "model") == "model"), None)
        if action is None:
            return None
        repo, place = action["params"].get("repo"), action.get("locators", {}).get("model")
    except (OSError, FileRefusedError, KeyError, TypeError, AttributeError):
        return None
    if isinstance(repo, str):
        return one_line(f"hf://{repo}")
    return one_line(display(Path(place))) if isinstance(place, str) else None


def _configs(directory: Path) -> Iterator[Path]:
    for pattern in _BELOW:
        found = sorted(directory.glob(f"{pattern}/config.json"))
        yield from (file for file in found if file.parent.name not in _PARTS)


def _cached_name(directory: Path) -> str | None:
    """``owner/name`` of a model's directory in the hub's cache, or of ``snapshots`` in it."""
    place = directory.absolute()
    place = place.parent if place.name in ("snapshots", "blobs", "refs") else place
    if not place.name.startswith(_CACHED) or not (place / "snapshots").is_dir():
        return None
    return place.name.removeprefix(_CACHED).replace("--", "/", 1)


def _above(what: str, directory: Path, models: list[Path], address: str | None) -> ModelFilesError:
    named = [f"`{display(model)}`" for model in models[:_MOST]] + ([f"`{address}`"] if address else [])
    more = f" ({len(models) - _MOST} more are there)" if len(models) > _MOST else ""
    return ModelFilesError(
        f"`{display(directory)}` is {what}, not a model itself",
        code="MM735",
        hint=f"name {' or '.join(named)}{more}",
    )
