"""The other ranks: do what rank 0 says until it says that it is done."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor

from mmbuild.backends.torch.distributed import failures
from mmbuild.backends.torch.distributed.process_group import END, ProcessGroup
from mmbuild.base.errors import MmbuildError
from mmbuild.core.store.disk_errors import fault_point


class RankWorker:
    """An engine that does what it is told, under the names that :class:`LeadSession` sends."""

    def __init__(self, engine: Any) -> None:
        self._engine = engine
        self._visual: Tensor | None = None
        self.verbs: Mapping[str, Callable[..., None]] = {
            "inputs": self._inputs,
            "prefill": self._prefill,
            "decode": self._decode,
            "select": self._select,
        }

    def _inputs(self, requests: list[Any]) -> None:
        _, self._visual = self._engine.inputs(requests)

    def _prefill(self, prompts: list[list[int]], visual: Tensor | None) -> None:
        given = self._visual if visual is None else visual.to(self._engine.session.device)
        self._engine.session.prefill(prompts, given)

    def _decode(self, tokens: list[int]) -> None:
        self._engine.session.decode(self._integers(tokens))

    def _select(self, rows: list[int]) -> None:
        self._engine.session.select(self._integers(rows))

    def _integers(self, values: list[int]) -> Tensor:
        return torch.tensor(values, dtype=torch.int64, device=self._engine.session.device)


def serve_commands(world: ProcessGroup, engine: Any) -> NoReturn:
    """Do what rank 0 says, then end this process: with status 0 where all went well.

    A failure is left for the parent, or told on stderr where mpirun was started by somebody else, and ends all ranks.
    """
    verbs = RankWorker(engine).verbs
    try:
        while True:
            verb, *arguments = world.receive()
            if verb == END:
                break
            fault_point(f"rank{world.rank}.{verb}")
            try:
                verbs[verb](*arguments)
            except MmbuildError:
                continue  # wrong arguments: rank 0 found the same, and tells it
    except Exception as error:
        _report_failure(failures.describe(error, world.rank))
        world.abort()
    sys.exit(0)


def _report_failure(failure: failures.Failure) -> None:
    directory = os.environ.get(failures.PLACE)
    if directory:
        failures.write_failure(failure, Path(directory))
    else:
        sys.stderr.write(f"{failure.trace}error: {failure.message} [{failure.code}]\n")
