"""Independent pieces of work on a few threads of one process.

torch and numpy let go of the interpreter while they work on a block, and so does the kernel while it copies
bytes into a file; each thread keeps torch to itself, so that blocks stay in one core's cache.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Result = TypeVar("Result")


def map_ordered(tasks: Iterable[Callable[[], Result]], threads: int) -> Iterator[Result]:
    """Results in the order of the tasks, of which ``threads`` run at once.

    The first failure, in that order, is raised; what has not begun by then never does. Nothing runs any more
    when the iterator has ended or was closed.
    """
    with ThreadPoolExecutor(threads, initializer=_one_torch_thread) as pool:
        futures = [pool.submit(task) for task in tasks]
        try:
            for future in futures:
                yield future.result()
        finally:
            pool.shutdown(cancel_futures=True)


def _one_torch_thread() -> None:
    import torch

    torch.set_num_threads(1)
