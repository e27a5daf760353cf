"""Values of options with a unit: sizes in bytes, ages in seconds."""

from __future__ import annotations

import math
import re
from typing import Any

import click

_SHOWN = 40  # characters of a value
_SIZES = {"": 1, "b": 1} | {
    letter + b: 1000**power for power, letter in enumerate("kmgt", start=1) for b in ("", "b")
}
"""The empty unit is that of 0, which is the same in all units."""
_AGES = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}


class _Quantity(click.ParamType[float]):
    """A number with a unit: ``20GB``, ``30d``."""

    def __init__(self, name: str, units: dict[str, int], pattern: str, example: str) -> None:
        self.name, self.units, self.pattern, self.example = name, units, pattern, example

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        if isinstance(value, (int, float)):
            return value
        match = re.fullmatch(self.pattern, str(value).strip().lower())
        if match is None:
            self.fail(f"invalid {self.name} {value!r}: expected for example {self.example}", param, ctx)
        return _finite(self, float(match[1]) * self.units[match[2]], value, param, ctx)


class FiniteRange(click.FloatRange):
    """A range of numbers without NaN, which compares with nothing, and without infinity."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """As of click."""
        return _finite(self, super().convert(value, param, ctx), value, param, ctx)


def _finite(
    kind: click.ParamType[float],
    number: float,
    value: Any,
    param: click.Parameter | None,
    ctx: click.Context | None,
) -> float:
    if not math.isfinite(number):
        kind.fail(f"{str(value)[:_SHOWN]} is not a finite number.", param, ctx)
    return number


SIZE = _Quantity("size", _SIZES, r"(\d+(?:\.\d+)?)\s*([kmgt]?b|[kmgt]|(?<=^0))", "500MB or 20GB")
AGE = _Quantity("age", _AGES, r"(\d+(?:\.\d+)?)\s*([smhdw])", "12h or 30d")
