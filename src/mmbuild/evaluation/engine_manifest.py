"""Reads ``manifest.json`` of a published engine or of a rejected one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmbuild.base.field_checks import any_value, list_of, mapping_of, number, record, text, word
from mmbuild.base.files import FileRefusedError, read_object
from mmbuild.base.limits import ENGINE_MANIFEST

NAME = "manifest.json"

_OBJECT = mapping_of(any_value, 100_000)
_ACTION: Mapping[str, Any] = {
    "label": word,
    "step": word,
    "artifact": word,
    "message": text(1_000_000),
    "params": _OBJECT,
    "target": _OBJECT,
    "toolchain": _OBJECT,
    "sources": _OBJECT,
    "locators": mapping_of(text(100_000), 100_000),
    "inputs": _OBJECT,
    "seconds": number(0, 1e12),
    "peak_memory": number(0, 1e18),
}
_ACTIONS = list_of(record(_ACTION, may_lack=tuple(_ACTION), closed=False), 100_000)
_FIELDS = {"actions": _ACTIONS, "engine": word, "recipe": word, "refused": _ACTIONS, "settings": _OBJECT}
_FORM = record(_FIELDS, may_lack=tuple(_FIELDS), closed=False)


def read(build: Path) -> Mapping[str, Any]:
    """The manifest; empty if it is missing or damaged."""
    try:
        content = read_object(build / NAME, ENGINE_MANIFEST)
    except (OSError, FileRefusedError):
        return {}
    return content if _FORM(content, "") is None else {}


def actions(build: Path, step: str) -> list[Mapping[str, Any]]:
    """The entries of ``step``, including a rejected one; none if the manifest is damaged."""
    content = read(build)
    entries = [*content.get("actions", ()), *content.get("refused", ())]
    return [action for action in entries if action.get("step") == step]


def engine(build: Path) -> str | None:
    """Digest of the artifact that the directory was installed from; None if it is unknown."""
    digest = read(build).get("engine")
    if digest is None:  # written by an earlier version, which had one kind of engine
        digest = next((action.get("artifact") for action in actions(build, "assemble")), None)
    return digest


def recipe(build: Path) -> str | None:
    """Name of the variant that the directory was installed for; None if it is unknown."""
    name = read(build).get("recipe")
    return str(name) if name else None


def weights(build: Path) -> str | None:
    """``dummy`` if the weights are random, ``model`` if not, None if unknown."""
    kinds = [action.get("params", {}).get("kind") for action in actions(build, "download")]
    if not kinds:
        return None
    return "dummy" if "dummy" in kinds else "model"
