"""Loads compiled packages safely.

AOTInductor segfaults if a package was compiled for another machine. So everything that can be checked is checked
before ``dlopen``.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch._C import _aoti

from mmbuild.backends.engine_dir import description
from mmbuild.base import host
from mmbuild.base.files import FileRefusedError, require_regular
from mmbuild.base.limits import MB
from mmbuild.models.errors import EngineError

_MOST_BYTES = 64 * MB

LoadedPackage = Callable[[list[Tensor]], list[Tensor]]
"""Outputs of a package for inputs, weights and caches, in the order that it was exported with."""


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


class Package:
    """A loaded package. Its tensors are passed at every call; it holds none.

    It calls the C interface that AOTInductor gives every library (torch/csrc/inductor/aoti_runtime/interface.h): the
    loaders of torch unpack a library to a file that a killed process leaves behind, or cannot run without waiting for
    events, which CUDA graphs forbid.
    """

    def __init__(self, library: bytes, kernels: Path, device: str) -> None:
        """Use :func:`load_package`."""
        self._library = _mapped(library)
        self._cuda = device == "cuda"
        place = f"cuda:{torch.cuda.current_device()}" if self._cuda else device
        self._container = ctypes.c_void_p()
        self._call(
            "CreateWithDevice", ctypes.byref(self._container), _size(1), place.encode(), os.fsencode(kernels)
        )
        count = ctypes.c_size_t()
        self._call("GetNumOutputs", self._container, ctypes.byref(count))
        self._outputs = (ctypes.c_void_p * count.value)()

    def __call__(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        """Outputs of the package for inputs, weights and caches, in the order that it was exported with."""
        handles = [
            _pointer(handle, None) for handle in _aoti.unsafe_alloc_void_ptrs_from_tensors(list(inputs))
        ]
        given = (ctypes.c_void_p * len(handles))(*handles)
        stream = ctypes.c_void_p(torch.cuda.current_stream().cuda_stream if self._cuda else None)
        outputs = self._outputs
        self._call(
            "RunSingleThreaded",
            self._container,
            given,
            _size(len(handles)),
            outputs,
            _size(len(outputs)),
            stream,
            None,
        )
        tensors: list[Tensor] = _aoti.alloc_tensors_by_stealing_from_void_ptrs(
            [_capsule(output, None, None) for output in outputs]
        )
        return tensors

    def _call(self, function: str, *arguments: object) -> None:
        """Call a function of the library; it has written what went wrong to stderr."""
        if getattr(self._library, f"AOTInductorModelContainer{function}")(*arguments) != 0:
            raise RuntimeError(f"{function} of the package failed")

    def __del__(self) -> None:
        """Free what the library holds; the library itself stays mapped."""
        if getattr(self, "_container", None):
            self._library.AOTInductorModelContainerDelete(self._container)


_size = ctypes.c_size_t
# torch passes handles as capsules.
_pointer = ctypes.pythonapi.PyCapsule_GetPointer
_pointer.argtypes, _pointer.restype = [ctypes.py_object, ctypes.c_char_p], ctypes.c_void_p
_capsule = ctypes.pythonapi.PyCapsule_New
_capsule.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]
_capsule.restype = ctypes.py_object


_known: dict[bytes, ctypes.CDLL] = {}


def _mapped(library: bytes) -> ctypes.CDLL:
    """The library, mapped once in this process however often it is loaded.

    It is mapped from anonymous memory: a process that is killed leaves nothing behind, and TMPDIR may be full or
    read-only.
    """
    digest = hashlib.sha256(library).digest()
    if digest not in _known:
        file = os.memfd_create("package")
        try:
            with open(file, "wb", closefd=False) as out:
                out.write(library)
            # The loader takes a path for a library that it knows if it has seen the path, and descriptors are reused.
            # So redundant parts of the path number the libraries, in binary.
            turns = "".join("/." if bit == "1" else "/" for bit in f"{len(_known) + 1:b}")
            _known[digest] = ctypes.CDLL(f"/proc/self/fd{turns}/{file}")
        finally:
            os.close(file)
    return _known[digest]


def load_package(path: Path, device: str) -> LoadedPackage:
    """Load a ``.pt2``. Call :func:`check_target` first, and compare the tensors to pass with what it was compiled for
    (:mod:`mmbuild.backends.torch.package_shapes`).

    Raises:
        EngineError: MM504, the file is missing; MM508, it is not a package.
    """
    try:
        require_regular(path)
        library, calls_operators = _content(path)
    except (FileRefusedError, FileNotFoundError) as error:
        problem = error.problem if isinstance(error, FileRefusedError) else "is missing"
        raise EngineError(
            f"`{path}` {problem}", code="MM504", hint="restore the engine directory with `mmbuild apply`"
        ) from None
    except (OSError, zipfile.BadZipFile, zlib.error, ValueError, NotImplementedError) as error:
        raise _unusable(path, error) from error
    try:
        if calls_operators:
            return _with_operators(path, device)
        return Package(library, path.parent / description.KERNELS, device)
    except (OSError, RuntimeError) as error:
        raise _unusable(path, error) from error


def _with_operators(path: Path, device: str) -> LoadedPackage:
    """A package that calls torch's own operators: the sums over ranks.

    Only the loader of torch can give it what it calls them through. It unpacks the package below /tmp, and removes
    the files when the process ends, unless it is killed.
    """
    index = torch.cuda.current_device() if device == "cuda" else -1
    loader = _aoti.AOTIModelPackageLoader(
        str(path), "model", True, 1, index
    )  # True: without waiting for events
    run: LoadedPackage = loader.run
    return run


def _content(path: Path) -> tuple[bytes, bool]:
    """The shared library in a package, and whether it calls operators of torch that it does not hold."""
    with zipfile.ZipFile(path) as package:
        entries = [entry for entry in package.infolist() if entry.filename.endswith(".wrapper.so")]
        if len(entries) != 1 or entries[0].file_size > _MOST_BYTES:
            raise ValueError("it holds no library of a package")
        operators = any(name.endswith(".wrapper.json") for name in package.namelist())
        return package.read(entries[0]), operators


def _unusable(path: Path, error: Exception) -> EngineError:
    return EngineError(
        f"`{path}` cannot be loaded: {(str(error).splitlines() or [type(error).__name__])[0]}",
        code="MM508",
        hint="check the file with `mmbuild cache verify`, then apply the recipe again",
    )
