"""Keys, defaults and aliases of transformers' config classes, from ``fields.yaml`` and ``defaults.yaml``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from typing import Any

import yaml


@dataclass(frozen=True, slots=True)
class ConfigClass:
    """A config class of transformers; ``fields.yaml`` documents the tables.

    Attributes:
        fields: Types of values by key: ``int|ints?``.
        defaults: Values of missing keys; null if there is no default.
        aliases: Other names of keys.
        sections: Sections that are configs, and the replacement for a missing one.
        multiples: Pairs of a width and a number of heads that must divide it.
        choices: Allowed strings by key.
        within: Lower and upper bounds of numbers.
    """

    fields: Mapping[str, str]
    defaults: Mapping[str, Any]
    aliases: Mapping[str, str] = field(default_factory=dict)
    sections: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    multiples: Sequence[tuple[str, str]] = ()
    choices: Mapping[str, Sequence[str]] = field(default_factory=dict)
    within: Mapping[str, tuple[float, float]] = field(default_factory=dict)


@cache
def table(name: str) -> Mapping[str, Any]:
    """Load a YAML file of this package."""
    text = files("mmbuild.models.families").joinpath(name).read_text(encoding="utf-8")
    content: Mapping[str, Any] = yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    return content


@cache
def config_class(model_type: str) -> ConfigClass:
    """The config class of transformers for ``model_type``.

    Raises:
        KeyError: No family reads such a config.
    """
    rules, every = table("fields.yaml")[model_type], table("fields.yaml")["every"]
    defaults = {**every["defaults"], **table("defaults.yaml").get(model_type, {})}
    choices = {**every["choices"], **rules.get("choices", {})}
    return ConfigClass(**{**rules, "choices": choices}, defaults=defaults)
