"""Loads the facts of a version of TensorRT-LLM: one directory per version, one YAML file per subject.

``extends`` in a version's ``toolchain.yaml`` names another version. The version then states only what differs: its
files are merged into those of the other version (:func:`merge`), and a file without differences is absent.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from mmbuild.backends.environments.probe import normalized
from mmbuild.backends.tensorrt_llm.toolchains.model import Toolchain
from mmbuild.schema.tensorrt_llm_versions import SUPPORTED, require

DIRECTORY = Path(__file__).parent
SUBJECTS = ("commands", "unsupported", "notes", "gpus", "memory", "outputs", "logs", "reader")
"""Each is a file of a version or, if it is short, a key of its ``toolchain.yaml``."""


@cache
def load_toolchain(version: str, directory: Path = DIRECTORY) -> Toolchain:
    """The toolchain of ``version``.

    Args:
        version: One of mmbuild's versions, or of those in ``directory``.
        directory: Contains one directory per version.

    Raises:
        ToolchainError: MM601 or MM602, there is no such toolchain.
        ValueError: The files are wrong (a bug in mmbuild, caught by tests): ``extends`` or a merge fails, or they do
            not match the schema.
    """
    known = require(version) if directory is DIRECTORY else version
    subjects = {name: version_facts(known, name, directory) for name in ("commands", "unsupported", "notes")}
    return Toolchain.model_validate(
        {**version_facts(known, "toolchain", directory), **subjects, "version": known}
    )


@cache
def version_facts(version: str, subject: str, directory: Path = DIRECTORY) -> Mapping[str, Any]:
    """A subject (``toolchain``, ``commands``, ...) of ``version``, merged into that of the versions that it extends.

    Raises:
        ValueError: An unknown version, a cycle, or a key that is removed but does not exist.
    """
    merged: Mapping[str, Any] = {}
    for name in reversed(_lineage(version, directory)):
        try:
            merged = merge(merged, _stated(directory / name, subject))
        except KeyError as error:
            raise ValueError(
                f"{directory / name}: {subject}: key {error} to remove does not exist"
            ) from error
    return merged


def _stated(version: Path, subject: str) -> Mapping[str, Any]:
    """What the files of one version state."""
    own = read_yaml(version / "toolchain.yaml")
    if subject == "toolchain":
        return {key: value for key, value in own.items() if key not in ("extends", *SUBJECTS)}
    return own[subject] if subject in own else read_yaml(version / f"{subject}.yaml")


def merge(base: Any, changes: Any) -> Any:
    """``base`` with ``changes``: mappings merge recursively, everything else replaces, null removes a key.

    Keys keep the order of ``base``. A new key follows the key before it in ``changes``, or comes first; ``{}`` as the
    value of an existing key changes nothing, and so names a place for the next one.

    Raises:
        KeyError: A key to remove does not exist.
    """
    if not (isinstance(base, dict) and isinstance(changes, dict)):
        return base if changes == {} and base is not None else changes
    keys, place = list(base), 0
    for key, change in changes.items():
        if key not in base:
            if change is None:
                raise KeyError(key)
            keys.insert(place, key)
        place = keys.index(key) + 1
    return {
        key: merge(base.get(key), changes[key]) if key in changes else base[key]
        for key in keys
        if key not in changes or changes[key] is not None
    }


@cache
def _lineage(version: str, directory: Path) -> tuple[str, ...]:
    """``version`` and the versions that it extends, nearest first."""
    names: list[str] = []
    name: str | None = version
    while name is not None:
        path = directory / name / "toolchain.yaml"
        if name in names or not path.is_file():
            problem = "extends itself" if name in names else "there is no such file"
            raise ValueError(f"{path}: {problem}: {' -> '.join((*names, name))}")
        names.append(name)
        name = read_yaml(path).get("extends")
    return tuple(names)


@cache
def read_yaml(path: Path) -> Mapping[str, Any]:
    """The content of a YAML file; empty if it does not exist."""
    try:
        loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    content: Mapping[str, Any] = _plain(loader.get_single_node(), loader)
    return content


def _plain(node: Any, loader: Any) -> Any:
    """The value of a node, in less time than PyYAML's own constructor: most scalars are strings."""
    if isinstance(node, yaml.MappingNode):
        return {_plain(key, loader): _plain(value, loader) for key, value in node.value}
    if isinstance(node, yaml.SequenceNode):
        return [_plain(item, loader) for item in node.value]
    return node.value if node.tag == "tag:yaml.org,2002:str" else loader.construct_object(node)


# In addition to what toolchains pin. s2wrapper: the distribution of scaling_on_scales, which VILA needs.
_FURTHER = ("tensorrt", "tensorrt-cu12", "tensorrt-cu13", "mpi4py", "numpy", "s2wrapper", "cuda-python")


@cache
def pinned_distributions() -> tuple[str, ...]:
    """Normalized names of all distributions that a supported toolchain pins."""
    names = {normalized(name) for version in SUPPORTED for name in load_toolchain(version).pins}
    return tuple(sorted(names | set(_FURTHER)))
