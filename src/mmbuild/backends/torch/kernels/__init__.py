"""Triton kernels of packages for CUDA, as operators of torch that torch.export and Inductor understand.

Importing this package does not import Triton, which torch for CPUs lacks; its modules do.
"""

import torch

MOST_ROWS = 64
"""With more rows than this a general matrix product is faster."""

_HOPPER = 9


def starts_early() -> bool:
    """Whether kernels for this GPU may start before the kernel before them has ended
    (:mod:`mmbuild.backends.torch.kernels.dependent_launch`)."""
    major, _ = torch.cuda.get_device_capability()
    return major >= _HOPPER
