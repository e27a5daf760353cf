"""The overall verdict of a report: whether an apply accepts the engine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a page says first.

    Attributes:
        passed: Whether everything is as required; also true if nothing was required.
        text: One sentence without a full stop.
    """

    passed: bool
    text: str


def verdict(report: Mapping[str, Any]) -> Verdict:
    """Return the verdict of a report."""
    gates = report["gates"]
    failed = [gate["gate"] for gate in gates if not gate["passed"]]
    if disagreement(report) is not None:
        return Verdict(False, "refused: an answer differs from transformers' by more than rounding")
    if failed:
        return Verdict(False, f"refused: {len(failed)} of {len(gates)} gates failed ({', '.join(failed)})")
    if gates:
        return Verdict(True, f"passed: {len(gates)} of {len(gates)} gates")
    if report["summary"]["quant_algo"] is None:
        return Verdict(True, "passed: every answer has transformers' tokens, up to rounding")
    return Verdict(True, "not checked: no gate was set")


def disagreement(report: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Return the first question where an unquantized engine differs by more than rounding; None if there is none."""
    if report["summary"]["quant_algo"] is not None:
        return None
    return next((entry for entry in report["questions"] if entry["tie"] is False), None)
