"""Step ``build_visual`` for the torch backend: builds one engine from the visual tower and projector of a model."""

from __future__ import annotations

from mmbuild.core.steps.context import StepContext


def run(context: StepContext) -> None:
    """``params``: ``{"family", "dtype", "feature_dtype", "max_batch_size", "num_visual_features", "image_size"}``
    and, for a TensorRT engine, ``"tensorrt": {"version"}``; inputs: ``model`` and, if the recipe names a second
    source, ``vision``.

    Raises:
        EngineError: The tower is missing from the weights, returns an unexpected number of features, or cannot be
            exported.
        TensorRTError: TensorRT is not available or cannot build the engine.
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

    context.progress("export and build with TensorRT", 0.3)
    tensorrt_engine.build(module, config, context.out, context.target, options=tensorrt)
