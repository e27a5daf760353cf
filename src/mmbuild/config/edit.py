"""Edits the user's configuration: one entry at a time, validated before anything is written."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from mmbuild.base.errors import MmbuildError
from mmbuild.config.load import parse, parse_with_data, read_text

_HEAD = (
    "# Where this host's toolchains are. Written by `mmbuild config`; see docs/environments.md of mmbuild.\n"
)


def set_entry(path: Path, keys: tuple[str, ...], value: Mapping[str, Any]) -> None:
    """Set the entry at ``keys`` (such as ``("toolchains", "0.9.0")``) and keep all others. Comments are lost.

    Raises:
        RecipeError: The file or the entry is invalid.
        MmbuildError: MM610, the file cannot be read or written.
    """
    data = _read(path)
    parent = data
    for key in keys[:-1]:
        parent = parent.setdefault(key, {})
    parent[keys[-1]] = dict(value)
    _write(path, data)


def remove_entry(path: Path, keys: tuple[str, ...]) -> None:
    """Remove the entry at ``keys``.

    Raises:
        MmbuildError: MM612, there is no such entry; and as :func:`set_entry`.
    """
    data = _read(path)
    parent: Any = data
    for key in keys[:-1]:
        parent = parent.get(key, {})
    if keys[-1] not in parent:
        known = ", ".join(map(str, parent)) or "none"
        raise MmbuildError(
            f"the configuration `{path}` has no entry `{'.'.join(keys)}`",
            code="MM612",
            hint=f"existing entries: {known}; `mmbuild config show` shows all",
        )
    del parent[keys[-1]]
    _write(path, {key: child for key, child in data.items() if child != {}})


def display(path: Path) -> str:
    """Return the validated configuration as YAML; empty if nothing is configured.

    Raises:
        RecipeError, MmbuildError: As :func:`mmbuild.config.load.load`.
    """
    data = _read(path)
    return _text(data) if data else ""


def _read(path: Path) -> dict[str, Any]:
    return parse_with_data(read_text(path) or "", str(path))[1]


def _write(path: Path, data: Mapping[str, Any]) -> None:
    text = _HEAD + (_text(data) if data else "")
    parse(text, str(path))
    try:
        _replace(path.resolve(), text.encode("utf-8"))
    except OSError as error:
        raise MmbuildError(
            f"the configuration `{path}` cannot be written: {error.strerror or error}",
            code="MM610",
            hint="name another file with MMBUILD_CONFIG",
        ) from error


def _replace(path: Path, content: bytes) -> None:
    """Write the file atomically, readable only by the user, since variables may contain tokens."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, fresh = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(fresh, path)
    except BaseException:
        os.unlink(fresh)
        raise


def _text(data: Mapping[str, Any]) -> str:
    return yaml.safe_dump(dict(data), sort_keys=False, allow_unicode=True, default_flow_style=False)
