"""NVIDIA GPUs of this machine, from the driver's management library (NVML).

Without a driver there are none: nothing here raises. ``pynvml`` is imported by the first query alone.
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
"""Limit for a driver that does not answer."""


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU.

    Attributes:
        uuid: Its name for ``CUDA_VISIBLE_DEVICES``.
        name: Product name.
        sm: Compute capability as one number (90 for 9.0); None where the driver does not report it.
        driver: Version of the driver.
        memory: Bytes; 0 where the driver does not report it.
    """

    uuid: str
    name: str
    sm: int | None
    driver: str
    memory: int


@cache
def gpus() -> tuple[Gpu, ...] | None:
    """All GPUs in the driver's order; None where no driver answers within half a minute."""
    answers: list[tuple[Gpu, ...] | None] = []
    query = threading.Thread(target=lambda: answers.append(_query()), daemon=True)
    query.start()
    query.join(_SECONDS)
    return answers[0] if answers else None


def visible_gpus(environment: Mapping[str, str] | None = None) -> tuple[Gpu, ...] | None:
    """The GPUs that this process may use, in the order of ``CUDA_VISIBLE_DEVICES``; None as in :func:`gpus`."""
    given = os.environ if environment is None else environment
    found = gpus()
    if found is None:
        return None
    by_uuid = {gpu.uuid: gpu for gpu in found}
    return tuple(by_uuid[uuid] for uuid in select(tuple(by_uuid), given.get("CUDA_VISIBLE_DEVICES")))


def first_sm() -> int | None:
    """Compute capability of the first GPU; None without one, and where ``CUDA_VISIBLE_DEVICES`` hides all."""
    if os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1"):
        return None
    found = gpus()
    return found[0].sm if found else None


def least_memory(found: Sequence[Gpu] | None) -> int:
    """Bytes of memory of the GPU that has least; 0 where the driver reports none."""
    return min((gpu.memory for gpu in found or () if gpu.memory), default=0)


def select(uuids: Sequence[str], visible: str | None) -> tuple[str, ...]:
    """The part of ``uuids`` that ``CUDA_VISIBLE_DEVICES=visible`` leaves.

    Entries are indices, UUIDs or unique beginnings of UUIDs. As in CUDA, an entry that names no GPU, or one already
    named, ends the list.
    """
    if visible is None:
        return tuple(uuids)
    chosen: list[str] = []
    for word in (part.strip() for part in visible.split(",")):
        if word.isdigit() and int(word) < len(uuids):
            found = [uuids[int(word)]]
        else:
            found = [uuid for uuid in uuids if word and uuid.startswith(word)]
        if len(found) != 1 or found[0] in chosen:
            break
        chosen += found
    return tuple(chosen)


def _query() -> tuple[Gpu, ...] | None:
    try:
        import pynvml

        pynvml.nvmlInit()
    except (
        Exception
    ):  # no library, no driver, or one that does not fit: whatever it is, there is nothing to use
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
