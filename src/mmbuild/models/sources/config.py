"""Reads a model's ``config.json`` without its weights.

Planning needs only this file. It comes from a local directory, from ``families/recorded`` for known hub models, or is
fetched from the hub.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

from mmbuild.base.diagnostics import nearest
from mmbuild.base.errors import MmbuildError
from mmbuild.base.files import FileRefusedError, entries, read_file
from mmbuild.base.json_reader import JsonProblemError, parse_json
from mmbuild.base.limits import MODEL_JSON
from mmbuild.base.near_paths import recipe_path_hint
from mmbuild.base.pins import NO_PINS, Pins
from mmbuild.models.files import hf_layout
from mmbuild.models.sources.model_addresses import hub_address

Kind = Literal["hub", "directory", "dummy-hub", "dummy-directory"]
_SIMILAR = 0.8
"""Minimum similarity, by difflib, of a mistyped name of a recorded model."""
_REPO = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")


class ConfigError(MmbuildError):
    """A source is malformed, or its ``config.json`` cannot be read."""


@dataclass(frozen=True, slots=True)
class SourceRef:
    """A parsed ``source``.

    Attributes:
        kind: ``hub``, ``directory``, or the same with ``dummy-`` for random weights with those shapes.
        value: ``owner/name``, or the directory as written.
    """

    kind: Kind
    value: str


@dataclass(frozen=True, slots=True)
class SourceConfig:
    """A ``config.json`` and its origin.

    Attributes:
        config: Its content.
        origin: ``file``, ``recorded`` or ``hub``.
        files: Local files that were read; a plan cache depends on them.
    """

    config: Mapping[str, Any]
    origin: Literal["file", "recorded", "hub"]
    files: tuple[Path, ...] = ()


def parse_source(source: str) -> SourceRef:
    """Parse a ``source``.

    Forms: ``hf://owner/name``; ``dummy://owner/name``; ``dummy://`` with a directory that begins with ``/``, ``./``,
    ``../`` or ``~``. Anything without ``://`` is a directory.

    Raises:
        ConfigError: MM131, it has none of these forms.
    """
    scheme, mark, rest = source.partition("://")
    if not mark:
        return SourceRef("directory", source)
    if scheme == "dummy" and re.match(r"(/|~|\.{1,2}(/|$))", rest):
        return SourceRef("dummy-directory", rest)
    if scheme in ("hf", "dummy") and _REPO.fullmatch(rest):
        return SourceRef("hub" if scheme == "hf" else "dummy-hub", rest)
    raise ConfigError(
        f"invalid source `{source}`",
        code="MM131",
        hint=hub_address(source)
        or "write hf://owner/name, a directory, dummy://owner/name or dummy://./directory",
    )


def read_config(
    source: str, revision: str | None, root: Path, *, offline: bool = False, pins: Pins = NO_PINS
) -> SourceConfig:
    """Find the ``config.json`` of ``source``.

    Args:
        source: As for :func:`parse_source`.
        revision: Branch, tag or commit of a hub source; None is ``main``.
        root: Base of relative directories.
        offline: Do not access the hub.
        pins: Commits that replace branches and tags.

    Raises:
        ConfigError: The config is unavailable or not JSON.
    """
    ref = parse_source(source)
    if ref.kind in ("directory", "dummy-directory"):
        return _from_directory(root / ref.value)
    recorded = _recorded(ref.value)
    if recorded is not None:
        return SourceConfig(recorded, "recorded")
    if ref.kind == "dummy-hub" or offline:
        near = nearest(ref.value, recorded_models(), cutoff=_SIMILAR)
        raise ConfigError(
            f"the config.json of `{ref.value}` is not recorded in mmbuild"
            + (", and the hub is not accessed offline" if ref.kind == "hub" else ""),
            code="MM133",
            hint=f"did you mean `{near}`?"
            if near
            else f"recorded: {', '.join(recorded_models())}; or name a directory with a config.json",
        )
    from mmbuild.models.sources.hub import fetch_config

    return SourceConfig(fetch_config(ref.value, revision, pins), "hub")


def require_directories(source: str, root: Path, directories: Iterable[str]) -> None:
    """Check that the required subdirectories of a local model exist.

    Args:
        source: As for :func:`parse_source`.
        root: Base of relative directories.
        directories: Subdirectories, each with a ``config.json`` and weights.

    Raises:
        ConfigError: MM417, one is missing.
    """
    ref = parse_source(source)
    if ref.kind != "directory":
        return
    for name in directories:
        missing = _missing_part(root / ref.value, name)
        if missing is not None:
            raise ConfigError(
                f"`{_shown(root / ref.value)}` has no {missing}, which its config.json requires",
                code="MM417",
                hint="download the complete model again",
            )


def _missing_part(model: Path, name: str) -> str | None:
    """What is missing from subdirectory ``name``; None if it is complete. Weights may also be in its parent."""
    if not (model / name / "config.json").is_file():
        return f"`{name}/config.json`"
    places = (model, model / name)
    files = [path.name for place in places for path in entries(place)]
    return None if any(hf_layout.is_weights(file) for file in files) else f"weights in `{name}/`"


def recorded_models() -> tuple[str, ...]:
    """Hub models with a recorded config, ``owner/name``."""
    names = (item.name for item in files("mmbuild.models.families").joinpath("recorded").iterdir())
    return tuple(sorted(name[:-5].replace("--", "/", 1) for name in names if name.endswith(".json")))


def _recorded(repo: str) -> Mapping[str, Any] | None:
    """The recorded config of ``repo``; ignores case, because upstream's vila-7B is VILA-7b on the hub."""
    known = {name.lower(): name for name in recorded_models()}.get(repo.lower())
    if known is None:
        return None
    file = files("mmbuild.models.families").joinpath("recorded", f"{known.replace('/', '--', 1)}.json")
    config: Mapping[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return config


def _from_directory(directory: Path) -> SourceConfig:
    path = directory / "config.json"
    # Unlike the methods of Path, these are false for a name too long to exist.
    if os.path.isfile(directory):  # noqa: PTH113
        raise ConfigError(
            f"`{_shown(directory)}` is a file, not a model directory",
            code="MM130",
            hint=_instead_of_file(directory),
        )
    if not os.path.isdir(directory):
        raise ConfigError(
            f"model directory `{_shown(directory)}` does not exist",
            code="MM130",
            hint=recipe_path_hint(directory),
        )
    try:
        data = read_file(path, MODEL_JSON)
    except FileRefusedError as error:
        raise _no_config(path, error.problem, error.hint) from None
    except OSError as error:
        # Imported late: most directories have a config.json.
        from mmbuild.models.files.other_weights import hint_for_other_weights
        from mmbuild.models.files.wrong_directory import instead_of_model

        another = instead_of_model(directory)
        if another is not None:
            raise another from None
        raise ConfigError(
            f"`{_shown(path)}` cannot be read: {error.strerror or error}",
            code="MM130",
            hint=hint_for_other_weights(directory) or "a model directory needs its config.json",
        ) from None
    return SourceConfig(_parse(data, path), "file", (path.absolute(),))


def _instead_of_file(file: Path) -> str:
    from mmbuild.models.files.other_weights import hint_for

    if (file.parent / "config.json").is_file():
        return f"name its directory, `{_shown(file.parent)}`"
    return hint_for(file.name) or f"name its directory, `{_shown(file.parent)}`"


def _parse(data: bytes, path: Path) -> Mapping[str, Any]:
    if data.startswith(b"version https://git-lfs"):
        raise _no_config(path, "is a git-LFS pointer, not the file itself")
    try:
        config = parse_json(data, MODEL_JSON)
    except JsonProblemError as error:
        raise _no_config(path, str(error)) from None
    if not isinstance(config, dict):
        raise _no_config(path, "is not a JSON object")
    return config


def _no_config(path: Path, problem: str, hint: str | None = None) -> ConfigError:
    hint = hint or "download the model's config.json again"
    return ConfigError(f"`{_shown(path)}` {problem}", code="MM132", hint=hint)


def _shown(path: Path) -> str:
    relative = os.path.relpath(path)
    return str(path) if relative.startswith("..") else relative
