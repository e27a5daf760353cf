"""Step ``build_visual`` for the torch backend: compiles the visual tower and projector of a model.

For torch it has no input: packages depend on shapes and target, never on weight values, which ``convert_visual``
writes. A TensorRT engine contains the weights, so they are an input.
"""

from __future__ import annotations

from mmbuild.core.steps.context import StepContext


def run(context: StepContext) -> None:
    """``params``: ``{"family", "shape", "dtype", "feature_dtype", "max_batch_size", "num_visual_features",
    "image_size"}`` and, for a TensorRT engine, ``"tensorrt": {"version"}``, with inputs ``model`` and, if the recipe
    names a second source, ``vision``.

    Raises:
        EngineError: The tower returns an unexpected number of features, or cannot be exported; for TensorRT also if
            it is missing from the weights.
        TensorRTError: TensorRT is not available or cannot build the engine.
    """
    from mmbuild.backends.torch import visual_build
    from mmbuild.backends.visual.config import VisualConfig
    from mmbuild.backends.visual.tensors import fill, without_weights
    from mmbuild.models.dtypes import DTYPES
    from mmbuild.models.families import part

    params = dict(context.params)
    visual, shape = part(params.pop("family"), "visual"), params.pop("shape")
    tensorrt = params.pop("tensorrt", None)
    config = VisualConfig(**{**params, "image_size": tuple(params["image_size"])})
    feature_dtype = DTYPES[config.feature_dtype]
    context.progress("exporting the graph", None)
    if tensorrt is None:
        with without_weights():
            module = visual.make(shape, feature_dtype)
        visual_build.build(
            module,
            config,
            context.out,
            context.target,
            lambda name: visual.canonical("module", name),
            cores=context.cores,
            progress=context.progress,
        )
        return
    from mmbuild.backends.tensorrt import engine as tensorrt_engine

    context.progress("reading weights", None)
    module = visual.make(shape, feature_dtype)
    fill(module, context.inputs, visual.canonical)
    context.progress("exporting, and building with TensorRT", None)
    tensorrt_engine.build(module, config, context.out, context.target, options=tensorrt)
