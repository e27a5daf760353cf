"""Settings that may not stand together: the table ``exclusive_settings.yaml`` as rules on recipes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from functools import cache
from importlib.resources import files
from typing import Any, Literal

import yaml

from mmbuild.base.diagnostics import Severity, Violation
from mmbuild.schema.model import Recipe

GIVEN: Literal["given"] = "given"


@dataclass(frozen=True, slots=True)
class Combination:
    """A row of the table.

    Attributes:
        code: Its code.
        when: Dotted keys to the values that they may not have together, or ``given`` for any value at all.
        message: Template over the keys of ``when``, ``{engine.backend}``.
        hint: What to do.
        severity: ``error`` or ``warning``.
    """

    code: str
    when: Mapping[str, tuple[Any, ...] | Literal["given"]]
    message: str
    hint: str
    severity: Severity = "error"

    def check(self, recipe: Recipe) -> Iterator[Violation]:
        """The fault, where ``recipe`` has the combination."""
        found = {key: _value(recipe, key) for key in self.when}
        if all(_meets(found[key], required) for key, required in self.when.items()):
            message = self.message
            for key, value in found.items():
                message = message.replace(f"{{{key}}}", str(value))
            yield Violation(self.code, tuple(self.when), message, self.hint, self.severity)


def _value(recipe: Recipe, key: str) -> Any:
    value: Any = recipe
    for part in key.split("."):
        value = getattr(value, part) if value is not None else None
    return value.value if isinstance(value, Enum) else value


def _meets(value: Any, required: tuple[Any, ...] | str) -> bool:
    return value is not None if required == GIVEN else value in required


@cache
def combinations() -> tuple[Combination, ...]:
    """Every row."""
    text = (files("mmbuild.schema") / "exclusive_settings.yaml").read_text(encoding="utf-8")
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    return tuple(_combination(**row) for row in yaml.load(text, Loader=loader))


def _combination(when: Mapping[str, Any], **rest: Any) -> Combination:
    values = {key: GIVEN if required == GIVEN else tuple(required) for key, required in when.items()}
    return Combination(when=values, **rest)
