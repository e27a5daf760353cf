"""Reads the tables."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any, Literal

import yaml

NAMES = ("transformers", "vllm", "sglang")
"""All programs with a table."""


@dataclass(frozen=True, slots=True)
class Modules:
    """Names of the linear modules of a model; ``{i}`` is the number of a layer.

    Attributes:
        decoder: What comes before the name of a module in a decoder layer.
        fused: Modules of a decoder layer that are run as one, by the fused module's name.
        known_parts: Whether a fused module is also looked up by the names of its parts.
        others: All other linear modules, which stay as they are.
    """

    decoder: str
    fused: Mapping[str, tuple[str, ...]]
    known_parts: bool
    others: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Kernel:
    """A kernel for one storage format, and what it takes.

    Attributes:
        name: Its name.
        sm: First and last compute capability.
        bits: Bits of a weight.
        groups: Inputs that share a scale; None: all inputs of an output.
        inputs: What the number of inputs on a rank must be a multiple of.
        outputs: The same for outputs.
        dtypes: Number formats of inputs.
    """

    name: str
    sm: tuple[int, int]
    bits: tuple[int, ...]
    groups: tuple[int | None, ...]
    inputs: int
    outputs: int
    dtypes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Heads:
    """Head sizes that an attention kernel takes.

    Attributes:
        name: Its name.
        multiple: What they must be a multiple of.
        least: The smallest.
        most: The largest.
    """

    name: str
    multiple: int
    least: int
    most: int


@dataclass(frozen=True, slots=True)
class Consumer:
    """A program that loads checkpoints.

    Attributes:
        name: As in recipes.
        title: As its users write it.
        version: The version whose sources were read.
        unmatched: What happens to a linear module that is neither a target nor ignored.
        families: Names of modules by family; a family that is missing is not supported.
        kernels: Kernels by storage format, preferred first; empty: there are no limits.
        heads: Attention kernels; empty: limits are not known.
    """

    name: str
    title: str
    version: str
    unmatched: Literal["unquantized", "refused"]
    families: Mapping[str, Modules]
    kernels: Mapping[str, tuple[Kernel, ...]]
    heads: tuple[Heads, ...]


@cache
def consumer(name: str) -> Consumer:
    """The table of a program, one of :data:`NAMES`."""
    text = (files(__package__) / f"{name}.yaml").read_text(encoding="utf-8")
    content = yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    return Consumer(
        name=content["consumer"],
        title=content["title"],
        version=content["version"],
        unmatched=content["unmatched"],
        families={family: _modules(entry) for family, entry in content["families"].items()},
        kernels={form: tuple(map(_kernel, rows)) for form, rows in content["kernels"].items()},
        heads=tuple(Heads(**row) for row in content["heads"]),
    )


def _modules(entry: Mapping[str, Any]) -> Modules:
    fused = {name: tuple(parts) for name, parts in entry["fused"].items()}
    return Modules(entry["decoder"], fused, entry["known_parts"], tuple(entry["others"]))


def _kernel(row: Mapping[str, Any]) -> Kernel:
    lists: dict[str, Any] = {
        key: tuple(value) if isinstance(value, list) else value for key, value in row.items()
    }
    return Kernel(**lists)
