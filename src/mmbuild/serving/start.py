"""Starts a server in this process, or in rank 0 of an engine that is split over ranks."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmbuild.backends.engine_dir.description import PROCESSOR, Description, read
from mmbuild.backends.torch import Engine
from mmbuild.backends.torch.distributed import failures, launch, mpirun
from mmbuild.backends.torch.distributed.failures import RankError
from mmbuild.backends.torch.distributed.process_group import abandon
from mmbuild.serving import server
from mmbuild.serving.address import read_key
from mmbuild.serving.app import Limits
from mmbuild.serving.pictures import PicturePolicy
from mmbuild.serving.preparation import Preparers, Setting, process_count


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
    if ranks > 1 and mpirun.rank_here():
        Engine.load(build, check=False)  # does not return
    policy = PicturePolicy(frozenset(hosts), most=most_pictures(read(Path(build))))
    chosen = server.Options(
        **options,
        preparers=_preparers(Path(build), options["model"], policy),
        api_key=read_key(Path(api_key_file)) if api_key_file else None,
        policy=policy,
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


def most_pictures(description: Description) -> int:
    """How many pictures a prompt has room for; 1 at least, whose error says more."""
    llm = description.llm
    rows: int = llm["max_multimodal_len"]
    if llm["encoder"] or not llm["llm"]["cross_attention"]:  # else pages are not in the prompt
        rows = min(rows, llm["max_input_len"])
    return int(max(1, rows // description.visual["num_visual_features"]))


def _preparers(build: Path, model: str, policy: PicturePolicy) -> Preparers | None:
    """Processes that prepare requests, for an engine on a GPU.

    Not where pictures are fetched from other hosts: a slow one would keep a process busy for nothing.
    """
    description = read(build)
    count = process_count()
    if description.target["device"] != "cuda" or policy.hosts or not count:
        return None
    return Preparers(Setting(build / PROCESSOR, description.family, model, policy), count)


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
