"""Kernels that may start before the kernel before them has ended (CUDA's programmatic dependent launch).

Such a kernel waits for the one before it to end before it reads or writes anything that other kernels write or read.
As every kernel waits, whatever ran earlier has ended by then, too. It lets the next one start when its own reads are
done: earlier, that one's programs would take places on some multiprocessors and not on others (on an H200, steps in
int8 took 21 % longer so).

Where nothing starts early, outside of graphs that are made for it (:mod:`mmbuild.backends.torch.graph_overlap`), both
instructions do nothing.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def let_next_start(EARLY: tl.constexpr):
    """The next kernel may start as soon as all programs of this one have come here or ended."""
    if EARLY:
        tl.extra.cuda.gdc_launch_dependents()


@triton.jit
def wait_for_previous(EARLY: tl.constexpr):
    """From here on, what the kernels before this one wrote can be read, and what they read can be written."""
    if EARLY:
        tl.extra.cuda.gdc_wait()
