"""The NVIDIA GPUs of this machine, from the driver's management library (NVML).

Nothing here raises: without a driver there are no GPUs. ``pynvml`` is imported only by the first query.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from typing import Any

_SECONDS = 30.0
"""Timeout for a driver that does not answer."""


@dataclass(frozen=True, slots=True)
class Gpu:
    """A GPU.

    Attributes:
        uuid: UUID, as used in ``CUDA_VISIBLE_DEVICES``.
        name: Product name.
        sm: Compute capability as one number (90 for 9.0); None if the driver does not report it.
        driver: Version of the driver.
        memory: Bytes; 0 if the driver does not report it.
    """

    uuid: str
    name: str
    sm: int | None
    driver: str
    memory: int


@cache
def gpus() -> tuple[Gpu, ...] | None:
    """Return all GPUs in the driver's order; None if no driver answers within 30 seconds."""
    answers: list[tuple[Gpu, ...] | None] = []
    query = threading.Thread(target=lambda: answers.append(_query()), daemon=True)
    query.start()
    query.join(_SECONDS)
    return answers[0] if answers else None


def visible_gpus(environment: Mapping[str, str] | None = None) -> tuple[Gpu, ...] | None:
    """Return the GPUs this process may use, in the order of ``CUDA_VISIBLE_DEVICES``; None as in :func:`gpus`."""
    variables = os.environ if environment is None else environment
    installed = gpus()
    if installed is None:
        return None
    by_uuid = {gpu.uuid: gpu for gpu in installed}
    return tuple(by_uuid[uuid] for uuid in select(tuple(by_uuid), variables.get("CUDA_VISIBLE_DEVICES")))


def first_sm() -> int | None:
    """Return the compute capability of the first GPU; None if there is none or ``CUDA_VISIBLE_DEVICES`` hides all."""
    if os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1"):
        return None
    installed = gpus()
    return installed[0].sm if installed else None


def least_memory(found: Sequence[Gpu] | None) -> int:
    """Return the memory of the smallest GPU in bytes; 0 if the driver reports none."""
    return min((gpu.memory for gpu in found or () if gpu.memory), default=0)


def select(uuids: Sequence[str], visible: str | None) -> tuple[str, ...]:
    """Return the ``uuids`` that are visible with ``CUDA_VISIBLE_DEVICES=visible``.

    Entries are indices, UUIDs or unique prefixes of UUIDs. As in CUDA, an unknown or repeated entry ends the list.
    """
    if visible is None:
        return tuple(uuids)
    chosen: list[str] = []
    for word in (part.strip() for part in visible.split(",")):
        if word.isdigit() and int(word) < len(uuids):
            matches = [uuids[int(word)]]
        else:
            matches = [uuid for uuid in uuids if word and uuid.startswith(word)]
        if len(matches) != 1 or matches[0] in chosen:
            break
        chosen += matches
    return tuple(chosen)


def _query() -> tuple[Gpu, ...] | None:
    try:
        import pynvml

        pynvml.nvmlInit()
    except Exception:  # no library, no driver, or an incompatible one: in any case there is no usable GPU
        return None
    with suppress(Exception):  # a GPU that fell off the bus
        driver = str(pynvml.nvmlSystemGetDriverVersion())
        handles = [pynvml.nvmlDeviceGetHandleByIndex(at) for at in range(pynvml.nvmlDeviceGetCount())]
        return tuple(_gpu(pynvml, handle, driver) for handle in handles)
    return None


def _gpu(nvml: Any, handle: Any, driver: str) -> Gpu:
    try:
        major, minor = nvml.nvmlDeviceGetCudaComputeCapability(handle)
        sm = 10 * major + minor
    except nvml.NVMLError:
        sm = None
    try:
        memory = int(nvml.nvmlDeviceGetMemoryInfo(handle).total)
    except nvml.NVMLError:  # GPUs that share the host's memory
        memory = 0
    return Gpu(str(nvml.nvmlDeviceGetUUID(handle)), str(nvml.nvmlDeviceGetName(handle)), sm, driver, memory)
