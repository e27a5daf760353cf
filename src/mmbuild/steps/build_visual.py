"""build_visual for engines of the torch backend: a model directory in, tower and projector as one engine out."""

from __future__ import annotations

from mmbuild.core.steps.context import StepContext


def run(context: StepContext) -> None:
    """``params``: ``{"family", "dtype", "feature_dtype", "max_batch_size", "num_visual_features", "image_size"}``
    and, where TensorRT is to run it, ``"tensorrt": {"version"}``; inputs: ``model`` and, where the recipe names a
    second source, ``vision``.

    Raises:
        EngineError: The weights lack the tower, or it gives another number of features, or cannot be exported.
        TensorRTError: TensorRT is not there or cannot build it.
    """
    from mmbuild.backends.torch import visual_engine
    from mmbuild.backends.visual.config import VisualConfig
    from mmbuild.backends.visual.tensors import fill
    from mmbuild.models.dtypes import DTYPES
    from mmbuild.models.families import part

    params = dict(context.params)
    visual = part(params.pop("family"), "visual")
    tensorrt = params.pop("tensorrt", None)
    config = VisualConfig(**{**params, "image_size": tuple(params["image_size"])})
    module = visual.make(context.inputs, DTYPES[config.feature_dtype])
    context.progress("read weights", 0.1)
    fill(module, context.inputs, visual.canonical)
    if tensorrt is None:
        context.progress("compile", 0.3)
        visual_engine.build(module, config, context.out, context.target)
        return
    from mmbuild.backends.tensorrt import engine as tensorrt_engine

    context.progress("export, then TensorRT builds", 0.3)
    tensorrt_engine.build(module, config, context.out, context.target, options=tensorrt)
