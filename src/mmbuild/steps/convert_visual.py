"""Step ``convert_visual`` for the torch backend: writes the weights of the visual side in the engine's dtype."""

from __future__ import annotations

from mmbuild.core.steps.context import StepContext


def run(context: StepContext) -> None:
    """``params``: ``{"family", "shape", "dtype"}``; inputs: ``model`` and, if the recipe names a second source,
    ``vision``.

    Raises:
        EngineError: MM532, the tower or projector is missing from the weights; MM531, a tensor has another shape.
        CheckpointError: The weights are missing or damaged.
    """
    from mmbuild.backends.visual.tensors import convert, without_weights
    from mmbuild.models.dtypes import DTYPES
    from mmbuild.models.families import part

    params = context.params
    visual = part(params["family"], "visual")
    with without_weights():
        module = visual.make(params["shape"], DTYPES[params["dtype"]])
    convert(module, context.inputs, visual.canonical, params["dtype"], context.out, context.progress)
