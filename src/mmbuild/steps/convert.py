"""Step ``convert``: a model directory to an unquantized checkpoint."""

from __future__ import annotations

import json

from mmbuild.checkpoint.config import CheckpointConfig
from mmbuild.checkpoint.convert import convert
from mmbuild.families import family
from mmbuild.steps.base import StepContext


def run(context: StepContext) -> None:
    """Convert ``inputs["model"]``.

    Params: ``family``, ``dtype`` (``float32``, ``float16``, ``bfloat16``), ``tensor_parallel`` (1 to 8).

    Raises:
        FamilyError: ``config.json`` is of another family.
        CheckpointError: A tensor is missing or wrong; see :func:`mmbuild.checkpoint.convert.convert`.
    """
    model = context.inputs["model"]
    name = context.params["family"]
    facts = family(name).facts(json.loads((model / "config.json").read_text(encoding="utf-8")))
    config = CheckpointConfig(
        llm=facts.llm,
        dtype=context.params["dtype"],
        tensor_parallel=int(context.params["tensor_parallel"]),
    )
    convert(model, context.out, name, config, context.progress, max(1, context.cores))
