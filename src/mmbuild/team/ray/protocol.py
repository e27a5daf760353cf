"""What the driver tells a node, and what the node answers: plain data, pickled by Ray.

Secrets are among it (a token of the hub, options of the shared store). They travel as arguments of tasks, which Ray
neither shows nor logs, never in names of tasks or in runtime environments; fields that hold them are left out of
``repr``.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from mmbuild._version import __version__
from mmbuild.base import host
from mmbuild.config.remote_cache import Settings
from mmbuild.core.execution.job import WorkerJob
from mmbuild.core.execution.worker_environment import listed_environment
from mmbuild.core.steps.registry import StepSpec

NODE_STORE = "MMBUILD_NODE_STORE"
"""On a node: where the store is there, be it the driver's under another path or one of the node's own."""

_CARRIED = frozenset(
    {"HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_ENDPOINT", "HF_HUB_OFFLINE", "PYTHONHASHSEED"}
)
_PLACES = frozenset({"MMBUILD_STORE", "MMBUILD_CONFIG", NODE_STORE})


@dataclass(frozen=True, slots=True)
class NodeProbe:
    """What a node has to fit to.

    Attributes:
        store: Root of the driver's store, where the driver sees it.
        token: Name of a file under that root, and its content.
        versions: Software by name (:func:`versions_of`).
        paths: Files of users that actions name.
        environment: Variables of the driver that actions see.
    """

    store: str
    token: tuple[str, str]
    versions: Mapping[str, str]
    paths: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, slots=True)
class NodeInfo:
    """What a node is.

    Attributes:
        host: Name of the machine.
        root: Root of the driver's store as the node sees it; None where it does not.
        differences: Software that is not the driver's, a sentence part for each.
        missing: Paths of the question that are not there.
        isa: Best instruction set of its CPU.
    """

    host: str
    root: str | None
    differences: tuple[str, ...]
    missing: frozenset[str]
    isa: str


@dataclass(frozen=True, slots=True)
class TaskSpec:
    """One action for a node.

    Attributes:
        question: Asked again on the spot: the node may have joined after all were asked.
        job: With paths of the driver.
        directory: Where to work, relative to the store's root, on a node that sees it.
        preload: Modules that the step needs.
        shared: The shared store, for a node that does not see the driver's; None where there is none.
    """

    question: NodeProbe
    job: WorkerJob
    directory: str
    preload: tuple[str, ...]
    shared: Settings | None = field(default=None, repr=False)


def carried_environment(source: Mapping[str, str] | None = None) -> dict[str, str]:
    """Variables of the driver that actions on nodes see too: no paths, since those are of this machine."""
    listed = listed_environment(source)
    return {
        name: value
        for name, value in listed.items()
        if name in _CARRIED or (name.startswith("MMBUILD_") and name not in _PLACES)
    }


def versions_of(specs: Iterable[StepSpec], packages: Iterable[str] = ()) -> dict[str, str]:
    """What has to be equal on the driver and a node for the same result.

    ``packages`` are looked at beside those that :func:`mmbuild.base.host.installed_versions` always looks at.
    """
    return {
        "mmbuild": __version__,
        "Python": ".".join(platform.python_version_tuple()[:2]),
        **host.installed_versions(),
        **host.installed_versions(packages),
        **{f"step {spec.name}": spec.version for spec in specs},
    }


def differences(required: Mapping[str, str], here: Mapping[str, str]) -> tuple[str, ...]:
    """What differs, as ``mmbuild 0.3 (the driver has 0.4)``."""
    return tuple(
        f"{name} {here.get(name, 'is missing')} (the driver has {version})"
        for name, version in required.items()
        if here.get(name) != version
    )


def seen_root(question: NodeProbe) -> str | None:
    """The driver's store as this machine sees it: the directory that holds the file with the token."""
    name, content = question.token
    root = os.environ.get(NODE_STORE) or question.store
    try:
        with open(os.path.join(root, name), encoding="ascii") as stream:
            return root if stream.read() == content else None
    except (OSError, UnicodeDecodeError):
        return None
