"""Number formats that GPUs and layer sizes allow: loads and queries ``gpus.yaml``."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Annotated

from pydantic import BeforeValidator, Field

from mmbuild.backends.tensorrt_llm.toolchains.load import version_facts
from mmbuild.backends.tensorrt_llm.toolchains.model import Part, entries
from mmbuild.backends.tensorrt_llm.toolchains.template import fill
from mmbuild.models.families.facts import ModelFacts
from mmbuild.schema.linear_shapes import Linear, divides, linears, stacks

Sm = Annotated[int, Field(ge=0, le=199)]


class GpuRow(Part):
    """GPUs that run some formats. ``reason`` is a template over ``format``."""

    formats: tuple[str, ...] = ()
    sm: Annotated[tuple[tuple[Sm, Sm], ...], Field(min_length=1)]
    reason: str
    hint: str
    evidence: str


class PackingRow(Part):
    """Layer sizes that some formats can be packed in."""

    formats: tuple[str, ...]
    multiple: Annotated[int, Field(ge=2)]
    evidence: str


class Cuda(Part):
    """CUDA major version, and where the version's own files say it."""

    version: int
    evidence: str


class Formats(Part):
    """``gpus.yaml``."""

    cuda: Cuda | None = None
    gpus: Annotated[tuple[GpuRow, ...], BeforeValidator(entries)]
    packing: Annotated[tuple[PackingRow, ...], BeforeValidator(entries)]


@cache
def tables(version: str) -> Formats:
    """Both tables of ``version``."""
    return Formats.model_validate(version_facts(version, "gpus"))


def gpu_objection(version: str, formats: Sequence[str], sm: int) -> tuple[str, str, str | None] | None:
    """Why ``version`` does not run ``formats`` (a quantization and a dtype) on a GPU of capability ``sm``.

    Returns:
        The reason, the alternative, and the format responsible (None: the GPU itself is not supported).
    """
    for row in tables(version).gpus:
        affected = [name for name in formats if name in row.formats] if row.formats else [None]
        inside = any(low <= sm <= high for low, high in row.sm)
        if not inside and affected:
            return fill(row.reason, {"format": affected[0]}), row.hint, affected[0]
    return None


def multiple_of(version: str, algorithm: str) -> int:
    """The number that rows and columns of weights in ``algorithm`` must be a multiple of."""
    return next((row.multiple for row in tables(version).packing if algorithm in row.formats), 1)


def unpackable(version: str, facts: ModelFacts, algorithm: str, ranks: int) -> tuple[Linear, ...]:
    """Linear layers that cannot be packed when split over ``ranks``; empty if they cannot be split at all."""
    multiple = multiple_of(version, algorithm)
    layers = (
        layer
        for llm in stacks(facts)
        if divides(llm, ranks)
        for layer in linears(llm, ranks)
        if layer.inputs % multiple or layer.outputs % multiple
    )
    return tuple(dict.fromkeys(layers))
