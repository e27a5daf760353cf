"""Renders a report as one HTML page: everything inline, no scripts, no requests, readable without styles."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from typing import Any

from mmbuild.base.templates import render
from mmbuild.evaluation.gates import QUANTITIES, noise, number
from mmbuild.evaluation.page_facts import Origin, facts
from mmbuild.evaluation.plots import Plot
from mmbuild.evaluation.verdict import verdict

_UP = "mean KL, nats per token"


def page(report: Mapping[str, Any], small: Mapping[int, bytes], origin: Origin) -> str:
    """Render the page.

    Args:
        report: Result of :func:`mmbuild.steps.verify.report_of`.
        small: PNG thumbnails by number; missing ones are omitted.
        origin: Where the report comes from.
    """
    summary, questions = report["summary"], report["questions"]
    mark = next((gate["bound"] for gate in report["gates"] if gate["gate"] == "max_kl"), None)
    by_question = [item["mean_kl"] for item in questions]
    values = {
        "report": report,
        "recipe": origin.recipe,
        "verdict": verdict(report),
        "facts": list(facts(report, origin)),
        "kind": f"{summary['dtype']}, {summary['quant_algo'] or 'not quantized'}",
        "quantities": QUANTITIES,
        "small": {image: base64.b64encode(data).decode("ascii") for image, data in small.items()},
        "plots": (
            Plot(by_question, "KL divergence by question", "question", _UP, mark, as_bars=True),
            Plot(_by_position(questions), "KL divergence by position", "token of the answer", _UP, mark),
        ),
    }
    return render("mmbuild.evaluation", "report.html.j2", values, number=number, noise=noise)


def _by_position(questions: Sequence[Mapping[str, Any]]) -> list[float]:
    longest = max(len(item["kl"]) for item in questions)
    means = []
    for position in range(longest):
        values = [item["kl"][position] for item in questions if len(item["kl"]) > position]
        means.append(sum(values) / len(values))
    return means
