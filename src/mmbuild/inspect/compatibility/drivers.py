"""The lowest driver for a build's CUDA, as far as it is known."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Any

import yaml

_LOCAL = re.compile(r"\+cu(\d+)\d$")  # torch's builds for CUDA: 2.11.0+cu130
_NAMED = re.compile(r"[-_]cu(\d+)$")  # distributions for one CUDA: tensorrt-cu12


def cuda_of(versions: Mapping[str, str]) -> tuple[int, str] | None:
    """The CUDA major version that a build was made with, and how that is known; None where it is not.

    Args:
        versions: A description's ``toolchain``: name to version.
    """
    local = _LOCAL.search(versions.get("torch", ""))
    if local is not None:
        return int(local[1]), f"torch {versions['torch']}"
    named = {int(match[1]): name for name in versions if (match := _NAMED.search(name))}
    if len(named) == 1:
        ((major, name),) = named.items()
        return major, f"{name} is installed where it was built"
    entry = _table()["toolchains"].get(versions.get("tensorrt-llm", ""))
    return (entry["cuda"], f"TensorRT-LLM {versions['tensorrt-llm']}: {entry['evidence']}") if entry else None


def lowest_driver(cuda: int) -> str | None:
    """The lowest driver for programs of a CUDA major version; None where the table has none."""
    found: str | None = _table()["drivers"].get(cuda)
    return found


@cache
def _table() -> Mapping[str, Any]:
    text = (files("mmbuild.inspect.compatibility") / "drivers.yaml").read_text(encoding="utf-8")
    loaded: Mapping[str, Any] = yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    return loaded
