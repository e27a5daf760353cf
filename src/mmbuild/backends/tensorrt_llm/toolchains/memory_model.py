"""Predicts the host and GPU memory of a toolchain's commands from shapes.

The factors and their evidence are in ``memory.yaml`` of a version. Predictions reject a build that cannot fit before
it starts (a command killed for memory has run for minutes), and decide which commands run concurrently.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from math import prod
from typing import Annotated, Literal

from pydantic import Field

from mmbuild.backends.tensorrt_llm.toolchains.load import version_facts
from mmbuild.backends.tensorrt_llm.toolchains.model import Part, Toolchain
from mmbuild.models.checkpoint.tensor_table import tensors
from mmbuild.models.families.facts import LlmFacts, VisualFacts
from mmbuild.schema.model import Algorithm, Family
from mmbuild.schema.resolved import ResolvedRecipe

Quantity = Literal["base", "model", "checkpoint", "rank", "tower"]
Factors = dict[Quantity, Annotated[float, Field(ge=0)]]

_DTYPE_BYTES: Mapping[str, int] = {"float32": 4, "float16": 2, "bfloat16": 2}
# Weights of linear layers; the 2-byte scales, one per 64 or 128 weights, are rounded up to 1/32.
_QUANTIZED_BYTES: Mapping[Algorithm, float] = {
    Algorithm.INT8: 1,
    Algorithm.INT4: 0.5,
    Algorithm.INT4_AWQ: 0.5 + 1 / 32,
    Algorithm.SMOOTHQUANT: 1,
    Algorithm.FP8: 1,
}
_TOWER_BYTES = 2


@dataclass(frozen=True, slots=True)
class Memory:
    """Peak memory of a step, bytes.

    Attributes:
        host: Anonymous host memory.
        gpu: Memory of the GPU that it runs on; the total of all GPUs if upstream's loader spreads a model over them
            (convert, quantize). 0 if it needs no GPU.
    """

    host: int
    gpu: int


class Row(Part):
    """Factors of a step for some families; all if left out."""

    families: tuple[Family, ...] = ()
    load: Literal[2, 4] = 2
    host: Factors
    gpu: Factors
    kind: Literal["measured", "read", "estimate"]
    evidence: str


class Table(Part):
    """``memory.yaml``."""

    convert: tuple[Row, ...]
    quantize: tuple[Row, ...]
    build_llm: tuple[Row, ...]
    build_visual: tuple[Row, ...]


@cache
def table(version: str) -> Table:
    """The content of ``memory.yaml`` of ``version``."""
    return Table.model_validate(version_facts(version, "memory"))


def predict(step: str, variant: ResolvedRecipe, toolchain: Toolchain) -> Memory:
    """Peak memory of ``step`` (a field of :class:`Table`) for ``variant`` with ``toolchain``."""
    family = variant.facts.family
    rows: tuple[Row, ...] = getattr(table(toolchain.version), step)
    row = next(row for row in rows if family in (row.families or (family,)))
    known = _quantities(step, variant, toolchain, row.load)
    return Memory(host=_sum(row.host, known), gpu=_sum(row.gpu, known))


def _sum(factors: Factors, known: Mapping[Quantity, float]) -> int:
    return int(sum(factor * known[name] for name, factor in factors.items()))


def _quantities(
    step: str, variant: ResolvedRecipe, toolchain: Toolchain, load: int
) -> Mapping[Quantity, float]:
    engine, facts = variant.recipe.engine, variant.facts
    stacks = [facts.llm] + ([facts.encoder] if facts.encoder is not None else [])
    tower = tower_parameters(facts.visual)
    # If the text model is a separate source, its converter never loads the visual tower.
    text_only = step == "convert" and toolchain.families[facts.family].weights == "text"
    # All ranks have the same size: dimensions that do not divide are padded.
    dtype, algorithm = engine.dtype.value, engine.quantization.algorithm
    rank = sum(rank_bytes(stack, engine.tensor_parallel, dtype, algorithm) for stack in stacks)
    return {
        "base": 1,
        "model": load * (sum(map(parameters, stacks)) + (0 if text_only else tower)),
        "checkpoint": rank * engine.tensor_parallel,
        "rank": rank,
        "tower": _TOWER_BYTES * tower,
    }


def parameters(llm: LlmFacts) -> int:
    """Number of weights of a stack, as stored in the model."""
    return sum(prod(part.shape) for spec in tensors(llm) for part in spec.parts)


def rank_bytes(llm: LlmFacts, ranks: int, dtype: str, algorithm: Algorithm) -> int:
    """Bytes of one rank's file in the checkpoint; scales are approximated."""
    plain = _DTYPE_BYTES[dtype]
    quantized = _QUANTIZED_BYTES.get(algorithm, plain)
    sizes = (
        (prod(spec.shape(llm, 0, ranks)), quantized if spec.quantizable else plain) for spec in tensors(llm)
    )
    return int(sum(count * item for count, item in sizes))


def tower_parameters(visual: VisualFacts) -> int:
    """Number of weights in the layers of a visual tower: attention and MLP; the projector is negligible."""
    layer = 4 * visual.hidden_size**2 + 2 * visual.hidden_size * visual.intermediate_size
    return layer * visual.num_hidden_layers
