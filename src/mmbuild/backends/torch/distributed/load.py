"""How an engine of several ranks is loaded: by every rank, and only rank 0 goes on with the program."""

from __future__ import annotations

from pathlib import Path

from mmbuild.backends.engine_dir import contents
from mmbuild.backends.engine_dir.description import Description
from mmbuild.backends.torch.distributed.leader import LeaderEngine
from mmbuild.backends.torch.distributed.process_group import connect
from mmbuild.backends.torch.distributed.rank_worker import serve_commands
from mmbuild.backends.torch.engine import Engine


def load_distributed(directory: Path, description: Description, *, check: bool = True) -> Engine:
    """Load the engine in ``directory`` in each of its ranks; every process of an mpirun calls this.

    Args:
        directory: The engine directory.
        description: Its ``engine.json``.
        check: Whether rank 0 first compares the files with the manifest; the others wait for that.

    Returns:
        Rank 0's engine, which the other ranks follow. In them this does not return: they obey until rank 0's program
        ends, and end then.

    Raises:
        MmbuildError: In rank 0: whatever went wrong in any of them.
    """
    world = connect(description.llm["tensor_parallel"], description.target["device"])
    if check:
        world.agree(lambda: contents.require(directory) if world.rank == 0 else None)
    if world.rank != 0:
        serve_commands(world, world.agree(lambda: Engine(directory, description, world.rank)))
    return world.agree(lambda: LeaderEngine(directory, description, world))
