"""What ``manifest.json`` of a build says: of a published engine, or of one that was refused."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmbuild.base.files import FileRefusedError, read_object
from mmbuild.base.limits import ENGINE_MANIFEST

NAME = "manifest.json"


def read(build: Path) -> Mapping[str, Any]:
    """The manifest; empty where there is no readable one."""
    try:
        return read_object(build / NAME, ENGINE_MANIFEST)
    except (OSError, FileRefusedError):
        return {}


def actions(build: Path, step: str) -> list[Mapping[str, Any]]:
    """The entries of ``step``, the refused one included; none where the manifest is damaged."""
    told = read(build)
    try:
        found = [*told.get("actions", ()), *told.get("refused", ())]
        return [action for action in found if action["step"] == step]
    except (TypeError, KeyError):
        return []


def weights(build: Path) -> str | None:
    """``dummy`` where the weights are random, ``model`` where they are not, None where nobody knows."""
    kinds = [one.get("params", {}).get("kind") for one in actions(build, "download")]
    if not kinds:
        return None
    return "dummy" if "dummy" in kinds else "model"
