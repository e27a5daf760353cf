"""Step ``quantize``: an unquantized checkpoint to a weight-only one."""

from __future__ import annotations

from mmbuild.checkpoint.quantize import quantize_checkpoint
from mmbuild.steps.base import StepContext


def run(context: StepContext) -> None:
    """Quantize ``inputs["checkpoint"]``.

    Params: ``algorithm``, ``int8`` or ``int4``.

    Raises:
        CheckpointError: The checkpoint is unreadable, quantized already, or its outputs do not pack.
    """
    quantize_checkpoint(
        context.inputs["checkpoint"],
        context.out,
        context.params["algorithm"],
        context.progress,
        max(1, context.cores),
    )
