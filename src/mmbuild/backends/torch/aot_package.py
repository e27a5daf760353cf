"""Loading a compiled package without surprises.

AOTInductor segfaults on a package for another machine or one that runs before its constants are bound, so
everything that can be checked is checked before ``dlopen``, and a package is only handed out bound.
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
    """The widest vector instruction set here: ``avx512``, ``avx2``, ``neon`` or ``generic``."""
    if platform.machine() in ("aarch64", "arm64"):
        return "neon"
    capability = torch.backends.cpu.get_cpu_capability().lower()
    if capability.startswith("avx512"):
        return "avx512"
    return "avx2" if capability == "avx2" else "generic"


def check_target(target: Mapping[str, Any], torch_version: str) -> None:
    """Refuse a package that was not built for this machine and this torch.

    Raises:
        EngineError: Another device, SM, instruction set, architecture or torch version.
    """
    if torch_version.partition("+")[0] != torch.__version__.partition("+")[0]:
        raise EngineError(
            f"the engine was built with torch {torch_version}, and this is torch {torch.__version__}",
            code="MM506",
            hint="Apply the recipe again with this torch, or install the one it was built with",
        )
    problem = _cuda_problem(target) if target["device"] == "cuda" else _cpu_problem(target)
    if problem:
        raise EngineError(
            problem,
            code="MM507",
            hint="Apply the recipe on this machine, or set `target` in the recipe to this machine",
        )


def _cpu_problem(target: Mapping[str, Any]) -> str | None:
    required, here = str(target["isa"]), cpu_isa()
    if not host.runs_on(required, here):
        return f"the engine needs {required} instructions, and this CPU ({platform.machine()}) has {here}"
    return None


def _cuda_problem(target: Mapping[str, Any]) -> str | None:
    if not torch.cuda.is_available():
        return f"the engine is for CUDA (SM {target['sm']}), and torch sees no GPU here"
    major, minor = torch.cuda.get_device_capability()
    here = 10 * major + minor
    if target.get("sm") not in (None, here):
        return f"the engine is for SM {target['sm']}, and this GPU is SM {here}"
    return None


def load_package(path: Path, constants: Mapping[str, Tensor], device: str) -> Package:
    """Load a ``.pt2`` and bind its constants without copying them.

    The caller keeps ``constants`` alive. Call :func:`check_target` first.

    Raises:
        EngineError: The file is missing, is no package, or needs constants that are not there or of other shapes.
    """
    try:
        require_regular(path)
    except (FileRefusedError, OSError) as error:
        problem = error.problem if isinstance(error, FileRefusedError) else "is missing"
        raise EngineError(
            f"`{path}` {problem}", code="MM504", hint="Restore the engine directory with `mmbuild apply`"
        ) from None
    check_shapes(path, {name: tuple(value.shape) for name, value in constants.items()})
    from torch.export.pt2_archive._package import AOTICompiledModel

    index = torch.cuda.current_device() if device == "cuda" else -1
    try:
        # What torch._inductor.aoti_load_package does, without its look at this machine: that tries instruction
        # sets in child processes, a second and more whenever a program starts, and check_target has looked.
        package = AOTICompiledModel(torch._C._aoti.AOTIModelPackageLoader(str(path), "model", True, 1, index))
    except RuntimeError as error:
        raise EngineError(
            f"`{path}` cannot be loaded: {str(error).splitlines()[0]}",
            code="MM508",
            hint="Check the file with `mmbuild cache verify`, then apply the recipe again",
        ) from error
    bound = weights.bind(constants, package.get_constant_fqns(), path.name)
    package.load_constants(bound, check_full_update=True, user_managed=True)
    return package
