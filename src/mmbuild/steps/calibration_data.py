"""Step ``calibration_data``: fetches calibration samples and their images from a data set on the hub."""

from __future__ import annotations

from mmbuild.core.steps.context import StepContext
from mmbuild.models.errors import SourceError


def run(context: StepContext) -> None:
    """Write ``data.jsonl`` and images to ``out`` (:func:`mmbuild.models.calibration_data.hub_dataset.fetch`).

    Params: ``repo`` (``datasets/owner/name``), ``commit``, ``file`` (None: the only one), ``samples``, ``seed``,
    ``text_only``. If the commit could not be resolved offline it is None, and ``revision`` is what the recipe states.

    Raises:
        CalibrationError: The data set has no samples in a supported layout, or they cannot be used.
        SourceError: The hub is unreachable, denies access, or sends unexpected content.
    """
    from mmbuild.models.calibration_data.hub_dataset import DataSet, fetch

    params = context.params
    if params["commit"] is None:
        raise SourceError(
            f"the commit of `{params['repo']}` at `{params['revision']}` was unknown when planning offline",
            code="MM422",
            hint="plan without --offline, or write the commit into calibration.revision",
        )
    fetch(
        DataSet(params["repo"], params["file"]),
        params["commit"],
        context.out,
        params["samples"],
        params["seed"],
        text_only=params["text_only"],
        progress=context.progress,
    )
