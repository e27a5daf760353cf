"""Number formats against GPUs and layer sizes: the tables of ``gpu_formats.yaml``, read and asked."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from typing import Annotated

import yaml
from pydantic import Field

from mmbuild.backends.tensorrt_llm.toolchains.model import Part
from mmbuild.backends.tensorrt_llm.toolchains.template import fill
from mmbuild.models.families.facts import ModelFacts
from mmbuild.schema.linear_shapes import Linear, divides, linears, stacks

Sm = Annotated[int, Field(ge=0, le=199)]


class GpuRow(Part):
    """GPUs that formats run on. ``reason`` is a template over ``format``."""

    toolchains: tuple[str, ...] = ()
    formats: tuple[str, ...] = ()
    sm: Annotated[tuple[tuple[Sm, Sm], ...], Field(min_length=1)]
    reason: str
    way: str
    evidence: str


class PackingRow(Part):
    """Sizes that formats can be packed in."""

    formats: tuple[str, ...]
    multiple: Annotated[int, Field(ge=2)]
    evidence: str


class Formats(Part):
    """``gpu_formats.yaml``."""

    gpus: tuple[GpuRow, ...]
    packing: tuple[PackingRow, ...]


@cache
def tables() -> Formats:
    """Both tables.

    Raises:
        pydantic.ValidationError: The file is not of the form (a mistake of ours, found by tests).
    """
    text = (files("mmbuild.backends.tensorrt_llm.toolchains") / "gpu_formats.yaml").read_text(
        encoding="utf-8"
    )
    return Formats.model_validate(yaml.safe_load(text))


def gpu_objection(version: str, formats: Sequence[str], sm: int) -> tuple[str, str, str | None] | None:
    """Why ``version`` does not run ``formats`` (a quantization and a dtype) on a GPU of capability ``sm``.

    Returns:
        The reason, what to do instead, and the format that stands in the way (None: it is the GPU itself).
    """
    for row in tables().gpus:
        concerned = [name for name in formats if name in row.formats] if row.formats else [None]
        inside = any(low <= sm <= high for low, high in row.sm)
        if not inside and concerned and version in (row.toolchains or (version,)):
            return fill(row.reason, {"format": concerned[0]}), row.way, concerned[0]
    return None


def multiple_of(algorithm: str) -> int:
    """What rows and columns of weights in ``algorithm`` must be a multiple of."""
    return next((row.multiple for row in tables().packing if algorithm in row.formats), 1)


def unpackable(facts: ModelFacts, algorithm: str, ranks: int) -> tuple[Linear, ...]:
    """Linear layers that cannot be packed when split over ``ranks``; none where they cannot be split at all."""
    multiple = multiple_of(algorithm)
    found = (
        layer
        for llm in stacks(facts)
        if divides(llm, ranks)
        for layer in linears(llm, ranks)
        if layer.inputs % multiple or layer.outputs % multiple
    )
    return tuple(dict.fromkeys(found))
