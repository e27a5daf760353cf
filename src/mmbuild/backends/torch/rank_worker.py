"""Rank 0 broadcasts the calls of its session, and the other ranks execute them."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor

from mmbuild.backends.engine_dir import contents
from mmbuild.backends.engine_dir.description import Description
from mmbuild.backends.torch.distributed import failures
from mmbuild.backends.torch.distributed.failures import RankError
from mmbuild.backends.torch.distributed.process_group import END, ProcessGroup, connect
from mmbuild.backends.torch.engine import Engine
from mmbuild.base.errors import MmbuildError
from mmbuild.core.store.disk_errors import fault_point
from mmbuild.models.families.processor import Request


class RankWorker:
    """Executes on its own engine the calls that :class:`LeaderSession` sends, on the engine of this rank."""

    def __init__(self, engine: Any) -> None:
        self._engine = engine
        self._visual: Tensor | None = None
        self.verbs: Mapping[str, Callable[..., None]] = {
            "inputs": self._inputs,
            "prepare": self._prepare,
            "prefill": self._prefill,
            "extend": self._extend,
            "decode": self._decode,
            "select": self._select,
        }

    def _inputs(self, requests: list[Any]) -> None:
        _, self._visual = self._engine.inputs(requests)

    def _prepare(self) -> None:
        self._engine.prepare()

    def _prefill(self, prompts: list[list[int]], visual: Tensor | None, *rows: list[int]) -> None:
        self._engine.session.prefill(prompts, self._features(visual), *rows)

    def _extend(self, prompts: list[list[int]], visual: Tensor | None, *rows: list[int]) -> None:
        self._engine.session.extend(prompts, self._features(visual), *rows)

    def _features(self, visual: Tensor | None) -> Tensor | None:
        return self._visual if visual is None else visual.to(self._engine.session.device)

    def _decode(self, tokens: list[int], *rows: list[int]) -> None:
        self._engine.session.decode(self._integers(tokens), *rows)

    def _select(self, rows: list[int]) -> None:
        self._engine.session.select(self._integers(rows))

    def _integers(self, values: list[int]) -> Tensor:
        return torch.tensor(values, dtype=torch.int64, device=self._engine.session.device)


def serve_commands(world: ProcessGroup, engine: Any) -> NoReturn:
    """Execute rank 0's commands until it ends, then exit; with status 0 if nothing failed.

    A failure is written for the parent, or to stderr if the user ran mpirun, and kills all ranks.
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
                continue  # invalid arguments: rank 0 raises the same error and reports it
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


class LeaderEngine(Engine):
    """:class:`Engine` of rank 0; the other ranks execute the same calls."""

    def __init__(self, directory: Path, description: Description, world: ProcessGroup) -> None:
        super().__init__(directory, description, world.rank)
        self._lead = LeaderSession(world, self.session)
        self.session = self._lead  # type: ignore[assignment]  # the same calls

    def inputs(self, requests: Sequence[Request]) -> tuple[list[list[int]], Tensor]:
        """As :meth:`Engine.inputs`; every rank gets the pixels and runs its own visual engine."""
        return self._lead.inputs(super().inputs, requests)


class LeaderSession:
    """:class:`Session` of rank 0 with the same interface; the other ranks execute the same calls at the same time.

    Other attributes (``config``, ``device``, ...) are those of the session.
    """

    def __init__(self, world: ProcessGroup, session: Any) -> None:
        self._world = world
        self._session = session
        self._shared: tuple[Any, Tensor] | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)

    def inputs(
        self, make: Callable[[Sequence[Any]], tuple[Any, Tensor]], requests: Sequence[Any]
    ) -> tuple[Any, Tensor]:
        """``make(requests)`` here, and :meth:`Engine.inputs` in the other ranks, which keep their features."""
        self._shared = self._together(make, "inputs", list(requests))
        return self._shared

    def prepare(self) -> None:
        """As :meth:`Session.prepare`."""
        self._call("prepare", local=())

    def prefill(
        self, prompts: Sequence[Sequence[int]], visual: Tensor, rows: Sequence[int] | None = None
    ) -> Tensor:
        """As :meth:`Session.prefill`."""
        return self._start("prefill", prompts, visual, rows)

    def extend(
        self, prompts: Sequence[Sequence[int]], visual: Tensor, rows: Sequence[int] | None = None
    ) -> Tensor:
        """As :meth:`Session.extend`."""
        return self._start("extend", prompts, visual, rows)

    def _start(
        self, verb: str, prompts: Sequence[Sequence[int]], visual: Tensor, rows: Sequence[int] | None
    ) -> Tensor:
        known = self._shared is not None and visual is self._shared[1]
        reported = None if known else visual.cpu()
        chosen = () if rows is None else (list(rows),)
        called = [list(prompt) for prompt in prompts], reported, *chosen
        result: Tensor = self._call(verb, *called, local=(prompts, visual, *chosen))
        return result

    def decode(self, tokens: Tensor, rows: Sequence[int] | None = None) -> Tensor:
        """As :meth:`Session.decode`."""
        chosen = () if rows is None else (list(rows),)
        result: Tensor = self._call("decode", tokens.tolist(), *chosen, local=(tokens, *chosen))
        return result

    def select(self, rows: Tensor) -> None:
        """As :meth:`Session.select`."""
        self._call("select", rows.tolist(), local=(rows,))

    def _call(self, verb: str, *reported: Any, local: tuple[Any, ...]) -> Any:
        return self._together(lambda *_: getattr(self._session, verb)(*local), verb, *reported)

    def _together(self, work: Callable[..., Any], verb: str, *reported: Any) -> Any:
        world = self._world
        fault_point(f"rank0.{verb}")
        try:
            world.send(verb, *reported)
            return work(*reported)
        except MmbuildError:
            raise  # invalid arguments, detected before any collective: every rank raises the same error
        except BaseException as error:
            world.broken = True
            if not isinstance(error, Exception):
                raise  # interrupted: the other ranks are in the middle of the call
            raise RankError(
                f"rank 0 failed in {verb}, or another rank was lost: {type(error).__name__}",
                code="MM585",
                hint="the output of mpirun above may name a rank that died first",
            ) from error


def load_distributed(directory: Path, description: Description, *, check: bool = True) -> Engine:
    """Load the engine in ``directory`` in each of its ranks; every process of an mpirun calls this.

    Args:
        directory: The engine directory.
        description: Its ``engine.json``.
        check: Whether rank 0 first checks the files against the manifest; the others wait.

    Returns:
        Rank 0's engine. In the other ranks this does not return: they execute commands until rank 0's program ends,
        and then exit.

    Raises:
        MmbuildError: In rank 0: the failure of any rank.
    """
    world = connect(description.llm["tensor_parallel"], description.target["device"])
    if check:
        world.agree(lambda: contents.require(directory) if world.rank == 0 else None)
    if world.rank != 0:
        serve_commands(world, world.agree(lambda: Engine(directory, description, world.rank)))
    return world.agree(lambda: LeaderEngine(directory, description, world))
