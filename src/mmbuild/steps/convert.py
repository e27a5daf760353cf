"""Step ``convert``: converts a model directory to an unquantized checkpoint."""

from __future__ import annotations

from mmbuild.core.steps.context import StepContext
from mmbuild.models.checkpoint.config import CheckpointConfig, components
from mmbuild.models.checkpoint.convert import convert
from mmbuild.models.families.facts import read_llm


def run(context: StepContext) -> None:
    """Convert ``inputs["model"]``.

    Params: ``family``, ``llm`` and ``encoder`` (:class:`~mmbuild.models.families.facts.LlmFacts` as JSON; no encoder:
    None), ``dtype`` (``float32``, ``float16``, ``bfloat16``), ``tensor_parallel`` (1 to 8).

    Raises:
        CheckpointError: A tensor is missing or wrong; see :func:`mmbuild.models.checkpoint.convert.convert`.
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
