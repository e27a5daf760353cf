"""The tables of this package, read and judged."""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import Any

import yaml

from mmbuild.backends.tensorrt_llm.output_checks.model import Rules, Tables


def table(name: str) -> Any:
    """Content of a YAML file of this package."""
    text = (files("mmbuild.backends.tensorrt_llm.output_checks") / name).read_text(encoding="utf-8")
    return yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))


@cache
def rules() -> Rules:
    """What each command must leave."""
    return Rules.model_validate(table("rules.yaml"))


@cache
def tables() -> Tables:
    """Names of tensors."""
    return Tables.model_validate(table("tensors.yaml"))
