"""A directory in which commands of a toolchain find what they look for, and leave what they make.

The scripts of a checkout know each other by relative paths, and the directories of a build are relative to theirs.
So the way to the scripts' directory is made anew, with links to everything beside it: commands read the checkout
and never write into it, whatever it holds from work by hand, and no path that they are given has a word in it that
they could take for a sign.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from mmbuild.core.steps.context import link


def make_workplace(root: Path, checkout: Path, workdir: str, places: Iterable[str]) -> Path:
    """The directory ``root / workdir``, with everything of the checkout's around it.

    Args:
        root: Empty or absent directory.
        checkout: A checkout of TensorRT-LLM with its example scripts.
        workdir: The scripts' directory, relative to the checkout.
        places: Paths relative to ``workdir`` that will be filled or made; what the checkout has there is left out.

    Returns:
        The directory to run commands in.
    """
    own = {PurePosixPath(place).parts[0] for place in places}
    parts = PurePosixPath(workdir).parts
    for depth in range(1, len(parts) + 1):
        here = root.joinpath(*parts[:depth])
        here.mkdir(parents=True, exist_ok=True)
        apart = own if depth == len(parts) else {parts[depth]}
        for entry in sorted(os.scandir(checkout.joinpath(*parts[:depth])), key=lambda item: item.name):
            if entry.name not in apart:
                (here / entry.name).symlink_to(Path(entry.path).absolute())
    return root / workdir


def link_tree(source: Path, place: Path, *, symbolic: bool = False) -> None:
    """Lay the directory ``source`` at ``place``, file by file, without copying what need not be copied.

    ``place`` is a directory of its own and no link: scripts look for things beside it, by ``..``.

    Args:
        source: A directory.
        place: Empty or absent.
        symbolic: Symbolic links, which reach other file systems, instead of hard ones.
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
    """Write each of ``files`` (path below ``root`` to JSON content) that is not there."""
    for name, content in files.items():
        if not (root / name).exists():
            (root / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def linked_directories(places: Mapping[str, Path], around: Sequence[Path] = ()) -> tuple[Path, ...]:
    """Directories outside that links below ``places`` lead to, for whoever must mount them: absolute, each once.

    Args:
        places: Directories that were filled by :func:`link_tree`.
        around: Directories that stand for everything below them.
    """
    found: dict[Path, None] = {}
    for place in places.values():
        for directory, _, files in os.walk(place):
            for name in files:
                path = Path(directory, name)
                if path.is_symlink():
                    found[Path(os.path.realpath(path)).parent] = None
    real = [Path(os.path.realpath(path)) for path in around]
    used = {outer: None for outer in real if any(path.is_relative_to(outer) for path in found)}
    rest = {path: None for path in found if not any(path.is_relative_to(outer) for outer in real)}
    return (*used, *rest)
