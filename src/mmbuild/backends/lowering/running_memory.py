"""Memory that an engine takes while it runs: an estimate from the model's sizes and the recipe's limits."""

from __future__ import annotations

from dataclasses import dataclass

from mmbuild.backends.lowering import estimate
from mmbuild.base.formatting import size_text
from mmbuild.models.families.facts import ModelFacts
from mmbuild.schema.model import Backend, Device
from mmbuild.schema.resolved import ResolvedRecipe

# Activations, compiled code, and what the libraries take.
_WORK = estimate.GIB + estimate.GIB // 2


@dataclass(frozen=True, slots=True)
class RunningMemory:
    """Bytes that an engine takes while it runs, on all ranks together.

    Attributes:
        weights: The LLM's.
        caches: Key-value caches of all sequences at their full length.
        tower: Weights of the visual engine.
    """

    weights: int
    caches: int
    tower: int

    @property
    def total(self) -> int:
        """All of it, and room to work in."""
        return self.weights + self.caches + self.tower + _WORK

    def text(self) -> str:
        """What it consists of."""
        return (
            f"weights {size_text(self.weights)}, caches {size_text(self.caches)}, "
            f"tower {size_text(self.tower)}, {size_text(_WORK)} to work in"
        )


def running_memory(
    facts: ModelFacts, dtype: str, quantization: str, sequences: int, input_len: int, output_len: int
) -> RunningMemory:
    """The memory of an engine.

    Args:
        facts: The model.
        dtype: ``engine.dtype``.
        quantization: ``engine.quantization.algorithm``.
        sequences: Prompts times beams.
        input_len: ``engine.max_input_len``.
        output_len: ``engine.max_output_len``.
    """
    stacks = [facts.llm, *([facts.encoder] if facts.encoder else [])]
    slots = input_len + output_len
    if facts.encoder is not None:  # the decoder has a start token, and attends to the encoded prompt
        slots = 1 + output_len + input_len
    elif facts.llm.cross_attention:
        slots += facts.visual.num_visual_features
    return RunningMemory(
        weights=estimate.sizes(stacks, dtype, quantization).quantized,
        caches=estimate.cache_memory(facts.llm, dtype, sequences, slots),
        tower=estimate.visual_size(facts.visual, dtype),
    )


def memory_line(variant: ResolvedRecipe, *, on_cpu: bool) -> tuple[str, int]:
    """A sentence about the memory that a variant's engine takes, and the bytes of it that the host must have.

    Args:
        variant: The recipe.
        on_cpu: Whether a recipe that names no device is built for a CPU.

    Returns:
        The bytes are 0 for an engine that runs on a GPU, and for a checkpoint, which other programs run.
    """
    engine = variant.recipe.engine
    needs = running_memory(
        variant.facts,
        engine.dtype.value,
        engine.quantization.algorithm.value,
        engine.max_batch_size * engine.max_beam_width,
        engine.max_input_len,
        engine.max_output_len,
    )
    sentence = f"takes about {size_text(needs.total)} of memory to run:\n  {needs.text()}"
    target = variant.recipe.target
    runs_on_cpu = on_cpu if target is None or target.device is None else target.device is Device.CPU
    return sentence, needs.total if runs_on_cpu and engine.backend == Backend.TORCH else 0
