"""What an engine is, in a few facts: for the report that compares it with its model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mmbuild.backends.engine_dir.description import Description

_KINDS = {".safetensors": "weights", ".pt2": "packages", ".engine": "tensorrt_engine"}
"""What files with this suffix are."""

_LIMITS = ("max_batch_size", "max_input_len", "max_output_len", "tensor_parallel")


def summarize(directory: Path, description: Description) -> dict[str, Any]:
    """Return facts of the engine in ``directory`` as plain data that depend on its content alone.

    Returns:
        ``family``, ``backend``, ``versions`` by package, ``target`` (``{"device", "sm", "isa"}``), ``limits`` and
        ``bytes`` of its files by kind: ``weights``, ``packages``, ``tensorrt_engine``.
    """
    sizes: dict[str, int] = {}
    for path in sorted(directory.rglob("*")):
        kind = _KINDS.get(path.suffix)
        if kind is not None and path.is_file():
            sizes[kind] = sizes.get(kind, 0) + path.stat().st_size
    return {
        "family": description.family,
        "backend": description.backend,
        "versions": dict(description.toolchain),
        "target": dict(description.target),
        "limits": {name: description.llm[name] for name in _LIMITS if name in description.llm},
        "bytes": sizes,
    }
