"""Gates: the measured quantities and the verdicts.

A gate passes exactly when its measured value is within its bound. If the 95 % interval contains the bound, the number
of questions is too small for a reliable verdict, and the verdict says so. Rejecting a good engine costs another look;
publishing a broken one costs its users.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from mmbuild.base.errors import MmbuildError
from mmbuild.evaluation import statistics
from mmbuild.evaluation.bounds import NAMES, RECIPE
from mmbuild.evaluation.statistics import Estimate

Questions = Sequence[Mapping[str, Any]]


class GateError(MmbuildError):
    """The engine failed a gate."""


@dataclass(frozen=True, slots=True)
class Quantity:
    """A quantity that a gate bounds.

    Attributes:
        title: Display name.
        unit: Suffix of numbers, with its leading space; may be empty.
        measure: Computes it from a report's questions.
        least: Whether the bound is a minimum; else a maximum.
    """

    title: str
    unit: str
    measure: Callable[[Questions], Estimate]
    least: bool


def _agreement(questions: Questions) -> Estimate:
    return statistics.share([item["answers"]["engine"] == item["answers"]["reference"] for item in questions])


def _tokens(questions: Questions) -> list[int]:
    """Number of tokens in each of the reference's answers, its end token included."""
    return [len(item["reference_tokens"]) for item in questions]


def _kl(questions: Questions) -> Estimate:
    estimate = statistics.ratio([sum(item["kl"]) for item in questions], _tokens(questions))
    return statistics.transform(estimate, lambda value: max(value, 0.0))


def _perplexity_ratio(questions: Questions) -> Estimate:
    sums = [sum(item["reference_log_probs"]) - sum(item["engine_log_probs"]) for item in questions]
    return statistics.transform(statistics.ratio(sums, _tokens(questions)), _exp)


def _exp(value: float) -> float:
    return math.exp(min(value, 700.0))  # larger values overflow a float; any gate has failed long before


def _prefix(questions: Questions) -> Estimate:
    # An answer that is equal to its end counts for the maximum length.
    return statistics.mean(
        [
            item["equal_prefix"] if item["difference"] is not None else item["max_new_tokens"]
            for item in questions
        ]
    )


QUANTITIES: Mapping[str, Quantity] = MappingProxyType(
    {
        "min_answer_agreement": Quantity("answers that agree", "", _agreement, True),
        "max_kl": Quantity("mean KL over the answers", " nats", _kl, False),
        "max_perplexity_ratio": Quantity("perplexity ratio", "", _perplexity_ratio, False),
        "min_greedy_prefix": Quantity("equal greedy tokens", " tokens", _prefix, True),
    }
)


def measure_quantities(questions: Questions) -> dict[str, Any]:
    """All quantities of a report's questions, whether a gate bounds them or not.

    Means over tokens cover the tokens of the reference's answers, up to and including the end token.
    """
    return {name: _plain(QUANTITIES[name].measure(questions)) for name in NAMES}


def gate_verdicts(quality: Mapping[str, Any], bounds: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A verdict for each gate of ``bounds``, as plain data.

    Args:
        quality: Result of :func:`measure_quantities`.
        bounds: Result of :func:`mmbuild.evaluation.bounds.bounds`.
    """
    return [
        {
            "gate": name,
            **bounds[name],
            **quality[name],
            **_verdict(name, bounds[name]["bound"], quality[name]),
        }
        for name in NAMES
        if name in bounds
    ]


def _plain(estimate: Estimate) -> dict[str, Any]:
    return {
        "value": estimate.value,
        "standard_error": estimate.error,
        "interval": None if estimate.interval is None else list(estimate.interval),
        "samples": estimate.samples,
    }


def _verdict(name: str, bound: float, measured: Mapping[str, Any]) -> dict[str, bool]:
    value, interval = measured["value"], measured["interval"]
    passed = value >= bound if QUANTITIES[name].least else value <= bound
    settled = interval is not None and not interval[0] <= bound <= interval[1]
    # An interval of width 0: every question gave the same value.
    exact = interval is not None and interval[0] == interval[1]
    return {"passed": passed, "settled": settled or exact}


def require(verdicts: Sequence[Mapping[str, Any]]) -> None:
    """Check that every gate passed.

    Raises:
        GateError: MM590, listing every failed gate with its value, its bound and the difference.
    """
    failed = [verdict for verdict in verdicts if not verdict["passed"]]
    if failed:
        text = "; ".join(describe(verdict) for verdict in failed)
        raise GateError(f"the engine fails its gates: {text}", code="MM590", hint=_hint(failed))


def describe(verdict: Mapping[str, Any]) -> str:
    """Describe a verdict in one sentence."""
    quantity = QUANTITIES[verdict["gate"]]
    value, bound = verdict["value"], verdict["bound"]
    limit = "at least" if quantity.least else "at most"
    by = "" if verdict["passed"] else f", {number(abs(value - bound))} too {_too(quantity.least)}"
    return (
        f"{verdict['gate']}: {quantity.title} {number(value)}{quantity.unit}, {limit} {number(bound)}{by} "
        f"({noise(verdict)})"
    )


def noise(measured: Mapping[str, Any]) -> str:
    """The number of questions behind a value, and its 95 % interval."""
    count = measured["samples"]
    request = f"{count} question{'' if count == 1 else 's'}"
    if measured["interval"] is None:
        return f"{request}, too few for an interval"
    low, high = measured["interval"]
    return f"{request}, 95 % interval {number(low)} to {number(high)}"


def number(value: float) -> str:
    """Format with four significant digits, which is finer than the noise."""
    return f"{value:.4g}"


def _too(least: bool) -> str:
    return "little" if least else "much"


def _hint(failed: Sequence[Mapping[str, Any]]) -> str:
    unsettled = [verdict["gate"] for verdict in failed if not verdict["settled"]]
    more = (
        f"too few questions to settle {', '.join(unsettled)}: add more in `verify`; otherwise use"
        if unsettled
        else "use"
    )
    defaults = [verdict["gate"] for verdict in failed if verdict["origin"] != RECIPE]
    origin = f" (currently defaults: {', '.join(defaults)})" if defaults else ""
    return f"{more} a finer quantization, or set wider bounds in the recipe's `gates`{origin}"
