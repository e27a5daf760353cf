"""What every family tells the rest of mmbuild about a model, read from the model's own configuration.

A family module turns ``config.json`` into :class:`ModelFacts`: plain numbers, each with the arithmetic it
came from. Nothing here imports torch or transformers, so that a recipe is validated and planned in
milliseconds; defaults that Hugging Face leaves out of ``config.json`` are data in ``defaults.yaml``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol

from mmbuild.base.errors import MmbuildError
from mmbuild.models.generation_settings import SettingsPlace


class FamilyError(MmbuildError):
    """A ``config.json`` that is not of the family, or lacks what the family needs.

    Attributes:
        blame: Keys of the recipe to point at, the likeliest first; empty where the code says it.
    """

    def __init__(
        self, message: str, *, code: str, hint: str | None = None, blame: tuple[str, ...] = ()
    ) -> None:
        super().__init__(message, code=code, hint=hint)
        self.blame = blame


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
    """One stack of layers (a decoder, or the encoder before it), under the names of TensorRT-LLM's checkpoint config.

    Attributes:
        architecture: ``LlamaForCausalLM``, ``OPTForCausalLM``, ``EncoderModel`` or ``DecoderModel``.
        vocab_size: Rows of the embedding table.
        hidden_size: Width of the residual stream.
        num_hidden_layers: Layers.
        num_attention_heads: Query heads.
        num_key_value_heads: Key and value heads (grouped-query attention where fewer).
        head_size: Width of one head.
        intermediate_size: Width of the MLP.
        hidden_act: Activation name of transformers' ``ACT2FN``: ``silu``, ``relu``, ``gelu``, ``gelu_new``.
        norm_epsilon: Epsilon of the norms.
        max_position_embeddings: Positions the model was made for; rows of the position table where one is learned
            (rows that exist for an offset are not counted). 0 where positions are relative.
        position_embedding_type: ``rope_gpt_neox``, ``learned_absolute`` or ``relative``.
        rotary_base: Base of the rotary frequencies, None where positions are not rotary.
        rotary_scaling: How rotary positions are scaled, with every number that transformers fills in
            (:func:`mmbuild.models.families.rope.resolve`); its kind is ``rope_type``. None where plain.
        tie_word_embeddings: Whether the output head is the embedding table.
        layernorm_type: ``RmsNorm`` or ``LayerNorm``.
        layernorm_position: ``pre_layernorm`` (before attention and MLP) or ``post_layernorm`` (after the sum).
        has_model_final_layernorm: Whether a norm follows the last layer.
        has_embedding_layernorm: Whether a norm follows the embeddings.
        has_embedding_scale: Whether embeddings are multiplied by the square root of ``hidden_size``.
        has_attention_qkvo_bias: Whether the four projections of attention have biases.
        has_mlp_bias: Whether the MLP's have.
        mlp_type: ``GatedMLP`` or ``MLP``.
        q_scaling: Attention scores are divided by ``q_scaling * sqrt(head_size)``.
        num_buckets: Buckets of relative positions.
        max_distance: Distance from which on relative positions share the last bucket.
        cross_attention: Whether layers attend to an encoder's output, of width ``hidden_size`` too.
        rescale_before_lm_head: Whether hidden states are multiplied by ``hidden_size ** -0.5`` before the head.
        decoder_start_token_id: First token of every answer of an encoder-decoder; None for other models.
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
    layernorm_type: str = "RmsNorm"
    layernorm_position: str = "pre_layernorm"
    has_model_final_layernorm: bool = True
    has_embedding_layernorm: bool = False
    has_embedding_scale: bool = False
    has_attention_qkvo_bias: bool = False
    has_mlp_bias: bool = False
    mlp_type: str = "GatedMLP"
    q_scaling: float = 1.0
    num_buckets: int = 0
    max_distance: int = 0
    cross_attention: bool = False
    rescale_before_lm_head: bool = False
    decoder_start_token_id: int | None = None


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
        llm: The language model; of an encoder-decoder, its decoder.
        visual: The visual side.
        image_token_id: Id that stands for one visual feature in an encoded prompt; None where prompts name no
            images. Negative where the vocabulary has no such token.
        eos_token_ids: Ids that end a sequence according to the config; may be empty.
        encoder: The language model's own encoder (T5); None where there is none.
        directories: Directories below the model's own that this model's files lie in (``llm``).
    """

    family: str
    llm: LlmFacts
    visual: VisualFacts
    image_token_id: int | None
    eos_token_ids: tuple[int, ...] = ()
    encoder: LlmFacts | None = None
    directories: tuple[str, ...] = ()


Config = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Traits:
    """What recipes of a family may say, before any model is read.

    Attributes:
        encoder_decoder: Whether the language model is an encoder-decoder: its weights are not quantized.
        cross_attention: Whether visual features go to cross-attention, each sequence to its own, and not into a
            prompt table that the batch shares. Such a model takes no text.
        second_sources: Which of ``vision`` and ``code`` below ``model`` mean something.
        directories: Directories below a model's own that hold files of it (``llm``).
        dtypes: Number formats that the language model works in.
        most_images_per_prompt: Images that one prompt can hold; None where any number.
        generates_from: What transformers' ``generate`` gets of a prompt, and so what its logits processors see: token
            ids, ids and embeddings (ids count as context, not as encoder ids), or embeddings alone.
        decoder: The decoder's submodule in the model as transformers runs it, whose names below it are those of the
            checkpoint tables; None for a family that is not calibrated.
        needs_image: Whether a prompt cannot do without an image.
    """

    encoder_decoder: bool = False
    cross_attention: bool = False
    second_sources: tuple[str, ...] = ()
    directories: tuple[str, ...] = ()
    dtypes: tuple[str, ...] = ("float32", "float16", "bfloat16")
    most_images_per_prompt: int | None = None
    generates_from: Literal["ids", "ids and embeddings", "embeddings"] = "ids"
    decoder: str | None = None
    needs_image: bool = False


class Family(Protocol):
    """What a family's package offers, as module-level names."""

    TRAITS: Traits
    NAMINGS: tuple[Naming, ...]

    def facts(self, config: Config, vision: Config | None = None) -> ModelFacts:
        """Read a ``config.json``, and that of the second source where the recipe names one.

        Raises:
            FamilyError: A config is of another family or incomplete.
        """
        ...

    def settings_place(self, config: Config) -> SettingsPlace:
        """Where transformers takes the generation settings of a model with this ``config.json`` from."""
        ...


@dataclass(frozen=True, slots=True)
class Naming:
    """One way in which a model names its language model's tensors.

    Attributes:
        prefix: What stands before the names of the checkpoint tables (:mod:`mmbuild.models.checkpoint.tensor_table`).
        head: Full name of the output head.
        others: Prefixes below ``prefix`` that are not of the language model.
        ignored: Endings of tensors that follow from others or from the config.
    """

    prefix: str
    head: str
    others: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()


def read_llm(content: Mapping[str, Any] | None) -> LlmFacts | None:
    """:class:`LlmFacts` from plain data; None stays None."""
    return None if content is None else LlmFacts(**content)


def shape_of(llm: LlmFacts) -> LlmFacts:
    """``llm`` without what does not shape compiled packages: the position limit is the solver's unless positions
    are a table, and a tied head is a tensor twice."""
    learned = llm.position_embedding_type == "learned_absolute"
    return replace(
        llm,
        max_position_embeddings=llm.max_position_embeddings if learned else 0,
        tie_word_embeddings=False,
    )
