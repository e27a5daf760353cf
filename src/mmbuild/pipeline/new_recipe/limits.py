"""Number formats and limits of an engine that fit into a machine's memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from mmbuild.backends.lowering import estimate
from mmbuild.backends.lowering.running_memory import RunningMemory, running_memory
from mmbuild.models.families import family
from mmbuild.models.families.facts import ModelFacts

# Tokens of text in a prompt, and of an answer, where the model has room for them.
_TEXT, _ANSWER = 448, 256
_LEAST_TEXT, _LEAST_ANSWER = 16, 16
_BATCHES: Mapping[str, tuple[int, ...]] = {"cuda": (8, 4, 2, 1), "cpu": (1,)}
_SHARE = 0.9  # of the memory


@dataclass(frozen=True, slots=True)
class Machine:
    """What an engine is to run on.

    Attributes:
        device: ``cuda`` or ``cpu``.
        memory: Bytes of the GPU, or of the host; 0 if unknown.
    """

    device: str
    memory: int


@dataclass(frozen=True, slots=True)
class Limits:
    """An engine's number formats and limits, with the names of a recipe.

    Attributes:
        dtype: ``engine.dtype``.
        quantization: ``engine.quantization``.
        max_batch_size: ``engine.max_batch_size``.
        max_input_len: ``engine.max_input_len``.
        max_output_len: ``engine.max_output_len``.
        text: Tokens of text that a prompt has room for.
        needs: What the engine takes.
        fits: Whether that is within the machine's memory.
        verify_memory: Bytes of host memory that comparing the engine with the model takes.
    """

    dtype: str
    quantization: str
    max_batch_size: int
    max_input_len: int
    max_output_len: int
    text: int
    needs: RunningMemory
    fits: bool
    verify_memory: int


def fitting(facts: ModelFacts, config: Mapping[str, Any], machine: Machine) -> Limits:
    """The least quantized engine that fits, for as many prompts together as fit; the smallest if none does."""
    dtype = _dtype(facts, config, machine.device)
    text, prompt, answer = _lengths(facts)
    verifying = estimate.sizes([facts.llm, *filter(None, [facts.encoder])], dtype, "none").verify_memory
    found: Limits | None = None
    for quantization, batch in _candidates(facts, machine.device):
        needs = running_memory(facts, dtype, quantization, batch, prompt, answer)
        fits = not machine.memory or needs.total <= _SHARE * machine.memory
        found = Limits(dtype, quantization, batch, prompt, answer, text, needs, fits, verifying)
        if fits:
            return found
    assert found is not None
    return found


def _candidates(facts: ModelFacts, device: str) -> Iterator[tuple[str, int]]:
    traits = family(facts.family).TRAITS
    # Weights of encoder-decoders cannot be quantized.
    formats = ("none",) if traits.encoder_decoder or traits.cross_attention else ("none", "int8", "int4")
    for quantization in formats:
        for batch in _BATCHES[device]:
            yield quantization, batch


def _dtype(facts: ModelFacts, config: Mapping[str, Any], device: str) -> str:
    """float32 on a CPU; on a GPU the 16-bit format of the weights, or the one that the family allows."""
    allowed = family(facts.family).TRAITS.dtypes
    if device == "cpu":
        return "float32"
    text = config.get("text_config")
    stated = [
        str(part.get("dtype") or part.get("torch_dtype")).removeprefix("torch.")
        for part in (config, text if isinstance(text, Mapping) else {})
    ]
    halves = [name for name in ("float16", "bfloat16") if name in allowed]
    return next((name for name in stated if name in halves), halves[0])


def _lengths(facts: ModelFacts) -> tuple[int, int, int]:
    """Tokens of text in a prompt, of the whole prompt, and of an answer."""
    traits, most = family(facts.family).TRAITS, facts.llm.max_position_embeddings
    if traits.cross_attention:
        return 0, 1, most - 1  # a page's markup is as long as the decoder can write
    features = facts.visual.num_visual_features
    if traits.encoder_decoder:  # prompts and answers do not share positions
        return _TEXT, features + _TEXT, _ANSWER
    room = most - features if most else _TEXT + _ANSWER
    answer = max(_LEAST_ANSWER, min(_ANSWER, room // 3))
    text = max(_LEAST_TEXT, min(_TEXT, room - answer))
    return text, features + text, answer
