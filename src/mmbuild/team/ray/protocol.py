"""Messages between the driver and nodes: plain data, pickled by Ray.

They contain secrets (a hub token, options of the shared store). Secrets are passed as task arguments, which Ray
neither shows nor logs, never in task names or runtime environments; the fields that hold them are left out of
``repr``.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from mmbuild._version import __version__
from mmbuild.base import host
from mmbuild.config.shared_store_settings import Settings
from mmbuild.core.execution.job import WorkerJob
from mmbuild.core.execution.worker_environment import listed_environment
from mmbuild.core.steps.registry import StepSpec

NODE_STORE = "MMBUILD_NODE_STORE"
"""On a node: path of the store, either the driver's under another path or the node's own."""

_CARRIED = frozenset(
    {"HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_ENDPOINT", "HF_HUB_OFFLINE", "PYTHONHASHSEED"}
)
_PLACES = frozenset({"MMBUILD_STORE", "MMBUILD_CONFIG", NODE_STORE})


@dataclass(frozen=True, slots=True)
class NodeProbe:
    """Requirements that a node is checked against.

    Attributes:
        store: Root of the driver's store on the driver.
        token: Name of a file under that root, and its content.
        versions: Software versions by name (:func:`versions_of`).
        paths: User files that actions name.
        environment: Variables of the driver that actions see.
    """

    store: str
    token: tuple[str, str]
    versions: Mapping[str, str]
    paths: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, slots=True)
class NodeInfo:
    """Answer of a node to a probe.

    Attributes:
        host: Name of the machine.
        root: Root of the driver's store on the node; None if it cannot access the store.
        differences: Descriptions of software versions that differ from the driver's.
        missing: Paths from the probe that do not exist.
        isa: Best instruction set of its CPU.
    """

    host: str
    root: str | None
    differences: tuple[str, ...]
    missing: frozenset[str]
    isa: str


@dataclass(frozen=True, slots=True)
class TaskSpec:
    """An action for a node.

    Attributes:
        question: Checked again on the node, which may have joined after the others were probed.
        job: The job, with paths on the driver.
        directory: Working directory relative to the store's root, on a node that can access it.
        preload: Modules that the step needs.
        shared: The shared store, for a node that cannot access the driver's store; None if there is none.
    """

    question: NodeProbe
    job: WorkerJob
    directory: str
    preload: tuple[str, ...]
    shared: Settings | None = field(default=None, repr=False)


def carried_environment(source: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the driver's variables that actions on nodes see too; no paths, which are valid only on this machine."""
    listed = listed_environment(source)
    return {
        name: value
        for name, value in listed.items()
        if name in _CARRIED or (name.startswith("MMBUILD_") and name not in _PLACES)
    }


def versions_of(specs: Iterable[StepSpec], packages: Iterable[str] = ()) -> dict[str, str]:
    """Return the versions that must be equal on the driver and a node for identical results.

    ``packages`` are included in addition to the defaults of :func:`mmbuild.base.host.installed_versions`.
    """
    return {
        "mmbuild": __version__,
        "Python": ".".join(platform.python_version_tuple()[:2]),
        **host.installed_versions(),
        **host.installed_versions(packages),
        **{f"step {spec.name}": spec.version for spec in specs},
    }


def differences(required: Mapping[str, str], here: Mapping[str, str]) -> tuple[str, ...]:
    """Return the differences, as ``mmbuild 0.3 (the driver has 0.4)``."""
    return tuple(
        f"{name} {here.get(name, 'is missing')} (the driver has {version})"
        for name, version in required.items()
        if here.get(name) != version
    )


def seen_root(question: NodeProbe) -> str | None:
    """Return the driver's store on this machine: the directory with the token file; None if it is not accessible."""
    name, content = question.token
    root = os.environ.get(NODE_STORE) or question.store
    try:
        with open(os.path.join(root, name), encoding="ascii") as stream:
            return root if stream.read() == content else None
    except (OSError, UnicodeDecodeError):
        return None
