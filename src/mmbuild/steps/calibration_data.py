"""Step ``calibration_data``: the samples that a calibration takes from a data set on the hub, with their pictures."""

from __future__ import annotations

from mmbuild.core.steps.context import StepContext
from mmbuild.models.errors import SourceError


def run(context: StepContext) -> None:
    """Fill ``out`` with ``data.jsonl`` and pictures (:func:`mmbuild.models.calibration_data.hub_dataset.fetch`).

    Params: ``repo`` (``datasets/owner/name``), ``commit``, ``file`` (None: the one that is there), ``samples``,
    ``seed``, ``text_only``; where the commit was not known offline it is None, and ``revision`` says what was asked.

    Raises:
        CalibrationError: The data set holds no samples in a layout that is read, or they cannot be used.
        SourceError: The hub cannot be asked, refuses, or sends something else.
    """
    from mmbuild.models.calibration_data.hub_dataset import DataSet, fetch

    params = context.params
    if params["commit"] is None:
        raise SourceError(
            f"the commit of `{params['repo']}` at `{params['revision']}` was not known when this was planned offline",
            code="MM422",
            hint="Plan without --offline, or write the commit into calibration.revision",
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
