"""The table of transformers' generation settings: what mmbuild does with each field of ``GenerationConfig``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any, Literal

import yaml

Effect = Literal["obeyed", "beams", "reported", "none"]


@dataclass(frozen=True, slots=True)
class Field:
    """One field of transformers' ``GenerationConfig``; see ``generation_settings.yaml``."""

    name: str
    effect: Effect
    why: str
    form: str | None = None
    neutral: tuple[Any, ...] = ()
    values: tuple[Any, ...] | None = None
    beams_only: bool = False

    def changes(self, value: Any) -> bool:
        """Whether ``value`` changes anything."""
        if value is None or value in self.neutral or (self.form == "tokens" and not value):
            return False
        if self.form == "count":
            return bool(value > 0)
        return self.values is None or value in self.values


@cache
def fields() -> Mapping[str, Field]:
    """The table of fields, by name."""
    return {name: _field(name, **row) for name, row in _table()["fields"].items()}


def _field(name: str, neutral: list[Any] | None = None, values: list[Any] | None = None, **row: Any) -> Field:
    return Field(name, neutral=tuple(neutral or ()), values=None if values is None else tuple(values), **row)


@cache
def dropped_by_config_classes() -> frozenset[str]:
    """Fields that a config class of transformers 5 drops from its section of a ``config.json``."""
    return frozenset(_table()["dropped_by_config_classes"])


@cache
def _table() -> Mapping[str, Any]:
    text = files("mmbuild.models").joinpath("generation_settings.yaml").read_text(encoding="utf-8")
    table: Mapping[str, Any] = yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    return table
