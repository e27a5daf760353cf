"""What every family tells the rest of mmbuild about a model, read from the model's own configuration.

A family module turns ``config.json`` into :class:`ModelFacts`: plain numbers, each with the arithmetic it
came from. Nothing here imports torch or transformers, so that a recipe is validated and planned in
milliseconds; defaults that Hugging Face leaves out of ``config.json`` are data in ``defaults.yaml``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from mmbuild.errors import MmbuildError


class FamilyError(MmbuildError):
    """A ``config.json`` that is not of the family, or lacks what the family needs."""


@dataclass(frozen=True, slots=True)
class Derivation:
    """A number and where it comes from.

    Attributes:
        name: What the number is called in recipes and reports.
        value: The number.
        arithmetic: How it follows, spelt out with values: ``(336 / 14)^2 = 576``.
    """

    name: str
    value: int
    arithmetic: str


@dataclass(frozen=True, slots=True)
class LlmFacts:
    """Sizes of the language model, under the names of TensorRT-LLM's unified checkpoint config.

    Attributes:
        architecture: TensorRT-LLM's architecture name (``LlamaForCausalLM``).
        vocab_size: Rows of the embedding table.
        hidden_size: Width of the residual stream.
        num_hidden_layers: Decoder layers.
        num_attention_heads: Query heads.
        num_key_value_heads: Key and value heads (grouped-query attention where fewer).
        head_size: Width of one head.
        intermediate_size: Width of the MLP.
        hidden_act: Activation name (``silu``).
        norm_epsilon: Epsilon of the norms.
        max_position_embeddings: Positions the model was made for.
        position_embedding_type: ``rope_gpt_neox``, ``learned_absolute`` or ``relative``.
        rotary_base: Base of the rotary frequencies, None where positions are not rotary.
        rotary_scaling: Hugging Face's rope scaling mapping, None where plain.
        tie_word_embeddings: Whether the output head is the embedding table.
    """

    architecture: str
    vocab_size: int
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_size: int
    intermediate_size: int
    hidden_act: str
    norm_epsilon: float
    max_position_embeddings: int
    position_embedding_type: str
    rotary_base: float | None = None
    rotary_scaling: Mapping[str, Any] | None = None
    tie_word_embeddings: bool = False


@dataclass(frozen=True, slots=True)
class VisualFacts:
    """Sizes of the visual tower and projector.

    Attributes:
        num_visual_features: Rows of the prompt table that one image fills.
        image_size: Height and width of the input, pixels.
        derivation: How ``num_visual_features`` follows from the config.
        num_hidden_layers: Layers of the tower (all of them, used or not).
        hidden_size: Width of the tower.
        intermediate_size: Width of the tower's MLP.
    """

    num_visual_features: int
    image_size: tuple[int, int]
    derivation: Derivation
    num_hidden_layers: int
    hidden_size: int
    intermediate_size: int


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """All that planning needs to know of a model.

    Attributes:
        family: The family's name.
        encoder_decoder: Whether the LLM is an encoder-decoder.
        llm: The language model.
        visual: The visual side.
        image_token_id: Placeholder id in the prompt that one visual feature each replaces; None without one.
        eos_token_ids: Ids that end a sequence according to the config; may be empty.
    """

    family: str
    encoder_decoder: bool
    llm: LlmFacts
    visual: VisualFacts
    image_token_id: int | None
    eos_token_ids: tuple[int, ...] = ()


class Family(Protocol):
    """What a family module offers, as module-level names."""

    NAME: str
    ENCODER_DECODER: bool

    def facts(self, config: Mapping[str, Any]) -> ModelFacts:
        """Read a ``config.json``.

        Raises:
            FamilyError: The config is of another family or incomplete.
        """
        ...
