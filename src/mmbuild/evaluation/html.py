"""A report as one page: everything inline, no script, nothing fetched, readable without styles."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from typing import Any

from mmbuild.base.templates import render
from mmbuild.evaluation.gates import QUANTITIES, noise, number
from mmbuild.evaluation.plots import Plot


def page(report: Mapping[str, Any], small: Mapping[int, bytes]) -> str:
    """The page.

    Args:
        report: Of :func:`mmbuild.steps.verify.report_of`.
        small: PNG files of the pictures, by number; what is missing is left out.
    """
    summary, questions = report["summary"], report["questions"]
    mark = next((gate["bound"] for gate in report["gates"] if gate["gate"] == "max_kl"), None)
    by_question = [one["mean_kl"] for one in questions]
    values = {
        "report": report,
        "kind": f"{summary['dtype']}, {summary['quant_algo'] or 'not quantized'}",
        "quantities": QUANTITIES,
        "small": {image: base64.b64encode(data).decode("ascii") for image, data in small.items()},
        "by_question": Plot(by_question, "KL divergence by question", "question", mark, as_bars=True),
        "by_position": Plot(_by_position(questions), "KL divergence by position", "token", mark),
    }
    return render("mmbuild.evaluation", "report.html.j2", values, number=number, noise=noise)


def _by_position(questions: Sequence[Mapping[str, Any]]) -> list[float]:
    longest = max(len(one["kl"]) for one in questions)
    found = []
    for position in range(longest):
        at = [one["kl"][position] for one in questions if len(one["kl"]) > position]
        found.append(sum(at) / len(at))
    return found
