"""Finds out whether a failure was the end of CUDA in this process.

After some errors (an illegal address, a GPU that fell off the bus) every later call of the process fails; after
others (a launch that is not possible, no memory) the next request can be answered.
"""

from __future__ import annotations

import torch

from mmbuild.models.errors import EngineError
from mmbuild.models.families.processor import first_line


def lost_gpu(device: str) -> EngineError | None:
    """The error after which ``device`` (``cpu`` or ``cuda``) cannot be used any more; None if it can."""
    if device != "cuda":
        return None
    try:
        torch.cuda.synchronize()
    except RuntimeError as error:
        return EngineError(
            f"the GPU cannot be used any more by this process: {first_line(error)}",
            code="MM872",
            hint="restart the server; if it happens again, see `dmesg` and `nvidia-smi -q` for errors of the GPU",
        )
    return None
