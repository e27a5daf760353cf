"""Step ``hf_weights``: quantizes a model and writes its weights as Hugging Face safetensors files."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from mmbuild.core.steps.context import StepContext
from mmbuild.models.families.facts import read_llm

if TYPE_CHECKING:
    from mmbuild.backends.hf.inputs import Inputs
    from mmbuild.models.families.facts import LlmFacts


def run(context: StepContext) -> None:
    """Quantize ``inputs["model"]``; with calibration samples from a data set, these are ``inputs["data"]``.

    Params: ``family``, ``llm`` (:class:`~mmbuild.models.families.facts.LlmFacts` as JSON), ``dtype``, ``algorithm``
    and ``group_size`` as in recipes; for an algorithm that is fitted to data, ``image_size`` (height, width) and
    ``calibration`` as for step ``quantize``.

    Raises:
        CheckpointError: A tensor is missing or damaged.
        CalibrationError: The data cannot be used, or a layer cannot be fitted.
        EngineError: transformers cannot load the model for calibration.
    """
    import torch

    from mmbuild.backends.hf.forms import FORMS
    from mmbuild.backends.hf.layer import How
    from mmbuild.backends.hf.write import write

    params = context.params
    llm, form = read_llm(params["llm"]), FORMS.get(params["algorithm"])
    assert llm is not None
    measured = _inputs(context, llm) if "calibration" in params else {}
    # Only what is fitted depends on the device, through the order of its sums.
    device = str(context.target.get("device", "cpu")) if measured else "cpu"
    how = (
        None
        if form is None
        else How(form, params["group_size"], getattr(torch, params["dtype"]), llm, device)
    )
    write(
        context.inputs["model"],
        context.out,
        params["family"],
        llm,
        params["dtype"],
        how,
        measured,
        context.progress,
    )


def _inputs(context: StepContext, llm: LlmFacts) -> dict[str, Inputs]:
    """Statistics of the inputs of one layer of each site, by the decoder's names."""
    from mmbuild.backends.hf.inputs import measure
    from mmbuild.backends.hf.sites import sites
    from mmbuild.backends.torch.calibration.calibrate import observe
    from mmbuild.steps.quantize import calibration_inputs

    first = [site.linears[0] for site in sites(llm)]
    fit = partial(measure, names=first)
    return observe(fit, **calibration_inputs(context), progress=context.progress)
