"""Communication between ranks: identity, commands, collectives, and agreement on failures.

Rank 0 sends commands and small data by MPI; packages sum and gather through a torch process group, gloo on the CPU
and NCCL on CUDA.
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

from mmbuild.backends.torch.distributed import collectives, failures, mpirun
from mmbuild.backends.torch.distributed.failures import RankError
from mmbuild.base.optional_packages import install_hint

T = TypeVar("T")
BACKENDS = {"cpu": "gloo", "cuda": "nccl"}
END = "end"
# Ranks enter a collective together, except for loading and the visual engine; a longer wait means a lost rank.
_TIMEOUT = timedelta(minutes=5)
# Spin while waiting between two steps of one answer; sleep between answers.
_SPIN_SECONDS, _SLEEP_SECONDS = 0.1, 1e-3
_LOOPBACK = "127.0.0.1"


@dataclass(slots=True)
class ProcessGroup:
    """The ranks of one engine, as seen by one of them.

    Attributes:
        rank: This rank; 0 is the leader.
        size: Number of ranks.
        comm: MPI communicator of all ranks.
        group: torch process group, registered as :data:`collectives.GROUP`.
        broken: Other ranks may wait for a message that never comes, so they must be killed.
    """

    rank: int
    size: int
    comm: Any
    group: Any = None
    broken: bool = field(default=False)

    def send(self, *command: Any) -> None:
        """Send a command to the other ranks; only rank 0 calls this."""
        for rank in range(1, self.size):
            self.comm.send(command, dest=rank)

    def receive(self) -> tuple[Any, ...]:
        """Receive a command from rank 0; only the other ranks call this."""
        waiting_since = time.monotonic()
        while not self.comm.Iprobe(source=0):
            if time.monotonic() - waiting_since < _SPIN_SECONDS:
                os.sched_yield()
            else:
                time.sleep(_SLEEP_SECONDS)
        command: tuple[Any, ...] = self.comm.recv(source=0)
        return command

    def agree(self, work: Callable[[], T]) -> T:
        """Do ``work`` in every rank; continue only if it succeeds in all of them.

        Raises:
            MmbuildError: In rank 0: the failure of the lowest failed rank. Other ranks wait for the end.
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
        """Wait until rank 0 has reported the failure, then exit; only the other ranks call this."""
        while self.receive()[0] != END:
            pass
        sys.exit(1)

    def abort(self) -> NoReturn:
        """Kill all ranks."""
        sys.stdout.flush()
        sys.stderr.flush()
        self.comm.Abort(1)
        os._exit(1)  # Abort does not return

    def close(self) -> None:
        """End the other ranks; rank 0 calls this when its program ends."""
        if self.broken:
            self.abort()
        self.send(END)
        self.leave()

    def leave(self) -> None:
        """Stop the threads of torch's group; every rank calls this when its program ends.

        A thread of gloo that asks for the GIL after the interpreter has shut down aborts the process (SIGABRT). NCCL
        has no such threads, and its communicators may not be destroyed while CUDA graphs hold them.
        """
        group, self.group = self.group, None
        if group is None or BACKENDS["cuda"] in dist.get_backend(group):
            return
        collectives.unregister()
        dist.destroy_process_group(group)


_worlds: list[ProcessGroup] = []


def abandon() -> None:
    """Let the end of this program kill the other ranks instead of ending them in order."""
    for world in _worlds:
        world.broken = True


def connect(ranks: int, device: str) -> ProcessGroup:
    """Join the other ranks of an engine of ``ranks`` ranks on ``device``; every rank calls this once.

    Raises:
        RankError: mpi4py is missing or finds no MPI library, mpirun started another number of ranks, there are not
            enough GPUs, or this program has already loaded an engine with several ranks.
    """
    if _worlds:
        raise RankError(
            "a program under mpirun can load only one engine, and this one has already loaded one",
            code="MM587",
            hint="use a separate program for each engine",
        )
    if mpirun.rank_here() is None:
        raise _wrong_number(ranks, 1)  # avoid MPI, which would start a daemon for a single process
    comm = _communicator()
    world = ProcessGroup(comm.rank, comm.size, comm)
    _worlds.append(world)
    atexit.register(world.close if world.rank == 0 else world.leave)
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
            f"mpi4py, which ranks need to communicate, cannot be loaded: {error}",
            code="MM583",
            hint=install_hint("mpi"),
        ) from error
    return MPI.COMM_WORLD


def _wrong_number(required: int, started: int) -> RankError:
    if started == 1:
        hint = (
            f"start it with `mpirun -n {required}` (`mmbuild run` does that itself); "
            "if mpirun did start it, mpirun and mpi4py belong to different MPI implementations"
        )
    else:
        hint = f"start {required} ranks, or omit mpirun: `mmbuild run` starts it itself"
    return RankError(
        f"the engine is split over {required} ranks, but {started} {'was' if started == 1 else 'were'} started",
        code="MM581",
        hint=hint,
    )


def _open_group(world: ProcessGroup, device: str) -> Any:
    """Create torch's process group for these ranks; the default group, unless the program already has one."""
    from mpi4py import MPI

    here = world.comm.Split_type(MPI.COMM_TYPE_SHARED)
    one_host = here.size == world.size
    if one_host:
        # Otherwise gloo resolves the host name and NCCL searches for a network.
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
    """Select GPU ``local_rank``, among those in CUDA_VISIBLE_DEVICES, for this process."""
    count = torch.cuda.device_count()
    if count < local_size:
        raise RankError(
            f"{local_size} ranks need {local_size} GPUs, but torch sees {count}",
            code="MM586",
            hint="check `nvidia-smi` and CUDA_VISIBLE_DEVICES, or build with a smaller tensor_parallel",
        )
    device = torch.device("cuda", local_rank)
    torch.cuda.set_device(device)
    return device


def _store(world: ProcessGroup, one_host: bool) -> dist.TCPStore:
    """torch's rendezvous store, on a free port chosen by the system."""
    import socket

    host = _LOOPBACK if one_host else world.comm.bcast(socket.gethostname())
    if world.rank == 0:
        store = dist.TCPStore(host, 0, world.size, is_master=True, timeout=_TIMEOUT, wait_for_workers=False)
        world.comm.bcast(store.port)
        return store
    port = world.comm.bcast(None)
    return dist.TCPStore(host, port, world.size, is_master=False, timeout=_TIMEOUT, wait_for_workers=False)
