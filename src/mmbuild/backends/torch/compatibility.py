"""What an engine of backend torch needs to load, compared with this host. Nothing is loaded."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmbuild.backends.compatibility import (
    REBUILD,
    SM_RULE,
    TENSORRT_RULE,
    UNRECORDED,
    check,
    cuda_of,
    gpu_checks,
    tensor_parallel,
)
from mmbuild.backends.engine_dir.description import VISUAL, Description, LayoutError
from mmbuild.backends.engine_dir.fields import tied
from mmbuild.backends.environments.probe import ProbeError, interpreter_versions, normalized
from mmbuild.backends.environments.versions import names_for, version_of
from mmbuild.base import host
from mmbuild.base.checks import Check
from mmbuild.base.files import FileRefusedError, read_object
from mmbuild.base.gpu import Gpu, visible_gpus
from mmbuild.base.limits import ENGINE_JSON
from mmbuild.config.load import load
from mmbuild.config.model import UserConfig

_VISUAL = "visual.json"
_TENSORRT_HINT = "Name a Python that has it with `mmbuild config set-tensorrt`, or apply its recipe again"


@dataclass(frozen=True, slots=True)
class HostFacts:
    """What this host has.

    Attributes:
        gpus: GPUs that this process may use; None where no driver answers.
        isa: Instruction set of the CPU.
        torch: Version of mmbuild's own torch; None where it is missing.
        tensorrt: Version of the TensorRT that visual engines load in; None where there is none.
    """

    gpus: tuple[Gpu, ...] | None
    isa: str
    torch: str | None = None
    tensorrt: str | None = None


def probe_host(*, tensorrt: bool) -> HostFacts:
    """This host; TensorRT is looked for where ``tensorrt``.

    Raises:
        MmbuildError: The user's configuration cannot be read.
    """
    return HostFacts(
        visible_gpus(),
        host.cpu_isa(),
        host.installed_versions(("torch",)).get("torch"),
        _tensorrt(load()) if tensorrt else None,
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


def compatibility(
    description: Description, here: HostFacts, visual: Mapping[str, Any] | None = None
) -> tuple[Check, ...]:
    """What the engine needs, compared with ``here``; ``visual`` is from :func:`tensorrt_visual`."""
    return (*_torch_build(description, here), *_visual(visual, here))


def _visual(visual: Mapping[str, Any] | None, here: HostFacts) -> Iterator[Check]:
    """A TensorRT visual engine beside the embedded engine."""
    if visual is None:
        return
    found, required = here.tensorrt, str(visual["version"])
    fits = found is not None and found.partition(".post")[0] == required
    yield check("tensorrt (visual)", fits, found or "not configured", required, TENSORRT_RULE, _TENSORRT_HINT)
    sms = [gpu.sm for gpu in here.gpus or ()]
    text = ", ".join(f"SM {sm}" for sm in sms) or "no GPU"
    yield check("gpu (visual)", visual["sm"] in sms, text, f"SM {visual['sm']}, exactly", SM_RULE, REBUILD)


def _torch_build(description: Description, here: HostFacts) -> Iterator[Check]:
    required, found = description.toolchain.get("torch", UNRECORDED), here.torch
    # The part behind the plus says how torch was built; packages do not depend on it.
    fits = found is not None and _public(found) == _public(required)
    why = "compiled packages load in the torch that compiled them"
    hint = f"pip install 'torch=={_public(required)}', or apply its recipe again"
    yield check("torch", fits, found or "not installed", required, why, hint)
    if description.target["device"] == "cuda":
        yield from gpu_checks(description, here.gpus, cuda_of(description.toolchain))
        return
    isa = str(description.target["isa"])
    fits = host.runs_on(isa, here.isa)
    yield check("cpu", fits, here.isa, f"{isa} instructions", "its code was compiled for them", REBUILD)
    yield from _ranks(description)


def _ranks(description: Description) -> Iterator[Check]:
    ranks = tensor_parallel(description)
    if ranks > 1:
        yield Check("ranks", "ok", "started by `mmbuild run`", f"{ranks} processes")


def _public(version: str) -> str:
    return version.partition("+")[0]


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
