"""What this host has of what a build may need; asked of drivers, metadata and environments, quickly."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmbuild.backends.engine_dir.description import VISUAL, Description, LayoutError
from mmbuild.backends.engine_dir.fields import tied
from mmbuild.backends.environments.probe import ProbeError, installed, interpreter_versions, normalized
from mmbuild.backends.tensorrt_llm.checks.requirements import names_for, version_of
from mmbuild.backends.tensorrt_llm.toolchains.load import pinned_distributions
from mmbuild.base import host
from mmbuild.base.files import FileRefusedError, read_object
from mmbuild.base.gpu import Gpu, visible_gpus
from mmbuild.base.limits import ENGINE_JSON
from mmbuild.config.load import load
from mmbuild.config.model import UserConfig

_VISUAL = "visual.json"


@dataclass(frozen=True, slots=True)
class HostFacts:
    """What this host has.

    Attributes:
        gpus: As the driver tells them; None where there is no driver.
        isa: Instruction set of the CPU.
        torch: Version of our own Python's torch; None where it has none.
        environment: What is installed where the build's toolchain runs, by normalized name; None where none is
            configured or it does not answer.
        tensorrt: Version of TensorRT that visual engines of the embedded engine load in; None where there is none.
    """

    gpus: tuple[Gpu, ...] | None
    isa: str
    torch: str | None = None
    environment: Mapping[str, str] | None = None
    tensorrt: str | None = None


def probe_host(description: Description, visual: Mapping[str, Any] | None) -> HostFacts:
    """This host, as far as a build of ``description`` may ask for it; ``visual`` is from :func:`tensorrt_visual`.

    Raises:
        MmbuildError: The user's configuration cannot be read.
    """
    config = load()
    return HostFacts(
        visible_gpus(),
        host.cpu_isa(),
        host.installed_versions(("torch",)).get("torch"),
        _environment(config, description),
        _tensorrt(config) if visual is not None else None,
    )


def tensorrt_visual(build: Path) -> Mapping[str, Any] | None:
    """What a TensorRT visual engine of a torch build is tied to, ``{"version", "sm", ...}``, or None.

    Raises:
        LayoutError: MM541, the file is damaged.
    """
    path = build / VISUAL / _VISUAL
    try:
        data = read_object(path, ENGINE_JSON)
    except (FileNotFoundError, NotADirectoryError):
        return None  # another backend keeps other files there
    except (FileRefusedError, OSError) as error:
        why = error.problem if isinstance(error, FileRefusedError) else f"cannot be read: {error.strerror}"
        raise LayoutError(f"`{path}` {why}", code="MM541", hint="Apply its recipe again") from None
    problem = tied(data)
    if problem is not None:
        raise LayoutError(f"`{path}` is damaged: {problem}", code="MM541", hint="Apply its recipe again")
    found: Mapping[str, Any] | None = data.get("tensorrt")
    return found


def _environment(config: UserConfig, description: Description) -> Mapping[str, str] | None:
    found = config.toolchains.get(description.toolchain.get("tensorrt-llm", ""))
    try:
        return None if found is None else installed(found, pinned_distributions())
    except ProbeError:
        return None


def _tensorrt(config: UserConfig) -> str | None:
    """Of the configured interpreter, else of our own Python."""
    names = names_for("tensorrt")
    if config.tensorrt is None:
        own = {normalized(name): text for name, text in host.installed_versions(names).items()}
        return version_of("tensorrt", own)
    try:
        return version_of("tensorrt", interpreter_versions(config.tensorrt, names))
    except ProbeError:
        return None
