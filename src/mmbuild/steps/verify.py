"""Step ``verify``: evaluates the measurements of ``measure`` and writes the report.

An unquantized engine must return the reference's greedy tokens, or differ only where the reference itself is
undecided within rounding. A quantized engine must pass its gates. The report is written in either case, so that a
rejected engine can be examined.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mmbuild.base import host
from mmbuild.base.errors import MmbuildError
from mmbuild.base.files import read_object
from mmbuild.base.limits import MEASUREMENTS
from mmbuild.base.progress import Amount
from mmbuild.core.steps.context import StepContext
from mmbuild.evaluation import gates, thumbnails
from mmbuild.evaluation.html import page
from mmbuild.evaluation.page_facts import Origin
from mmbuild.evaluation.verdict import disagreement
from mmbuild.steps.measure import MEASURES, PICTURES

REPORT = "report.json"
VERSION = 3
"""Version of the report format. 2 added `quality`, `gates`, `reference`, `weights` and numbers per token; 3 counts up
to the end token and gives the context of a difference."""


class VerifyError(MmbuildError):
    """An engine disagrees with the reference, or its report cannot be written."""


def run(context: StepContext) -> None:
    """``params``: ``{"algorithm", "gates", "weights"}``, see :func:`report_of`; input ``measures``.

    Raises:
        VerifyError: An unquantized engine differs from the reference by more than rounding.
        GateError: The engine fails a gate.
    """
    measures = context.inputs["measures"]
    report = report_of(
        read_object(measures / MEASURES, MEASUREMENTS), context.params["gates"], context.params["weights"]
    )
    count = len(report["questions"])
    context.progress("gates evaluated", Amount(count, count, "questions"))
    recipe = context.label.rpartition("/")[0]
    write(report, thumbnails.load(measures / PICTURES), context.out / REPORT, recipe=recipe)
    require_agreement(report)


def report_of(
    measures: Mapping[str, Any], bounds: Mapping[str, Any], weights: str | None, engine: str | None = None
) -> dict[str, Any]:
    """Build the report.

    Args:
        measures: Result of :func:`mmbuild.steps.measure.measure`.
        bounds: The gates, from :func:`mmbuild.evaluation.bounds.bounds`.
        weights: ``model``, or ``dummy`` if they are random and quality is meaningless; None if unknown.
        engine: Digest of the engine artifact, if known.
    """
    quality = gates.measure_quantities(measures["questions"])
    return {
        "version": VERSION,
        "weights": weights,
        "engine": engine,
        "quality": quality,
        "gates": gates.gate_verdicts(quality, bounds),
        **measures,
    }


def write(report: Mapping[str, Any], small: Mapping[int, bytes], path: Path, *, recipe: str) -> None:
    """Write a report as JSON to ``path`` and as an HTML page next to it, each atomically.

    Only the page says when and where the engine was checked: the report of the same measurements is always the same.

    Args:
        report: Result of :func:`report_of`.
        small: PNG thumbnails by number, for the page.
        path: JSON file; :func:`page_path` is the page.
        recipe: Name of the variant, for the page.

    Raises:
        VerifyError: ``path`` cannot be written.
    """
    text = json.dumps(report, indent=2, sort_keys=True) + "\n"
    origin = Origin(recipe, datetime.now(UTC), host.facts())
    try:
        _write_text(page_path(path), page(report, small, origin))
        _write_text(path, text)
    except OSError as error:
        raise VerifyError(
            f"cannot write the report `{path}`: {error.strerror}",
            code="MM562",
            hint="choose another file with --output",
        ) from error


def page_path(path: Path) -> Path:
    """Path of a report's page: ``report.html`` next to ``report.json``."""
    return path.with_name(path.name.removesuffix(".json") + ".html")


def _write_text(path: Path, text: str) -> None:
    fresh = path.with_name(f".{path.name}.new")
    fresh.write_text(text, encoding="utf-8")
    fresh.replace(path)


def require_agreement(report: Mapping[str, Any]) -> None:
    """Check that an unquantized engine agrees with the reference, and that every engine passes its gates.

    Raises:
        VerifyError: MM560, an unquantized engine differs from the reference by more than rounding; names the first
            difference and the logits of both sides.
        GateError: MM590, the engine fails a gate.
    """
    entry = disagreement(report)
    if entry is not None:
        raise VerifyError(f"the engine disagrees with transformers: {describe(entry)}", code="MM560")
    gates.require(report["gates"])


def describe(entry: Mapping[str, Any]) -> str:
    """Describe the first difference of a question in one sentence, with the text before it."""
    difference, context = entry["difference"], entry["context"]
    where = f"image {entry['image']}, prompt `{shortened(entry['prompt'] or '')}`, token {difference['position'] + 1}"
    after = f"after `{context['before']}`" if context["before"] else "at the beginning"
    theirs = _choice(context["reference"], difference["reference_token"], difference["reference_logits"])
    ours = _choice(
        context["engine"],
        difference["engine_token"],
        difference["engine_logits"] and difference["engine_logits"][::-1],
    )
    return f"{where}: {after} transformers {theirs}, the engine {ours}"


def _choice(text: str | None, token: int | None, logits: Sequence[float] | None) -> str:
    if text is None:
        return "ends its answer"
    numbers = f", logits {logits[0]:.4f} over {logits[1]:.4f}" if logits else ""
    return f"has `{text}` (token {token}{numbers})"


def shortened(text: str, most: int = 60) -> str:
    """``text`` on one line of at most ``most`` characters."""
    line = " ".join(text.split())
    return line if len(line) <= most else f"{line[: most - 4]} ..."
