"""Rules against mutually exclusive settings, from the table ``exclusive_settings.yaml``."""

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
    """A row of the table: settings that exclude each other.

    Attributes:
        code: Code of the violation.
        when: Dotted keys with the values that they must not have together; ``given`` stands for any value.
        message: Template with the keys of ``when`` as fields, such as ``{engine.backend}``.
        hint: What to do.
        severity: ``error`` or ``warning``.
    """

    code: str
    when: Mapping[str, tuple[Any, ...] | Literal["given"]]
    message: str
    hint: str
    severity: Severity = "error"

    def check(self, recipe: Recipe) -> Iterator[Violation]:
        """Yield a violation if ``recipe`` has the combination."""
        values = {key: _value(recipe, key) for key in self.when}
        if all(_matches(values[key], required) for key, required in self.when.items()):
            message = self.message
            for key, value in values.items():
                message = message.replace(f"{{{key}}}", str(value))
            yield Violation(self.code, tuple(self.when), message, self.hint, self.severity)


def _value(recipe: Recipe, key: str) -> Any:
    value: Any = recipe
    for part in key.split("."):
        value = getattr(value, part) if value is not None else None
    return value.value if isinstance(value, Enum) else value


def _matches(value: Any, required: tuple[Any, ...] | str) -> bool:
    return value is not None if required == GIVEN else value in required


@cache
def combinations() -> tuple[Combination, ...]:
    """All rows of the table."""
    text = (files("mmbuild.schema") / "exclusive_settings.yaml").read_text(encoding="utf-8")
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    return tuple(_combination(**row) for row in yaml.load(text, Loader=loader))


def _combination(when: Mapping[str, Any], **rest: Any) -> Combination:
    values = {key: GIVEN if required == GIVEN else tuple(required) for key, required in when.items()}
    return Combination(when=values, **rest)
