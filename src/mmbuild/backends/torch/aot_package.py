"""Loads compiled packages safely.

AOTInductor segfaults if a package was compiled for another machine, or runs before its constants are bound. So
everything that can be checked is checked before ``dlopen``, and only bound packages are returned.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mmbuild.backends.torch import weights
from mmbuild.backends.torch.package_shapes import check_shapes
from mmbuild.base import host
from mmbuild.base.files import FileRefusedError, require_regular
from mmbuild.models.errors import EngineError

Package = Callable[..., Any]


def cpu_isa() -> str:
    """The widest vector instruction set of this CPU: ``avx512``, ``avx2``, ``neon`` or ``generic``."""
    if platform.machine() in ("aarch64", "arm64"):
        return "neon"
    capability = torch.backends.cpu.get_cpu_capability().lower()
    if capability.startswith("avx512"):
        return "avx512"
    return "avx2" if capability == "avx2" else "generic"


def check_target(target: Mapping[str, Any], torch_version: str) -> None:
    """Check that packages were built for this machine and this torch.

    Raises:
        EngineError: MM506, another torch version; MM507, another device, SM, instruction set or architecture.
    """
    if torch_version.partition("+")[0] != torch.__version__.partition("+")[0]:
        raise EngineError(
            f"the engine was built with torch {torch_version}, but this is torch {torch.__version__}",
            code="MM506",
            hint="apply the recipe again with this torch, or install the one it was built with",
        )
    problem = _cuda_problem(target) if target["device"] == "cuda" else _cpu_problem(target)
    if problem:
        raise EngineError(
            problem,
            code="MM507",
            hint="apply the recipe on this machine, or set `target` in the recipe to this machine",
        )


def _cpu_problem(target: Mapping[str, Any]) -> str | None:
    required, available = str(target["isa"]), cpu_isa()
    if not host.runs_on(required, available):
        return (
            f"the engine needs {required} instructions, but this CPU ({platform.machine()}) has {available}"
        )
    return None


def _cuda_problem(target: Mapping[str, Any]) -> str | None:
    if not torch.cuda.is_available():
        return f"the engine is for CUDA (SM {target['sm']}), but torch sees no GPU"
    major, minor = torch.cuda.get_device_capability()
    sm = 10 * major + minor
    if target.get("sm") not in (None, sm):
        return f"the engine is for SM {target['sm']}, but this GPU is SM {sm}"
    return None


def load_package(path: Path, constants: Mapping[str, Tensor], device: str) -> Package:
    """Load a ``.pt2`` and bind its constants without copying them.

    The caller must keep ``constants`` alive. Call :func:`check_target` first.

    Raises:
        EngineError: The file is missing or not a package, or needs constants that are missing or have other shapes.
    """
    try:
        require_regular(path)
    except (FileRefusedError, OSError) as error:
        problem = error.problem if isinstance(error, FileRefusedError) else "is missing"
        raise EngineError(
            f"`{path}` {problem}", code="MM504", hint="restore the engine directory with `mmbuild apply`"
        ) from None
    check_shapes(path, {name: tuple(value.shape) for name, value in constants.items()})
    from torch.export.pt2_archive._package import AOTICompiledModel

    index = torch.cuda.current_device() if device == "cuda" else -1
    try:
        # Like torch._inductor.aoti_load_package, but without its check of this machine, which tries instruction sets
        # in child processes and takes more than a second; check_target has already checked.
        package = AOTICompiledModel(torch._C._aoti.AOTIModelPackageLoader(str(path), "model", True, 1, index))
    except RuntimeError as error:
        raise EngineError(
            f"`{path}` cannot be loaded: {str(error).splitlines()[0]}",
            code="MM508",
            hint="check the file with `mmbuild cache verify`, then apply the recipe again",
        ) from error
    bound = weights.bind(constants, package.get_constant_fqns(), path.name)
    package.load_constants(bound, check_full_update=True, user_managed=True)
    return package
