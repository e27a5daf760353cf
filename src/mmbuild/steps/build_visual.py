"""build_visual for the torch backend: a model directory in, tower and projector as one package out."""

from __future__ import annotations

from mmbuild.steps.base import StepContext


def run(context: StepContext) -> None:
    """``params``: ``{"family", "dtype", "feature_dtype", "max_batch_size", "num_visual_features", "image_size"}``.

    Raises:
        EngineError: The weights lack the tower, or it gives another number of features.
    """
    from transformers import AutoConfig

    from mmbuild.engine.config import DTYPES
    from mmbuild.visual import MODULES
    from mmbuild.visual.tensors import fill
    from mmbuild.visual.torch_engine import VisualConfig, build

    params = dict(context.params)
    make, prefixes = MODULES[params.pop("family")]
    config = VisualConfig(**{**params, "image_size": tuple(params["image_size"])})
    model = context.inputs["model"]
    module = make(AutoConfig.from_pretrained(model), DTYPES[config.feature_dtype])
    context.progress("read weights", 0.1)
    fill(module, model, prefixes)
    context.progress("compile", 0.3)
    build(module, config, context.out, context.target)
