"""Collectives inside exported modules: communication between the ranks of an engine while a package runs.

They are torch's functional collectives. Inductor compiles them to calls that look up their process group by the name
:data:`GROUP`. A rank registers its group under that name before a package runs
(``backends/torch/distributed/process_group.py``); a package for one rank contains no collectives.

Packages with collectives run in ``torch.inference_mode()``. Outside it, torch 2.13 dispatches the gather operator
through Python. Python then owns its result, and gloo's thread needs the GIL to release it, which the caller of the
package holds while it waits for gloo. This deadlock was observed after tens of calls.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
import torch.distributed._functional_collectives  # registers the operators for fake tensors
from torch import Tensor
from torch._C import _distributed_c10d as c10d

# Not torch's default group, which belongs to the host program.
GROUP = "mmbuild"


def all_reduce(x: Tensor, ranks: int) -> Tensor:
    """Sum of ``x`` over all ranks (any shape; float32, float16 or bfloat16), in its dtype; ``x`` for one rank."""
    if ranks == 1:
        return x
    summed: Tensor = torch.ops._c10d_functional.all_reduce(x, "sum", GROUP)
    return _wait(summed)


def gather_vocabulary(logits: Tensor, ranks: int) -> Tensor:
    """Concatenate the logits of all ranks.

    Args:
        logits: [B, part]: rank r holds tokens ``r * part`` to ``(r + 1) * part - 1``.
        ranks: Number of parts.

    Returns:
        [B, ranks * part] in the same dtype: the padded vocabulary.
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
    """Context for compiling a graph with collectives of ``ranks`` ranks.

    Inductor looks up the group to write its size to a debugging script. This context registers a group without a
    backend, which is not connected and cannot send.
    """
    if ranks == 1:
        yield
        return
    group = c10d.ProcessGroup(
        dist.HashStore(), 0, ranks
    )  # keep a reference: torch's table of groups does not
    register(group)
    try:
        yield
    finally:
        unregister()


def size() -> int:
    """Number of ranks of the registered group."""
    return int(c10d._resolve_process_group(GROUP).size())


def register(group: dist.ProcessGroup) -> None:
    """Register ``group`` for the packages of this process; the caller must keep it alive."""
    c10d._register_process_group(GROUP, group)


def unregister() -> None:
    """Undo :func:`register`."""
    c10d._unregister_process_group(GROUP)
