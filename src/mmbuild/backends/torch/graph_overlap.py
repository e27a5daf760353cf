"""Lets kernels of a CUDA graph start before the kernel before them has ended.

Packages launch kernels in the plain way, so a captured graph has plain edges. Here an edge to a kernel that waits by
itself (:mod:`mmbuild.backends.torch.kernels.dependent_launch`) becomes a programmatic one, which graphs have had
since CUDA 12.3: the kernel starts as soon as all programs of the one before it have ended or said that it may. Other
kernels, cuBLAS's for example, keep their edges.
"""

from __future__ import annotations

import ctypes
import logging
import re
from collections.abc import Sequence
from functools import cache
from typing import Any

_log = logging.getLogger(__name__)

# The names of the kernels that Inductor generates and that ``inductor_overlap`` lets wait, and of ours.
_WAITS = re.compile(
    rb"triton_(poi|red|per)_fused_\w+|(_(packed|grouped|stored)_product|_attend|_join)(_\d+)?"
)
_KERNEL_NODE = 0
"""CU_GRAPH_NODE_TYPE_KERNEL."""


class _EdgeData(ctypes.Structure):
    """CUgraphEdgeData."""

    _fields_ = (
        ("from_port", ctypes.c_ubyte),
        ("to_port", ctypes.c_ubyte),
        ("type", ctypes.c_ubyte),
        ("reserved", ctypes.c_ubyte * 5),
    )


_PLAIN = (0, 0, 0)
# From CU_GRAPH_KERNEL_NODE_PORT_PROGRAMMATIC, of the type CU_GRAPH_DEPENDENCY_TYPE_PROGRAMMATIC.
_PROGRAMMATIC = (1, 0, 1)


class _KernelParameters(ctypes.Structure):
    """CUDA_KERNEL_NODE_PARAMS_v2."""

    _fields_ = (
        ("function", ctypes.c_void_p),
        ("sizes", ctypes.c_uint * 7),
        ("parameters", ctypes.c_void_p),
        ("extra", ctypes.c_void_p),
        ("kernel", ctypes.c_void_p),
        ("context", ctypes.c_void_p),
    )


class _DriverError(Exception):
    """A call of the driver failed."""


def overlap_kernels(graph: int) -> int:
    """Let kernels of a captured ``cudaGraph_t`` that wait by themselves start early; how many do.

    Where the driver cannot do it, the graph stays as it is.
    """
    try:
        edges = [
            (first, second)
            for first, second, data in _edges(graph)
            if data == _PLAIN and _is_kernel(first) and _is_kernel(second) and _WAITS.fullmatch(_name(second))
        ]
        if edges:
            _replace(graph, edges)
    except (_DriverError, AttributeError, OSError):  # an old driver lacks functions
        _log.debug("the kernels of a graph run one after the other", exc_info=True)
        return 0
    return len(edges)


@cache
def _driver() -> ctypes.CDLL:
    return ctypes.CDLL("libcuda.so.1")


def _call(function: str, *arguments: Any) -> None:
    if status := getattr(_driver(), function)(*arguments):
        raise _DriverError(f"{function} returned {status}")


def _edges(graph: int) -> list[tuple[int, int, tuple[int, int, int]]]:
    """From, to, and ports and type."""
    count = ctypes.c_size_t()
    _call("cuGraphGetEdges_v2", ctypes.c_void_p(graph), None, None, None, ctypes.byref(count))
    firsts, seconds = (ctypes.c_void_p * count.value)(), (ctypes.c_void_p * count.value)()
    data = (_EdgeData * count.value)()
    _call("cuGraphGetEdges_v2", ctypes.c_void_p(graph), firsts, seconds, data, ctypes.byref(count))
    kinds = [(one.from_port, one.to_port, one.type) for one in data]
    return list(zip(map(int, firsts), map(int, seconds), kinds, strict=True))


def _is_kernel(node: int) -> bool:
    kind = ctypes.c_int()
    _call("cuGraphNodeGetType", ctypes.c_void_p(node), ctypes.byref(kind))
    return kind.value == _KERNEL_NODE


def _name(node: int) -> bytes:
    found, name = _KernelParameters(), ctypes.c_char_p()
    _call("cuGraphKernelNodeGetParams_v2", ctypes.c_void_p(node), ctypes.byref(found))
    function, handle = (
        ("cuFuncGetName", found.function) if found.function else ("cuKernelGetName", found.kernel)
    )
    _call(function, ctypes.byref(name), ctypes.c_void_p(handle))
    return name.value or b""


def _replace(graph: int, edges: Sequence[tuple[int, int]]) -> None:
    """Make plain edges programmatic ones; all of them, or the graph is not changed."""
    plain, programmatic = _given(graph, edges, _PLAIN), _given(graph, edges, _PROGRAMMATIC)
    _call("cuGraphRemoveDependencies_v2", *plain)
    try:
        _call("cuGraphAddDependencies_v2", *programmatic)
    except _DriverError:
        _call("cuGraphAddDependencies_v2", *plain)
        raise


def _given(graph: int, edges: Sequence[tuple[int, int]], data: tuple[int, int, int]) -> tuple[Any, ...]:
    nodes = ctypes.c_void_p * len(edges)
    return (
        ctypes.c_void_p(graph),
        nodes(*(first for first, _ in edges)),
        nodes(*(second for _, second in edges)),
        (_EdgeData * len(edges))(*(_EdgeData(*data) for _ in edges)),
        ctypes.c_size_t(len(edges)),
    )
