"""Work directories, in which a toolchain's commands read their inputs and write their outputs.

The scripts of a checkout find each other by relative paths, and a build's directories are relative to the scripts. So
the path to the scripts' directory is recreated, with links to all neighbouring files: commands read the checkout but
never write into it, leftovers of manual work in it are hidden, and no path contains a word that the scripts would
interpret.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from mmbuild.core.steps.context import link


def make_workplace(root: Path, checkout: Path, workdir: str, places: Iterable[str]) -> Path:
    """Create the directory ``root / workdir``, surrounded by links to the checkout's files.

    Args:
        root: Empty or absent directory.
        checkout: A checkout of TensorRT-LLM with its example scripts.
        workdir: The scripts' directory, relative to the checkout.
        places: Paths relative to ``workdir`` of inputs and outputs; the checkout's files there are not linked.

    Returns:
        The directory to run commands in.
    """
    own = {PurePosixPath(place).parts[0] for place in places}
    parts = PurePosixPath(workdir).parts
    for depth in range(1, len(parts) + 1):
        directory = root.joinpath(*parts[:depth])
        directory.mkdir(parents=True, exist_ok=True)
        excluded = own if depth == len(parts) else {parts[depth]}
        for entry in sorted(os.scandir(checkout.joinpath(*parts[:depth])), key=lambda item: item.name):
            if entry.name not in excluded:
                (directory / entry.name).symlink_to(Path(entry.path).absolute())
    return root / workdir


def link_tree(source: Path, place: Path, *, symbolic: bool = False) -> None:
    """Reproduce the directory ``source`` at ``place`` with one link per file, copying only if linking fails.

    ``place`` is a real directory, not a link: scripts reach its neighbours by ``..``.

    Args:
        source: A directory.
        place: Empty or absent.
        symbolic: Use symbolic links, which can cross file systems, instead of hard links.
    """
    place.mkdir(parents=True, exist_ok=True)
    for directory, names, files in os.walk(source):
        below = place / Path(directory).relative_to(source)
        for name in names:
            (below / name).mkdir(exist_ok=True)
        for name in files:
            if symbolic:
                os.symlink(os.path.realpath(Path(directory, name)), below / name)
            else:
                link(Path(directory, name), below / name)


def add_files(files: Mapping[str, Any], root: Path) -> None:
    """Write each of ``files`` (path below ``root`` to JSON content) that does not exist."""
    for name, content in files.items():
        if not (root / name).exists():
            (root / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def linked_directories(places: Mapping[str, Path], around: Sequence[Path] = ()) -> tuple[Path, ...]:
    """Directories that the links below ``places`` point into, which a container must mount: absolute, no duplicates.

    Args:
        places: Directories filled by :func:`link_tree`.
        around: Directories to return instead of their subdirectories.
    """
    targets: dict[Path, None] = {}
    for place in places.values():
        for directory, _, files in os.walk(place):
            for name in files:
                path = Path(directory, name)
                if path.is_symlink():
                    targets[Path(os.path.realpath(path)).parent] = None
    real = [Path(os.path.realpath(path)) for path in around]
    used = {outer: None for outer in real if any(path.is_relative_to(outer) for path in targets)}
    rest = {path: None for path in targets if not any(path.is_relative_to(outer) for outer in real)}
    return (*used, *rest)
