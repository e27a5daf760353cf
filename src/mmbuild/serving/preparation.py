"""Prepares requests in other processes: from the bytes of a body to token ids and pixels.

Preparing a request keeps the interpreter busy for milliseconds, and on a GPU the thread that launches kernels needs
it all the time. Whatever a picture does to a library that opens it happens away from the engine, too. Sending a
request to another process costs time as well: section serving_cuda of benchmarks/RESULTS.md.
"""

from __future__ import annotations

import asyncio
import ctypes
import logging
import multiprocessing
import os
import signal
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from mmbuild.base.errors import MmbuildError
from mmbuild.models.errors import EngineError
from mmbuild.models.families.processor import Processor, Request, load_processor
from mmbuild.serving.errors import ProtocolError, status_of
from mmbuild.serving.pictures import PicturePolicy
from mmbuild.serving.protocol import Generation
from mmbuild.serving.service import prepared

_log = logging.getLogger(__name__)
_PR_SET_PDEATHSIG = 1  # prctl(2)
_MOST = 4


def process_count() -> int:
    """How many processes are useful on this machine; 0: it has no cores to spare for them."""
    return min(_MOST, len(os.sched_getaffinity(0)) // 4)


@dataclass(frozen=True, slots=True)
class Setting:
    """What every process needs.

    Attributes:
        directory: The files of the model's processor.
        family: Its family.
        model: Name of the model in the protocol.
        policy: Which pictures are taken.
    """

    directory: Path
    family: str
    model: str
    policy: PicturePolicy


@dataclass(frozen=True, slots=True)
class _Refused:
    """An error as plain data: exceptions with keywords cannot be sent to another process."""

    message: str
    code: str
    hint: str | None
    status: int
    param: str | None


class Preparers:
    """Processes that prepare requests. They end with the thread that calls :meth:`start`, at the latest."""

    def __init__(self, setting: Setting, count: int) -> None:
        self._setting, self._count = setting, count
        self._pool: ProcessPoolExecutor | None = None

    def start(self) -> None:
        """Start the processes, which takes seconds; does not wait for them."""
        self._pool = ProcessPoolExecutor(
            self._count, multiprocessing.get_context("spawn"), initializer=_begin, initargs=(self._setting,)
        )
        for _ in range(self._count):
            self._pool.submit(os.getpid)

    def close(self) -> None:
        """End the processes once they have done what they are doing."""
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)
            self._pool = None

    async def prepare(self, content: bytes, kind: type[Generation]) -> tuple[Any, Request]:
        """As :func:`mmbuild.serving.service.prepared`.

        Raises:
            ProtocolError: The request is wrong.
            EngineError: MM872, a process ended.
        """
        pool = self._pool
        try:
            done = await asyncio.get_running_loop().run_in_executor(pool, _prepare, content, kind)
        except BrokenProcessPool as error:
            if self._pool is pool:  # the first request that learns of it
                _log.error("a process that prepares requests ended", exc_info=error)
                self.close()
                self.start()
            raise EngineError(
                "the process that prepared the request ended",
                code="MM872",
                hint="send the request again; if that fails too, its picture may be the cause",
            ) from None
        if isinstance(done, _Refused):
            raise ProtocolError(
                done.message, code=done.code, hint=done.hint, status=done.status, param=done.param
            )
        body, ids, pixels, conversions = done
        return body, Request(ids, torch.from_numpy(pixels), conversions)


_here: list[tuple[Setting, Processor]] = []
"""Of a process that prepares: its setting and processor."""


def _begin(setting: Setting) -> None:
    """Prepare a process: it ends with the server, which alone reacts to signals."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)
    _here.append((setting, load_processor(setting.directory, setting.family)))


def _prepare(content: bytes, kind: type[Generation]) -> Any:
    setting, processor = _here[-1]
    try:
        body, request = prepared(processor, setting.policy, setting.model, content, kind)
    except MmbuildError as error:
        param = getattr(error, "param", None)
        return _Refused(error.message, error.code, error.hint, status_of(error), param)
    # As an array, which is sent as its bytes; a tensor would be a file in shared memory.
    return body, request.ids, request.pixels.numpy(), request.conversions
