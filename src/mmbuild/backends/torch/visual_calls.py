"""The calls of a visual engine's packages: which package runs when, with which activations and weights.

``calls.json`` lists them, with the fields of :class:`Calls` and :class:`Call`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mmbuild.backends.visual.config import read_checked
from mmbuild.base.field_checks import integer, list_of, record, text, wrong

CALLS = "calls.json"
_MOST_CALLS, _MOST_INPUTS = 4_096, 4_096
_LONGEST_NAME = 200


def _package(value: Any, name: str) -> str | None:
    """The name of a file in the engine's directory, without its ending."""
    good = isinstance(value, str) and 0 < len(value) <= _LONGEST_NAME and value.isidentifier()
    return None if good and value.isascii() else wrong(value, name, "the name of a package")


_VALUE = integer(0, _MOST_CALLS * _MOST_INPUTS)
_FORM = record(
    {
        "calls": list_of(
            record(
                {
                    "package": _package,
                    "values": list_of(_VALUE, _MOST_INPUTS),
                    "weights": list_of(text(1_000, least=1), _MOST_INPUTS),
                    "outputs": integer(1, _MOST_INPUTS),
                }
            ),
            _MOST_CALLS,
            least=1,
        ),
        "result": _VALUE,
    }
)


@dataclass(frozen=True, slots=True)
class Call:
    """A call of a package.

    Attributes:
        package: Name of the package, without ``.pt2``.
        values: Numbers of the activations that it takes: 0 is the engine's input, then come the outputs of the calls
            in their order.
        weights: Names of the tensors that it takes after the activations.
        outputs: Number of its outputs.
    """

    package: str
    values: tuple[int, ...]
    weights: tuple[str, ...]
    outputs: int


@dataclass(frozen=True, slots=True)
class Calls:
    """A sequence of calls.

    Attributes:
        calls: The calls in their order.
        result: Number of the value that the engine returns.
    """

    calls: tuple[Call, ...]
    result: int

    def last_uses(self) -> list[tuple[int, ...]]:
        """For every call, the numbers of the values that no later call takes; the result is not among them."""
        last = {value: number for number, call in enumerate(self.calls) for value in call.values}
        last.pop(self.result, None)
        values: list[list[int]] = [[] for _ in self.calls]
        for value, number in last.items():
            values[number].append(value)
        return [tuple(numbers) for numbers in values]


def write(directory: Path, calls: Calls) -> None:
    """Write ``calls.json``."""
    content = json.dumps(asdict(calls), indent=1, sort_keys=True)
    (directory / CALLS).write_text(content + "\n", encoding="utf-8")


def read(directory: Path) -> Calls:
    """Read and validate ``calls.json``: every call takes values that exist when it runs.

    Raises:
        EngineError: MM501, it is missing or damaged.
    """
    data = read_checked(
        directory / CALLS,
        lambda data: _FORM(data, "") or _unknown_value(data["calls"], data["result"]),
    )
    calls = tuple(
        Call(item["package"], tuple(item["values"]), tuple(item["weights"]), item["outputs"])
        for item in data["calls"]
    )
    return Calls(calls, data["result"])


def _unknown_value(calls: Sequence[dict[str, Any]], result: int) -> str | None:
    known = 1
    for number, call in enumerate(calls):
        unknown = next((value for value in call["values"] if value >= known), None)
        if unknown is not None:
            return f"`calls[{number}].values` has {unknown:,}, but only {known:,} values exist at that call"
        known += call["outputs"]
    return None if result < known else f"`result` is {result:,}, but there are {known:,} values"
