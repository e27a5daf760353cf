"""Starts a server in this process, or in rank 0 of an engine that is split over ranks."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmbuild.backends.torch import Engine
from mmbuild.backends.torch.distributed import failures, launch, mpirun
from mmbuild.backends.torch.distributed.failures import RankError
from mmbuild.backends.torch.distributed.process_group import abandon
from mmbuild.serving import server
from mmbuild.serving.app import Limits
from mmbuild.serving.pictures import PicturePolicy

_SWITCH_SECONDS = 0.0003


def start(
    build: str,
    *,
    ranks: int,
    api_key_file: str | None,
    hosts: Sequence[str],
    answer_seconds: float,
    trace: str | None,
    **options: Any,
) -> None:
    """Load an engine, which was checked, and serve it until SIGTERM or SIGINT: what each rank does.

    Ranks other than 0 follow rank 0 and do not return.

    Args:
        build: The engine directory.
        ranks: Its number of ranks.
        api_key_file: File with the key that clients must send; None: any.
        hosts: Hosts from which pictures may be fetched.
        answer_seconds: Time limit of an answer.
        trace: File for one line of JSON for each step; None: no trace.
        options: The other fields of :class:`~mmbuild.serving.server.Options`.

    Raises:
        MmbuildError: The engine cannot be loaded or was lost; MM873, the address cannot be used; MM879, there is no
            key where one is needed.
    """
    # The engine's thread gives the interpreter up for each of hundreds of calls that launch kernels: it must get it
    # back sooner than after the usual 5 ms.
    sys.setswitchinterval(_SWITCH_SECONDS)
    if ranks > 1 and mpirun.rank_here():
        Engine.load(build, check=False)  # does not return
    chosen = server.Options(
        **options,
        api_key=server.read_key(Path(api_key_file)) if api_key_file else None,
        policy=PicturePolicy(frozenset(hosts)),
        limits=Limits(answer_seconds=answer_seconds),
        trace=Path(trace) if trace else None,
        companions=_followers(Path(os.environ[failures.PLACE])) if _started_here(ranks) else None,
    )
    try:
        loaded = server.serve(lambda: Engine.load(build, check=False), chosen, server.status)
    except RankError:
        abandon()
        raise
    if ranks > 1 and not loaded:
        # The thread that loads waits for the other ranks; mpirun ends them with this one.
        sys.stdout.flush()
        os._exit(0)


def _started_here(ranks: int) -> bool:
    """Whether mmbuild started the ranks; it asks for their end with SIGINT to rank 0."""
    return ranks > 1 and failures.PLACE in os.environ


def _followers(place: Path) -> server.Companions:
    """The ranks other than 0, of those whose process ids are in ``place``."""
    return server.Companions(
        lambda: {pid: _lost(f"rank {rank}") for pid, rank in launch.ranks_by_pid(place).items() if rank},
        _lost("another rank, or mpirun,"),
    )


def _lost(what: str) -> RankError:
    hint = "the server ends, and its last lines say why; restart it"
    return RankError(f"{what} has ended, and the engine with it", code="MM585", hint=hint)
