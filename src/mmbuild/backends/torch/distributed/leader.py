"""Rank 0: the engine that a program asks. Every call is told to the other ranks, then done here too."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from mmbuild.backends.engine_dir.description import Description
from mmbuild.backends.torch.distributed.failures import RankError
from mmbuild.backends.torch.distributed.process_group import ProcessGroup
from mmbuild.backends.torch.engine import Engine
from mmbuild.base.errors import MmbuildError
from mmbuild.core.store.disk_errors import fault_point
from mmbuild.models.processor import Request


class LeaderEngine(Engine):
    """:class:`Engine` of rank 0: what it asks of its parts, the other ranks do too."""

    def __init__(self, directory: Path, description: Description, world: ProcessGroup) -> None:
        super().__init__(directory, description, world.rank)
        self._lead = LeaderSession(world, self.session)
        self.session = self._lead  # type: ignore[assignment]  # the same calls

    def inputs(self, requests: Sequence[Request]) -> tuple[list[list[int]], Tensor]:
        """As :meth:`Engine.inputs`; every rank gets the pixels and runs its own visual engine."""
        return self._lead.inputs(super().inputs, requests)


class LeaderSession:
    """:class:`Session` of rank 0: same calls, same results; the other ranks do them at the same time.

    What is no call to the packages (``config``, ``device``, ...) is the session's own.
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
        """``make(requests)``, here and, by :meth:`Engine.inputs`, in every other rank, which keeps its features."""
        self._shared = self._together(make, "inputs", list(requests))
        return self._shared

    def prefill(self, prompts: Sequence[Sequence[int]], visual: Tensor) -> Tensor:
        """As :meth:`Session.prefill`."""
        known = self._shared is not None and visual is self._shared[1]
        told = None if known else visual.cpu()
        return self._call("prefill", [list(prompt) for prompt in prompts], told, local=(prompts, visual))

    def decode(self, tokens: Tensor) -> Tensor:
        """As :meth:`Session.decode`."""
        return self._call("decode", tokens.tolist(), local=(tokens,))

    def select(self, rows: Tensor) -> None:
        """As :meth:`Session.select`."""
        self._call("select", rows.tolist(), local=(rows,))

    def _call(self, verb: str, *told: Any, local: tuple[Any, ...]) -> Any:
        return self._together(lambda *_: getattr(self._session, verb)(*local), verb, *told)

    def _together(self, work: Callable[..., Any], verb: str, *told: Any) -> Any:
        world = self._world
        fault_point(f"rank0.{verb}")
        world.send(verb, *told)
        try:
            return work(*told)
        except MmbuildError:
            raise  # wrong arguments, found before anything was summed: every rank found the same
        except Exception as error:
            world.broken = True
            raise RankError(
                f"rank 0 failed at {verb}, or lost another rank there: {type(error).__name__}",
                code="MM585",
                hint="What mpirun says above may name a rank that died first",
            ) from error
