"""verify: judges what measure found, and writes the report.

An unquantized engine must give the reference's greedy tokens, or part from them where the reference itself was
undecided within rounding. A quantized one must keep to its gates. The report is written in either case, so that
one can see what was refused.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmbuild.base.errors import MmbuildError
from mmbuild.base.files import read_object
from mmbuild.base.limits import MEASUREMENTS
from mmbuild.core.steps.context import StepContext
from mmbuild.evaluation import gates, thumbnails
from mmbuild.evaluation.html import page
from mmbuild.steps.measure import MEASURES, PICTURES

REPORT = "report.json"
VERSION = 3
"""Of the report: 2 has `quality`, `gates`, `reference`, `weights`, and numbers for each token; in 3 all of them are
up to the end token, and a difference has its context."""


class VerifyError(MmbuildError):
    """An engine that disagrees with the reference."""


def run(context: StepContext) -> None:
    """``params``: ``{"algorithm", "gates", "weights"}``, see :func:`report_of`; input ``measures``.

    Raises:
        VerifyError: An unquantized engine parts from the reference by more than rounding.
        GateError: A gate is failed.
    """
    measures = context.inputs["measures"]
    report = report_of(
        read_object(measures / MEASURES, MEASUREMENTS), context.params["gates"], context.params["weights"]
    )
    write(report, thumbnails.load(measures / PICTURES), context.out / REPORT)
    require_agreement(report)


def report_of(
    measures: Mapping[str, Any], bounds: Mapping[str, Any], weights: str | None, engine: str | None = None
) -> dict[str, Any]:
    """The report.

    Args:
        measures: Of :func:`mmbuild.steps.measure.measure`.
        bounds: The gates, of :func:`mmbuild.evaluation.bounds.bounds`.
        weights: ``model``, or ``dummy`` where they are random and quality means nothing; None: not known.
        engine: Digest of the engine artifact, where it is known.
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


def write(report: Mapping[str, Any], small: Mapping[int, bytes], path: Path) -> None:
    """Write a report as JSON to ``path``, and as a page beside it; each whole or not at all.

    Args:
        report: Of :func:`report_of`.
        small: PNG files by number, for the page.
        path: Of the JSON; see :func:`page_path` for the page.

    Raises:
        VerifyError: ``path`` cannot be written.
    """
    text = json.dumps(report, indent=2, sort_keys=True) + "\n"
    try:
        _write_text(page_path(path), page(report, small))
        _write_text(path, text)
    except OSError as error:
        raise VerifyError(
            f"the report `{path}` cannot be written: {error.strerror}",
            code="MM562",
            hint="Give another place with --out",
        ) from error


def page_path(path: Path) -> Path:
    """Where the page of a report goes: ``report.html`` beside ``report.json``."""
    return path.with_name(path.name.removesuffix(".json") + ".html")


def _write_text(path: Path, text: str) -> None:
    fresh = path.with_name(f".{path.name}.new")
    fresh.write_text(text, encoding="utf-8")
    fresh.replace(path)


def require_agreement(report: Mapping[str, Any]) -> None:
    """Fail an engine that is not what the model is.

    Raises:
        VerifyError: MM560, an unquantized engine parts from the reference where rounding does not explain it;
            with the first difference and both sides' logits.
        GateError: MM590, a gate is failed.
    """
    if report["summary"]["quant_algo"] is None:
        for entry in report["questions"]:
            if entry["tie"] is False:
                raise VerifyError(f"the engine disagrees with transformers: {describe(entry)}", code="MM560")
    gates.require(report["gates"])


def describe(entry: Mapping[str, Any]) -> str:
    """The first difference of a question in one sentence, with the text before it."""
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
