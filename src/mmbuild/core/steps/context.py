"""Interface between a step and the build system.

A step is a plain function ``run(context)``. It reads its parameters and input directories, writes one output
directory, and returns nothing. It does not see the recipe, the plan or the store. It runs in its own process,
whose working directory is a private staging directory, so the paths below are short and relative
(``in/<name>``, ``out``) and carry no meaning. Standard output and error go to the action's log.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmbuild.base.progress import Progress, silent


@dataclass(frozen=True, slots=True)
class StepContext:
    """An action as its step sees it.

    Attributes:
        params: The action's parameters, plain JSON data. Everything here is part of the action's key.
        inputs: Input artifacts by name: read-only directories.
        locators: Absolute paths and URLs of user files and remote sources. Not part of any key; their content
            is, through ``sources``.
        sources: Expected digests of the locators' contents, by the same names.
        target: ``{"device": "cpu"|"cuda", "sm": int|None, "isa": str}`` the result is built for.
        out: Empty directory for the output.
        label: Its label, ``recipe/step``. Not part of any key: an equal action of another recipe takes the result.
        cores: Number of CPU cores granted by the scheduler.
        gpus: Ids of the granted GPUs, already in ``CUDA_VISIBLE_DEVICES``.
        progress: ``progress(message, amount)`` (:mod:`mmbuild.base.progress`): how much is done of how much, in which
            unit; None if nothing can be counted. Shown live, never part of the result.
    """

    params: Mapping[str, Any]
    out: Path
    inputs: Mapping[str, Path] = field(default_factory=dict)
    locators: Mapping[str, str] = field(default_factory=dict)
    sources: Mapping[str, str] = field(default_factory=dict)
    target: Mapping[str, Any] = field(default_factory=dict)
    label: str = ""
    cores: int = 1
    gpus: tuple[str, ...] = ()
    progress: Progress = silent


def link(source: Path, destination: Path) -> None:
    """Put ``source`` into an output, without copying its bytes if the file system allows it.

    A hard link keeps the inode, by which publishing recognizes an object that is already in the store.
    Symbolic links (user files that are referenced, not copied) stay symbolic links to the same file.
    """
    destination.parent.mkdir(parents=True, exist_ok=True)
    if source.is_symlink():
        os.symlink(os.path.realpath(source), destination)
        return
    try:
        os.link(source, destination)
    except OSError:
        shutil.copyfile(source, destination)
