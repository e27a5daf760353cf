"""Shapes of the linear layers on one rank, which group sizes and packed formats must divide."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from mmbuild.models.checkpoint.tensor_table import tensors
from mmbuild.models.families.facts import LlmFacts, ModelFacts

GROUP_SIZES = (128, 64)
"""Group sizes (input features that share a scale) that TensorRT-LLM's kernels support, preferred one first."""


@dataclass(frozen=True, slots=True)
class Linear:
    """A linear layer on one rank.

    Attributes:
        name: Within a layer: ``attention.qkv``, ``mlp.proj``.
        outputs: Rows of its weight.
        inputs: Columns of its weight.
    """

    name: str
    outputs: int
    inputs: int


def stacks(facts: ModelFacts) -> tuple[LlmFacts, ...]:
    """The decoder and, if there is one, the encoder."""
    return (facts.llm,) if facts.encoder is None else (facts.llm, facts.encoder)


def linears(llm: LlmFacts, ranks: int) -> Iterator[Linear]:
    """The linear layers of one layer of ``llm``, split over ``ranks``; all layers and ranks are equal.

    The number of ranks must divide heads and MLP (:func:`divides`).
    """
    for spec in tensors(replace(llm, num_hidden_layers=1)):
        if spec.quantizable:
            outputs, inputs = spec.shape(llm, 0, ranks)
            yield Linear(spec.name.partition(".0.")[2].removesuffix(".weight"), outputs, inputs)


def divides(llm: LlmFacts, ranks: int) -> bool:
    """Whether heads and MLP of ``llm`` can be split over ``ranks``."""
    heads = llm.num_key_value_heads
    shared = heads % ranks == 0 or ranks % heads == 0
    return llm.num_attention_heads % ranks == 0 and llm.intermediate_size % ranks == 0 and shared


def unfit_for_groups(facts: ModelFacts, ranks: int, group: int) -> tuple[Linear, ...]:
    """Linear layers whose inputs on a rank are not a whole number of groups."""
    return _unfit(facts, ranks, lambda layer: layer.inputs % group != 0)


def unfit_for_pairs(facts: ModelFacts, ranks: int) -> tuple[Linear, ...]:
    """Linear layers whose outputs on a rank do not pack two to a byte."""
    return _unfit(facts, ranks, lambda layer: layer.outputs % 2 != 0)


def _unfit(facts: ModelFacts, ranks: int, condition: Callable[[Linear], bool]) -> tuple[Linear, ...]:
    unfit = (layer for llm in stacks(facts) for layer in linears(llm, ranks) if condition(layer))
    return tuple(dict.fromkeys(unfit))


def group_size(facts: ModelFacts, ranks: int) -> int | None:
    """The preferred group size that fits; None if none does."""
    if not all(divides(llm, ranks) for llm in stacks(facts)):
        return None
    return next((group for group in GROUP_SIZES if not unfit_for_groups(facts, ranks, group)), None)
