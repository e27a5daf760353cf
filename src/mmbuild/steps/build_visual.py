"""build_visual for the torch backend: a model directory in, tower and projector as one package out."""

from __future__ import annotations

from mmbuild.steps.base import StepContext


def run(context: StepContext) -> None:
    """``params``: ``{"family", "dtype", "feature_dtype", "max_batch_size", "num_visual_features", "image_size"}``;
    inputs: ``model`` and, where the recipe names a second source, ``vision``.

    Raises:
        EngineError: The weights lack the tower, or it gives another number of features.
    """
    from mmbuild.engine.config import DTYPES
    from mmbuild.families import part
    from mmbuild.visual.tensors import fill
    from mmbuild.visual.torch_engine import VisualConfig, build

    params = dict(context.params)
    visual = part(params.pop("family"), "visual")
    config = VisualConfig(**{**params, "image_size": tuple(params["image_size"])})
    module = visual.make(context.inputs, DTYPES[config.feature_dtype])
    context.progress("read weights", 0.1)
    fill(module, context.inputs, visual.canonical)
    context.progress("compile", 0.3)
    build(module, config, context.out, context.target)
