"""Inside a rank: who am I, how ranks speak, how they agree that something failed.

Commands and small data travel by MPI from rank 0; what packages sum and gather goes through a process group of
torch, gloo on the CPU and NCCL on CUDA.
"""

from __future__ import annotations

import atexit
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, NoReturn, TypeVar

import torch
import torch.distributed as dist

from mmbuild.backends.torch import collectives
from mmbuild.backends.torch.distributed import failures, mpirun
from mmbuild.backends.torch.distributed.failures import RankError
from mmbuild.base.optional_packages import install_hint

T = TypeVar("T")
BACKENDS = {"cpu": "gloo", "cuda": "nccl"}
END = "end"
# Ranks enter a collective together but for what loading and the visual engine take; longer means that one is lost.
_TIMEOUT = timedelta(minutes=5)
# MPI spins while it waits. Between two steps of one answer that is what a rank should do, between answers it is not.
_ALERT_SECONDS, _NAP_SECONDS = 0.1, 1e-3
_LOOPBACK = "127.0.0.1"


@dataclass(slots=True)
class ProcessGroup:
    """The ranks of one engine, seen from one of them.

    Attributes:
        rank: 0 leads.
        size: Number of ranks.
        comm: MPI's communicator of all of them.
        group: torch's process group, registered as :data:`collectives.GROUP`.
        broken: The others may wait for something that will not come, so they must be ended by force.
    """

    rank: int
    size: int
    comm: Any
    group: Any = None
    broken: bool = field(default=False)

    def send(self, *command: Any) -> None:
        """Tell the other ranks what to do; rank 0 alone calls this."""
        for rank in range(1, self.size):
            self.comm.send(command, dest=rank)

    def receive(self) -> tuple[Any, ...]:
        """What rank 0 says; the other ranks alone call this."""
        waiting_since = time.monotonic()
        while not self.comm.Iprobe(source=0):
            if time.monotonic() - waiting_since < _ALERT_SECONDS:
                os.sched_yield()
            else:
                time.sleep(_NAP_SECONDS)
        command: tuple[Any, ...] = self.comm.recv(source=0)
        return command

    def agree(self, work: Callable[[], T]) -> T:
        """Do ``work`` in every rank and go on only if it went well everywhere.

        Raises:
            MmbuildError: In rank 0, the failure of the lowest rank that had one; other ranks wait for the end.
        """
        result, problem = None, None
        try:
            result = work()
        except Exception as error:
            problem = error
        reported = self.comm.allgather(failures.describe(problem, self.rank) if problem else None)
        failed = [failure for failure in reported if failure is not None]
        if not failed:
            return result  # type: ignore[return-value]
        if self.rank != 0:
            self.stand_by()
        if problem is not None:
            raise problem
        raise failed[0].error()

    def stand_by(self) -> NoReturn:
        """Wait until rank 0 has told what is wrong, then end; the other ranks alone call this."""
        while self.receive()[0] != END:
            pass
        sys.exit(1)

    def abort(self) -> NoReturn:
        """End every rank at once."""
        sys.stdout.flush()
        sys.stderr.flush()
        self.comm.Abort(1)
        os._exit(1)  # Abort does not come back

    def close(self) -> None:
        """Rank 0, when its program ends: let the others end too."""
        if self.broken:
            self.abort()
        self.send(END)


_worlds: list[ProcessGroup] = []


def connect(ranks: int, device: str) -> ProcessGroup:
    """Join the other ranks of an engine of ``ranks`` ranks on ``device``; every rank calls this, once.

    Raises:
        RankError: mpi4py is missing or finds no MPI library, mpirun started another number of ranks, there are not
            enough GPUs, or this program has loaded such an engine before.
    """
    if _worlds:
        raise RankError(
            "a program under mpirun loads one engine, and this one has loaded one before",
            code="MM587",
            hint="Use one program for each engine",
        )
    if mpirun.rank_here() is None:
        raise _wrong_number(ranks, 1)  # without asking MPI, which would start a daemon for a process alone
    comm = _communicator()
    world = ProcessGroup(comm.rank, comm.size, comm)
    _worlds.append(world)
    if world.rank == 0:
        atexit.register(world.close)
    if world.size != ranks:
        if world.rank != 0:
            world.stand_by()
        raise _wrong_number(ranks, world.size)
    world.group = world.agree(lambda: _open_group(world, device))
    collectives.register(world.group)
    return world


def _communicator() -> Any:
    try:
        from mpi4py import MPI
    except (ImportError, RuntimeError) as error:
        raise RankError(
            f"ranks speak through mpi4py, and it cannot be used: {error}",
            code="MM583",
            hint=install_hint("mpi"),
        ) from error
    return MPI.COMM_WORLD


def _wrong_number(required: int, found: int) -> RankError:
    if found == 1:
        hint = (
            f"Start it as `mpirun -n {required}` (`mmbuild run` does so by itself); "
            "if mpirun did start it, it is of another MPI than mpi4py's"
        )
    else:
        hint = f"Start {required}, or leave mpirun out: `mmbuild run` starts it by itself"
    return RankError(
        f"the engine is split over {required} ranks, and {found} {'was' if found == 1 else 'were'} started",
        code="MM581",
        hint=hint,
    )


def _open_group(world: ProcessGroup, device: str) -> Any:
    """torch's process group over these ranks; the default one, unless the program has its own."""
    from mpi4py import MPI

    here = world.comm.Split_type(MPI.COMM_TYPE_SHARED)
    one_host = here.size == world.size
    if one_host:
        # Without these, gloo looks up the host's own name and NCCL searches for a network.
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
        os.environ.setdefault("NCCL_SOCKET_IFNAME", "lo")
    index = _own_gpu(here.rank, here.size) if device == "cuda" else None
    if dist.is_initialized():
        return dist.new_group(backend=BACKENDS[device], timeout=_TIMEOUT)
    dist.init_process_group(
        BACKENDS[device],
        store=_store(world, one_host),
        rank=world.rank,
        world_size=world.size,
        timeout=_TIMEOUT,
        device_id=index,
    )
    return dist.group.WORLD


def _own_gpu(local_rank: int, local_size: int) -> torch.device:
    """Make GPU ``local_rank``, of those that CUDA_VISIBLE_DEVICES shows, this process's own."""
    count = torch.cuda.device_count()
    if count < local_size:
        raise RankError(
            f"{local_size} ranks need {local_size} GPUs, and torch sees {count}",
            code="MM586",
            hint="Check `nvidia-smi` and CUDA_VISIBLE_DEVICES, or build with a smaller tensor_parallel",
        )
    device = torch.device("cuda", local_rank)
    torch.cuda.set_device(device)
    return device


def _store(world: ProcessGroup, one_host: bool) -> dist.TCPStore:
    """torch's meeting place, at a port that rank 0 gets from the system."""
    import socket

    host = _LOOPBACK if one_host else world.comm.bcast(socket.gethostname())
    if world.rank == 0:
        store = dist.TCPStore(host, 0, world.size, is_master=True, timeout=_TIMEOUT, wait_for_workers=False)
        world.comm.bcast(store.port)
        return store
    port = world.comm.bcast(None)
    return dist.TCPStore(host, port, world.size, is_master=False, timeout=_TIMEOUT, wait_for_workers=False)
