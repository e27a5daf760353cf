"""Virtual environments with few packages: links into the environment that runs the tests; nothing is downloaded."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
import tomllib
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]


def core_requirements() -> list[str]:
    """Names of the distributions that mmbuild requires without extras."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    return [Requirement(line).name for line in project["dependencies"]]


def complete_environment(directory: Path) -> Path:
    """Make a virtual environment that also finds every package of the environment that runs the tests.

    Directories in a .pth file do not have their own .pth files read, so an editable mmbuild there is not found.

    Returns:
        Its Python.
    """
    python = core_environment(directory)
    (site,) = (directory / "lib").glob("python*/site-packages")
    (site / "complete.pth").write_text(f"{sysconfig.get_path('purelib')}\n", "utf-8")
    return python


def core_environment(directory: Path) -> Path:
    """Make a virtual environment with the packages that mmbuild requires without extras, and without mmbuild.

    Returns:
        Its Python.
    """
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", directory], check=True)
    (site,) = (directory / "lib").glob("python*/site-packages")
    for distribution in _closure(core_requirements()):
        for name in {file.parts[0] for file in distribution.files or ()} - {"..", "__pycache__"}:
            place = Path(str(distribution.locate_file(name)))
            if place.exists() and not (site / name).exists():
                (site / name).symlink_to(place)
    return directory / "bin" / "python"


def _closure(names: Iterable[str]) -> list[metadata.Distribution]:
    """The distributions ``names`` and everything that they require."""
    found: dict[str, metadata.Distribution] = {}
    pending = list(names)
    while pending:
        name = canonicalize_name(pending.pop())
        if name in found:
            continue
        found[name] = metadata.distribution(name)
        requirements = [Requirement(line) for line in found[name].requires or ()]
        pending += [
            item.name for item in requirements if item.marker is None or item.marker.evaluate({"extra": ""})
        ]
    return list(found.values())
