"""Gates: what is measured of each, and the verdicts.

A gate passes exactly when its measured value is within its bound. The 95 % interval says how firm that is: where
it holds the bound, the questions do not settle the matter, and that is said with the verdict. Refusing a sound
engine costs another look; publishing a broken one costs its users.
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
    """An engine that failed its gates."""


@dataclass(frozen=True, slots=True)
class Quantity:
    """What a gate bounds.

    Attributes:
        title: For people.
        unit: After a number, with its space; may be empty.
        measure: From a report's questions.
        least: Whether the bound is a least value; else a largest.
    """

    title: str
    unit: str
    measure: Callable[[Questions], Estimate]
    least: bool


def _agreement(questions: Questions) -> Estimate:
    return statistics.share([one["answers"]["engine"] == one["answers"]["reference"] for one in questions])


def _tokens(questions: Questions) -> list[int]:
    """Tokens of each of the reference's answers, its end token included."""
    return [len(one["reference_tokens"]) for one in questions]


def _kl(questions: Questions) -> Estimate:
    found = statistics.ratio([sum(one["kl"]) for one in questions], _tokens(questions))
    return statistics.transform(found, lambda value: max(value, 0.0))


def _perplexity_ratio(questions: Questions) -> Estimate:
    parts = [sum(one["reference_log_probs"]) - sum(one["engine_log_probs"]) for one in questions]
    return statistics.transform(statistics.ratio(parts, _tokens(questions)), _exp)


def _exp(value: float) -> float:
    return math.exp(min(value, 700.0))  # beyond, a float overflows; any gate has failed long before


def _prefix(questions: Questions) -> Estimate:
    # An answer that is equal to its end would be equal however long it were: it counts for the whole length.
    return statistics.mean(
        [one["equal_prefix"] if one["difference"] is not None else one["max_new_tokens"] for one in questions]
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
    """Every quantity of a report's questions, whether a gate bounds it or not.

    Each mean over tokens is over the tokens of the reference's answers, up to and including the end token.
    """
    return {name: _plain(QUANTITIES[name].measure(questions)) for name in NAMES}


def gate_verdicts(quality: Mapping[str, Any], bounds: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A verdict for each gate of ``bounds``, as plain data.

    Args:
        quality: Of :func:`measure_quantities`.
        bounds: Of :func:`mmbuild.evaluation.bounds.bounds`.
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


def _verdict(name: str, bound: float, found: Mapping[str, Any]) -> dict[str, bool]:
    value, interval = found["value"], found["interval"]
    passed = value >= bound if QUANTITIES[name].least else value <= bound
    settled = interval is not None and not interval[0] <= bound <= interval[1]
    # An interval of no width at the bound itself: every question gave the same.
    exact = interval is not None and interval[0] == interval[1]
    return {"passed": passed, "settled": settled or exact}


def require(verdicts: Sequence[Mapping[str, Any]]) -> None:
    """Refuse an engine that failed a gate.

    Raises:
        GateError: MM590, with every failed gate, its value, its bound and by how much.
    """
    failed = [verdict for verdict in verdicts if not verdict["passed"]]
    if failed:
        text = "; ".join(describe(verdict) for verdict in failed)
        raise GateError(f"the engine fails its gates: {text}", code="MM590", hint=_hint(failed))


def describe(verdict: Mapping[str, Any]) -> str:
    """A verdict in one sentence."""
    quantity = QUANTITIES[verdict["gate"]]
    value, bound = verdict["value"], verdict["bound"]
    limit = "at least" if quantity.least else "at most"
    by = "" if verdict["passed"] else f", {number(abs(value - bound))} too {_too(quantity.least)}"
    return (
        f"{verdict['gate']}: {quantity.title} {number(value)}{quantity.unit}, {limit} {number(bound)}{by} "
        f"({noise(verdict)})"
    )


def noise(found: Mapping[str, Any]) -> str:
    """How many questions a value is of, and its 95 % interval."""
    count = found["samples"]
    request = f"{count} question{'' if count == 1 else 's'}"
    if found["interval"] is None:
        return f"{request}, too few for an interval"
    low, high = found["interval"]
    return f"{request}, 95 % interval {number(low)} to {number(high)}"


def number(value: float) -> str:
    """Four digits are more than the noise leaves."""
    return f"{value:.4g}"


def _too(least: bool) -> str:
    return "little" if least else "much"


def _hint(failed: Sequence[Mapping[str, Any]]) -> str:
    unsettled = [verdict["gate"] for verdict in failed if not verdict["settled"]]
    more = (
        f"Too few questions to settle {', '.join(unsettled)}: ask more in `verify`. Else use"
        if unsettled
        else "Use"
    )
    own = [verdict["gate"] for verdict in failed if verdict["origin"] != RECIPE]
    where = f", which are defaults ({', '.join(own)})" if own else ""
    return f"{more} a finer quantization, or set wider bounds in the recipe's `gates`{where}"
