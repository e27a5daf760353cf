"""Compiles modules to packages: torch.export, then AOTInductor, with all weights as inputs.

A package is a ``.pt2`` of one or two megabytes that holds no weights. One package serves all modules of a shape.
"""

from __future__ import annotations

import os
import platform
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch._inductor import cpu_vec_isa
from torch.export import ExportedProgram
from torch.func import functional_call

from mmbuild.backends.engine_dir import description
from mmbuild.backends.torch import inductor_strides, package_cache, package_runtime, packages
from mmbuild.backends.torch.build_module import is_cache
from mmbuild.backends.torch.config import EngineConfig
from mmbuild.backends.torch.inductor_fix import arrays_declared_where_used
from mmbuild.backends.torch.inductor_overlap import kernels_wait
from mmbuild.backends.torch.inductor_reductions import in_one_pass
from mmbuild.backends.torch.kernels import starts_early
from mmbuild.backends.torch.linear import layout_of

# Compiler options by instruction set: g++'s target and Inductor's vector width. Without an entry g++ compiles for the
# build machine.
_ISA: Mapping[str, Mapping[str, object]] = {
    "avx512": {"cpp.march": "x86-64-v4", "cpp.simdlen": 512},
    "avx2": {"cpp.march": "x86-64-v3", "cpp.simdlen": 256},
    "generic": {"cpp.march": "x86-64", "cpp.simdlen": 1} if platform.machine() == "x86_64" else {},
}


class _Method(nn.Module):
    """A method of a module as the ``forward`` of another."""

    def __init__(self, module: nn.Module, method: str) -> None:
        super().__init__()
        self.module, self.method = module, method

    def forward(self, *inputs: Tensor) -> Any:
        """As the method."""
        return getattr(self.module, self.method)(*inputs)


class WithWeights(nn.Module):
    """A method of a module whose weights and buffers are inputs, so that they are no constants of the graph."""

    def __init__(self, module: nn.Module, method: str, names: Sequence[str]) -> None:
        super().__init__()
        # In a tuple, or the tensors of the module would be parameters of this one.
        self._inner = (_Method(module, method),)
        self._names = tuple(f"module.{name}" for name in names)

    def forward(self, *tensors: Tensor) -> Any:
        """Inputs of the method, then the tensors by name."""
        inputs, weights = tensors[: -len(self._names)], tensors[-len(self._names) :]
        return functional_call(self._inner[0], dict(zip(self._names, weights, strict=True)), inputs)


def export_package(config: EngineConfig, name: str, device: str) -> ExportedProgram:
    """The graph of one package (:mod:`mmbuild.backends.torch.packages`), traced with uninitialized weights."""
    package = packages.table(config)[name]
    model = packages.one_layer_model(config, layout_of(device), device)
    example, names = package.example(config), package.names(model)
    module = package.module(model)
    tensors = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    rows = {0: example.rows.dim}
    weights = [tensors[name][: example.rows.size] if is_cache(name) else tensors[name] for name in names]
    dims = (*example.dims, *(rows if is_cache(name) else None for name in names))
    return export(WithWeights(module, package.method, names), (*example.inputs, *weights), dims, device)


def export(module: nn.Module, inputs: Sequence[Tensor], dims: Sequence[Any], device: str) -> ExportedProgram:
    """Export a module whose ``forward`` takes any number of tensors.

    Args:
        module: The module.
        inputs: Example inputs.
        dims: Dynamic dimensions of each input.
        device: Device to export for.
    """
    given = tuple(value.detach().to(device) for value in inputs)
    with torch.no_grad(), kernels_wait(wanted=_starts_early(device)):
        return torch.export.export(module, given, dynamic_shapes=(tuple(dims),))


def _starts_early(device: str) -> bool:
    return device == "cuda" and starts_early()


def compile_package(program: ExportedProgram, path: Path, target: Mapping[str, Any]) -> None:
    """Compile one exported graph to ``path`` (.pt2) for ``target``, unless it is known (``package_cache``).

    The number of CPU threads is chosen at run time. Inductor embeds its cache directory in source comments, so
    identical packages require the same ``TORCHINDUCTOR_CACHE_DIR``.
    """
    key = package_cache.key_of(program, path.stem, target, inductor_options(target))
    if (known := package_cache.find(key)) is not None:
        path.write_bytes(known)
        return
    _compile(program, path, target)
    if key is not None:
        package_cache.keep(key, path.read_bytes())
    _unpack_kernels(path)


def _compile(program: ExportedProgram, path: Path, target: Mapping[str, Any]) -> None:
    # A package has a few kernels: processes that compile them side by side take longer to start than they save.
    with (
        torch._inductor.config.patch({"compile_threads": 1, "cpp.vec_isa_ok": True}),
        mock.patch.object(cpu_vec_isa, "valid_vec_isa_list", return_value=_vector_isas(target)),
        package_runtime.reduced(package_cache.surroundings),
        arrays_declared_where_used(),
        inductor_strides.computed_directly(),
        kernels_wait(wanted=_starts_early(target["device"])),
        in_one_pass(wanted=target["device"] == "cuda"),
    ):
        torch._inductor.aoti_compile_and_package(
            program, package_path=os.fspath(path), inductor_configs=inductor_options(target)
        )


def _unpack_kernels(path: Path) -> None:
    """Put the GPU kernels of a package beside it: a library loads them from files, under names that are digests."""
    with zipfile.ZipFile(path) as package:
        for entry in package.infolist():
            if entry.filename.endswith(".cubin"):
                kernels = path.parent / description.KERNELS
                kernels.mkdir(exist_ok=True)
                (kernels / Path(entry.filename).name).write_bytes(package.read(entry))


def inductor_options(target: Mapping[str, Any], known: Any = None) -> dict[str, Any]:
    """Inductor options for a target, limited to those that this torch has.

    Args:
        target: ``device`` and, for CPUs, ``isa``.
        known: The configuration to look up options in; default: ``torch._inductor.config``. torch 2.11 has no
            ``cpp.march``, so g++ compiles for the build machine.
    """
    config = torch._inductor.config if known is None else known
    return {name: value for name, value in _options(target).items() if _has(config, name)}


def _has(config: Any, name: str) -> bool:
    for part in name.split("."):
        if not hasattr(config, part):
            return False
        config = getattr(config, part)
    return True


def _options(target: Mapping[str, Any]) -> dict[str, Any]:
    if target["device"] == "cuda":
        # Without timing kernels: others may use the GPU meanwhile.
        return {"deterministic": True}
    # Line tables are for debuggers; libraries are twice as large with them, and take longer to compile.
    options = {"cpp.dynamic_threads": True, "aot_inductor.enable_line_tables": False}
    return options | dict(_ISA.get(str(target["isa"]), {}))


class _Avx512(cpu_vec_isa.VecAVX512):
    """AVX-512 without the instructions for bfloat16, which many CPUs with AVX-512 lack.

    Inductor adds them if this machine has them, and only to the first package of a process.
    """

    def __bool__(self) -> bool:
        return True


def _vector_isas(target: Mapping[str, Any]) -> list[Any]:
    """The vector instructions that Inductor may use for ``target``.

    Inductor itself finds out by compiling a program for each set that this CPU has and loading it in a process of its
    own, which takes a minute on a machine with ten sets.
    """
    if target["device"] == "cuda" or target["isa"] == "generic":
        return []
    known = {"avx512": _Avx512, "avx2": cpu_vec_isa.VecAVX2, "neon": cpu_vec_isa.VecNEON}
    return [known[str(target["isa"])]()]
