"""Step ``convert``: a model directory to an unquantized checkpoint."""

from __future__ import annotations

from mmbuild.checkpoint.config import CheckpointConfig, components
from mmbuild.checkpoint.convert import convert
from mmbuild.families.base import read_llm
from mmbuild.steps.base import StepContext


def run(context: StepContext) -> None:
    """Convert ``inputs["model"]``.

    Params: ``family``, ``llm`` and ``encoder`` (:class:`~mmbuild.families.base.LlmFacts` as JSON; no encoder:
    None), ``dtype`` (``float32``, ``float16``, ``bfloat16``), ``tensor_parallel`` (1 to 8).

    Raises:
        CheckpointError: A tensor is missing or wrong; see :func:`mmbuild.checkpoint.convert.convert`.
    """
    model, params = context.inputs["model"], context.params
    llm, encoder = (read_llm(params[key]) for key in ("llm", "encoder"))
    assert llm is not None
    configs = {
        where: CheckpointConfig(
            llm=stack, dtype=params["dtype"], tensor_parallel=int(params["tensor_parallel"])
        )
        for where, stack in components(llm, encoder).items()
    }
    convert(model, context.out, params["family"], configs, context.progress, max(1, context.cores))
