"""Collectives inside exported modules: what ranks of one engine tell each other while a package runs.

They are torch's functional collectives, which Inductor compiles into calls that find their process group by the
name :data:`GROUP`. A rank registers its group under that name before a package runs
(``backends/torch/distributed/process_group.py``); a package for one rank has no collective in it.

Packages with collectives run in ``torch.inference_mode()``. Outside it torch 2.13 sends the gathering operator
through Python; its result then belongs to Python, gloo's thread needs the interpreter's lock to release it, and the
caller of a package holds that lock while it waits for gloo: a deadlock, seen after tens of calls.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
import torch.distributed._functional_collectives  # registers what the operators make of fake tensors
from torch import Tensor
from torch._C import _distributed_c10d as c10d

# Not torch's default group, which belongs to the program that the engine runs in.
GROUP = "mmbuild"


def all_reduce(x: Tensor, ranks: int) -> Tensor:
    """The sum of every rank's ``x`` (any shape, float32, float16 or bfloat16), in its dtype; ``x`` for one rank."""
    if ranks == 1:
        return x
    summed: Tensor = torch.ops._c10d_functional.all_reduce(x, "sum", GROUP)
    return _wait(summed)


def gather_vocabulary(logits: Tensor, ranks: int) -> Tensor:
    """Every rank's part of the logits side by side.

    Args:
        logits: [B, part]: rank r holds tokens ``r * part`` to ``(r + 1) * part - 1``.
        ranks: How many parts there are.

    Returns:
        [B, ranks * part] in the same dtype: what the vocabulary was padded to.
    """
    if ranks == 1:
        return logits
    gathered = _wait(torch.ops._c10d_functional.all_gather_into_tensor(logits, ranks, GROUP))
    return gathered.unflatten(0, (ranks, -1)).movedim(0, 1).flatten(1)


def _wait(pending: Tensor) -> Tensor:
    done: Tensor = torch.ops._c10d_functional.wait_tensor(pending)
    return done


@contextmanager
def compiling(ranks: int) -> Iterator[None]:
    """Let a graph with collectives of ``ranks`` ranks be compiled in this block.

    Inductor looks the group up to write its number of ranks into a debugging script. Here it finds one without a
    backend: nothing is connected, and nothing can be sent.
    """
    if ranks == 1:
        yield
        return
    group = c10d.ProcessGroup(dist.HashStore(), 0, ranks)  # held here: torch's table of groups does not
    register(group)
    try:
        yield
    finally:
        c10d._unregister_process_group(GROUP)


def register(group: dist.ProcessGroup) -> None:
    """Make ``group`` the one that packages of this process speak to; the caller keeps it alive."""
    c10d._register_process_group(GROUP, group)
