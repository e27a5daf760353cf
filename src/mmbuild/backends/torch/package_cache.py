"""Keeps compiled packages by what they are compiled from, so that no graph is compiled twice.

Engines share graphs: ``embed`` and ``head`` are the same for all quantizations of a model, and an engine that is
compiled again, for another store or after a change of one limit, has most of its graphs unchanged. torch's own cache
of compiled graphs excludes AOTInductor.

A wrong hit would be a wrong engine, so the key covers everything that the package depends on: the graph as torch
serializes it (operators, shapes, strides, ranges and example sizes of symbols, constants), Inductor's options, torch
itself, the C++ compiler, the CPU, and the files of mmbuild between a graph and its package. Packages for GPUs, which
also depend on the driver and on Triton, are not kept.
"""

from __future__ import annotations

import functools
import json
import os
import platform
import re
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from blake3 import blake3
from torch._export.serde import serialize
from torch._inductor import codecache, cpp_builder
from torch._inductor import config as inductor_config
from torch._inductor.runtime.cache_dir_utils import cache_dir
from torch.export import ExportedProgram
from torch.utils._pytree import tree_leaves

from mmbuild.backends.torch.distributed import collectives
from mmbuild.backends.torch.package_runtime.private_directory import private_directory
from mmbuild.base.files import FileRefusedError, read_file
from mmbuild.base.limits import MB
from mmbuild.core.store.atomic_files import write_whole

_MOST_BYTES, _MOST_OF_ONE = 512 * MB, 64 * MB
"""All packages together, about two thousand, of which the least recently used are removed; and one of them."""

_DIGEST = 32
"""Bytes of the digest at the start of a file."""

_HERE = Path(__file__).parent
# Between a graph and its package.
_SOURCES = (
    *(_HERE / name for name in ("export.py", "inductor_fix.py", "inductor_strides.py", "package_runtime")),
    Path(__file__),
)
# Where g++ looks for headers and libraries besides its options, and what Inductor derives its options from.
_VARIABLES = ("CPATH", "CPLUS_INCLUDE_PATH", "LIBRARY_PATH", "COMPILER_PATH", "GCC_EXEC_PREFIX", "OMP_PREFIX")
_PREFIXES = ("TORCHINDUCTOR_", "AOT_INDUCTOR_")
_NAMESPACES = ("aten", "prims", "_c10d_functional")
_ADDRESS = re.compile(r'"graph_id": \d+(, )?')
"""`id` of a graph, in the history of a node."""


def key_of(
    program: ExportedProgram, name: str, target: Mapping[str, Any], options: Mapping[str, Any]
) -> str | None:
    """The key of a package; None if it must be compiled.

    Args:
        program: Its graph.
        name: Its name, which is the name of a directory in the package.
        target: Device and instruction set.
        options: Inductor's options that differ from the configuration.
    """
    if target["device"] != "cpu" or inductor_config.force_disable_caches or not _is_of_torch(program):
        return None
    graph = _graph(program)
    if graph is None:
        return None
    settings = [name, dict(target), dict(options), _settings(), _ranks(program)]
    content = [graph, _shared_memory(program), settings]
    digest = blake3(json.dumps(content, sort_keys=True, default=repr).encode())
    digest.update(surroundings())
    return digest.hexdigest()


def find(key: str | None) -> bytes | None:
    """The package with this key; damaged ones are removed."""
    directory = _directory() if key else None
    if directory is None:
        return None
    path = directory / str(key)
    try:
        content = read_file(path, _MOST_OF_ONE)
    except (OSError, FileRefusedError):
        return None
    with suppress(OSError):
        if blake3(content[_DIGEST:]).digest() == content[:_DIGEST]:
            os.utime(path)
            return content[_DIGEST:]
        path.unlink()
    return None


def keep(key: str | None, package: bytes) -> None:
    """Keep a package, if possible."""
    directory = _directory() if key else None
    if directory is None or len(package) + _DIGEST > _MOST_OF_ONE:
        return
    with suppress(OSError):
        write_whole(directory / str(key), blake3(package).digest() + package)
        _remove_oldest(directory)


@functools.cache
def surroundings() -> bytes:
    """Digest of what all packages of this process depend on: torch, the compiler, the CPU, and mmbuild's code.

    It takes 0.2 s; processes that are forked later inherit it.
    """
    digest = blake3(codecache.torch_key())
    compiler = cpp_builder.get_cpp_compiler()
    known = [
        compiler,
        cpp_builder.get_compiler_version_info(compiler),
        {name: value for name, value in os.environ.items() if _is_read(name)},
        platform.python_version(),
        _cpu(),
    ]
    digest.update(json.dumps(known, sort_keys=True).encode())
    for source in _SOURCES:
        for path in sorted(source.iterdir()) if source.is_dir() else (source,):
            if path.is_file():
                digest.update(blake3(path.read_bytes()).digest())
    return digest.digest()


def _is_read(variable: str) -> bool:
    """Whether a package can depend on this variable. Where the packages are kept is not part of them."""
    named = variable in _VARIABLES or variable.startswith(_PREFIXES)
    return named and variable != "TORCHINDUCTOR_CACHE_DIR"


def _graph(program: ExportedProgram) -> Any | None:
    """A graph in torch's own serialized form, without what only tells where it was traced; None if it has none."""
    # The values of example inputs are not initialized, and would be read; their shapes are in the graph.
    with mock.patch.object(program, "_example_inputs", None):
        try:
            stored = serialize.serialize(program)
        except Exception:  # of many kinds; a graph that cannot be serialized can be compiled
            return None
    tensors = [blake3(part).hexdigest() for part in (stored.state_dict, stored.constants)]
    return [json.loads(stored.exported_program, object_hook=_without_trace), tensors]


def _without_trace(content: dict[str, Any]) -> dict[str, Any]:
    """A part of a serialized graph, without the lines of Python that its nodes come from, and without the addresses
    of the graphs that they were in before."""
    metadata = content.get("metadata")
    if isinstance(metadata, dict):
        metadata.pop("stack_trace", None)
        if isinstance(metadata.get("from_node"), str):
            metadata["from_node"] = _ADDRESS.sub("", metadata["from_node"])
    return content


def _shared_memory(program: ExportedProgram) -> list[tuple[int, int]]:
    """For each example input, the first one in the same memory, and its offset there."""
    values = tree_leaves(program.example_inputs)
    first: dict[int, int] = {}
    return [
        (first.setdefault(value.untyped_storage()._cdata, place), value.storage_offset())
        for place, value in enumerate(values)
        if isinstance(value, torch.Tensor)
    ]


def _settings() -> list[Any]:
    """Settings of this process that Inductor reads while it compiles."""
    inductor = inductor_config.save_config_portable(ignore_private_configs=False)
    inductor.pop("aot_inductor.metadata", None)  # about the package before, which each compilation adds
    return [
        inductor,
        torch._functorch.config.save_config_portable(ignore_private_configs=False),
        torch.get_num_threads(),
        str(torch.get_default_dtype()),
        torch.get_float32_matmul_precision(),
        torch.are_deterministic_algorithms_enabled(),
        torch.backends.mkldnn.is_available(),
        torch.backends.mkldnn.enabled,
    ]


def _is_of_torch(program: ExportedProgram) -> bool:
    """Whether torch defines all operators of a graph; the code of others is not part of the key."""
    operators = (
        node.target for node in program.graph.nodes if isinstance(node.target, torch._ops.OperatorBase)
    )
    return all(getattr(operator, "namespace", "") in _NAMESPACES for operator in operators)


def _ranks(program: ExportedProgram) -> int:
    """Ranks of the group that collectives of the graph run in; 1 without collectives."""
    named = any("_c10d_functional" in str(node.target) for node in program.graph.nodes)
    return collectives.size() if named else 1


def _cpu() -> list[str]:
    """What this CPU is and can do."""
    lines = Path("/proc/cpuinfo").read_text("utf-8", "replace").split("\n\n", 1)[0].splitlines()
    names = ("vendor_id", "cpu family", "model", "flags", "Features", "CPU implementer", "CPU part")
    return [platform.machine(), *(line for line in lines if line.partition("\t")[0].strip() in names)]


def _directory() -> Path | None:
    """The directory of the packages; None if another user could write to it, since a package is code."""
    return private_directory(Path(cache_dir()) / "mmbuild-packages")


def _remove_oldest(directory: Path) -> None:
    """Remove packages until a quarter of the space is free, if there are too many."""
    with os.scandir(directory) as entries:
        known = sorted((entry.stat().st_mtime, entry.stat().st_size, entry.path) for entry in entries)
    total = sum(size for _, size, _ in known)
    if total <= _MOST_BYTES:
        return
    for _, size, path in known:
        if total <= _MOST_BYTES * 3 // 4:
            return
        with suppress(FileNotFoundError):
            os.unlink(path)
        total -= size
