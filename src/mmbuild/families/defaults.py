"""Defaults that Hugging Face leaves out of ``config.json``."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Any

import yaml


@cache
def _table() -> Mapping[str, Mapping[str, Any]]:
    text = files("mmbuild.families").joinpath("defaults.yaml").read_text(encoding="utf-8")
    table: Mapping[str, Mapping[str, Any]] = yaml.load(
        text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    )
    return table


def with_defaults(model_type: str, section: Mapping[str, Any]) -> Mapping[str, Any]:
    """``section`` over the defaults of transformers' config class for ``model_type``."""
    return {**_table()[model_type], **section}
