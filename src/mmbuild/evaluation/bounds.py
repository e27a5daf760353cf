"""Bounds of gates: those a recipe states, and the defaults for the others."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from types import MappingProxyType
from typing import Any

import yaml

from mmbuild.models.checkpoint.calibrated_layout import ALGORITHMS

NAMES = ("min_answer_agreement", "max_kl", "max_perplexity_ratio", "min_greedy_prefix")
"""Gates, in the order of the report."""

RECIPE, DEFAULT = "recipe", "default"

# For engines whose recipe is unknown: the algorithm by its name in the checkpoint.
_ALGORITHM: Mapping[str, str] = MappingProxyType(
    {"W8A16": "int8", "W4A16": "int4", **{how.quant_algo: name for name, how in ALGORITHMS.items()}}
)


@cache
def defaults() -> Mapping[str, Mapping[str, float]]:
    """``gates.yaml``: default bounds by algorithm and gate."""
    text = (files("mmbuild.evaluation") / "gates.yaml").read_text(encoding="utf-8")
    return MappingProxyType(yaml.safe_load(text))


def bounds(algorithm: str, stated: Mapping[str, float | None], *, dummy: bool = False) -> dict[str, Any]:
    """The gates of a build as plain data, ``{gate: {"bound", "origin"}}``.

    Args:
        algorithm: As in recipes. ``none`` has no defaults: such an engine must be identical up to rounding.
        stated: The recipe's ``gates``; None counts as absent.
        dummy: Whether the weights are random; defaults do not apply to those.
    """
    default = {} if dummy else defaults().get(algorithm, {})
    gates: dict[str, Any] = {}
    for name in NAMES:
        if stated.get(name) is not None:
            gates[name] = {"bound": stated[name], "origin": RECIPE}
        elif name in default:
            gates[name] = {"bound": default[name], "origin": DEFAULT}
    return gates


def usual_bounds(quant_algo: str | None) -> dict[str, Any]:
    """Default gates of an engine whose recipe is unknown, by its checkpoint's ``quant_algo``."""
    return bounds(_ALGORITHM.get(quant_algo or "", "none"), {})
