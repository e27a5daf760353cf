"""What a step gets and what it owes.

A step is a plain function ``run(context)``. It reads its parameters and input directories, writes one output
directory, and returns nothing. It knows no recipe, no plan and no store. It runs in a process of its own
whose working directory is a private staging directory, so the paths below are short and relative
(``in/<name>``, ``out``) and carry no meaning. Standard output and error are the action's log.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


def _no_progress(message: str, fraction: float | None) -> None:
    """Default for callers that want no progress (tests, the Python API)."""


@dataclass(frozen=True, slots=True)
class StepContext:
    """One action as its step sees it.

    Attributes:
        params: The action's parameters, plain JSON data. Everything here is part of the action's key.
        inputs: Input artifacts by name: read-only directories.
        locators: Where user files and remote sources are (absolute paths, URLs). Not part of any key; what
            they hold is, through ``sources``.
        sources: Expected digests of what the locators name, by the same names.
        target: ``{"device": "cpu"|"cuda", "sm": int|None, "isa": str}`` the result is built for.
        out: Empty directory to fill.
        cores: How many CPU cores the scheduler granted.
        gpus: Ids of the GPUs granted, already in ``CUDA_VISIBLE_DEVICES``.
        progress: ``progress(message, fraction or None)``; shown live, never part of the result.
    """

    params: Mapping[str, Any]
    out: Path
    inputs: Mapping[str, Path] = field(default_factory=dict)
    locators: Mapping[str, str] = field(default_factory=dict)
    sources: Mapping[str, str] = field(default_factory=dict)
    target: Mapping[str, Any] = field(default_factory=dict)
    cores: int = 1
    gpus: tuple[str, ...] = ()
    progress: Callable[[str, float | None], None] = _no_progress


def link(source: Path, destination: Path) -> None:
    """Put ``source`` into an output without copying its bytes where the file system allows it.

    A hard link keeps the inode, which is how publishing recognizes an object that the store already holds.
    Symbolic links (files of the user that are referenced, not copied) stay symbolic links to the same file.
    """
    destination.parent.mkdir(parents=True, exist_ok=True)
    if source.is_symlink():
        os.symlink(os.path.realpath(source), destination)
        return
    try:
        os.link(source, destination)
    except OSError:
        shutil.copyfile(source, destination)
