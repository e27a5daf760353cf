"""Runs independent tasks in a few threads.

torch and numpy release the GIL while they process a block, and so do writes to a file. Each thread limits torch to
one thread, so that blocks stay in one core's cache.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Result = TypeVar("Result")


def map_ordered(tasks: Iterable[Callable[[], Result]], threads: int) -> Iterator[Result]:
    """Yield results in the order of the tasks, running up to ``threads`` of them in parallel.

    Raises the first failure in that order and cancels tasks that have not started. When the iterator has ended or was
    closed, no task is running.
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
