"""Step ``hf_card``: completes a Hugging Face model directory with its model card."""

from __future__ import annotations

from mmbuild.backends.engine_dir import description
from mmbuild.backends.hf import card
from mmbuild.base.files import read_object
from mmbuild.base.limits import MEASUREMENTS
from mmbuild.core.steps.context import StepContext, link
from mmbuild.core.store.hashing import hash_files
from mmbuild.steps.measure import MEASURES


def run(context: StepContext) -> None:
    """Link the files of ``inputs["checkpoint"]`` and write ``README.md``, with the numbers of ``inputs["measures"]``,
    if there are any.

    Params: ``name``, ``source``, ``revision``, ``algorithm``, ``calibration``, ``gates``; see
    :class:`mmbuild.backends.hf.card.Card`.
    """
    checkpoint = context.inputs["checkpoint"]
    paths = sorted(path for path in checkpoint.iterdir() if path.is_file())
    for path in paths:
        link(path, context.out / path.name)
    measures = None
    if "measures" in context.inputs:
        measures = read_object(context.inputs["measures"] / MEASURES, MEASUREMENTS)
    files = [path for path in paths if path.name != description.DESCRIPTION]
    text = card.text(
        card.Card(
            **context.params,
            description=description.read(checkpoint),
            files=tuple(
                (path.name, path.stat().st_size, digest)
                for path, digest in zip(files, hash_files(files), strict=True)
            ),
            measures=measures,
        )
    )
    (context.out / "README.md").write_text(text, encoding="utf-8")
