"""Model facts that each family derives from ``config.json``.

A family module converts ``config.json`` to :class:`ModelFacts`: plain numbers with their arithmetic. Nothing here
imports torch or transformers, so recipes are validated and planned in milliseconds; ``defaults.yaml`` has the
defaults that Hugging Face omits from ``config.json``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol

from mmbuild.base.errors import MmbuildError
from mmbuild.models.files.generation_settings import SettingsPlace


class FamilyError(MmbuildError):
    """A ``config.json`` is of another family, or incomplete.

    Attributes:
        blame: Keys of the recipe to point at, most likely first; empty if the code determines them.
    """

    def __init__(
        self, message: str, *, code: str, hint: str | None = None, blame: tuple[str, ...] = ()
    ) -> None:
        super().__init__(message, code=code, hint=hint)
        self.blame = blame


@dataclass(frozen=True, slots=True)
class Derivation:
    """A derived number with its arithmetic.

    Attributes:
        name: Name of the number in recipes and reports.
        value: The number.
        arithmetic: Its derivation with values, such as ``(336 / 14)^2 = 576``.
    """

    name: str
    value: int
    arithmetic: str


@dataclass(frozen=True, slots=True)
class LlmFacts:
    """One stack of layers (a decoder or an encoder), with the names of TensorRT-LLM's checkpoint config.

    Attributes:
        architecture: ``LlamaForCausalLM``, ``OPTForCausalLM``, ``EncoderModel`` or ``DecoderModel``.
        vocab_size: Rows of the embedding table.
        hidden_size: Width of the residual stream.
        num_hidden_layers: Layers.
        num_attention_heads: Query heads.
        num_key_value_heads: Key and value heads (fewer with grouped-query attention).
        head_size: Width of one head.
        intermediate_size: Width of the MLP.
        hidden_act: Activation name of transformers' ``ACT2FN``: ``silu``, ``relu``, ``gelu``, ``gelu_new``.
        norm_epsilon: Epsilon of the norms.
        max_position_embeddings: Positions that the model supports; for learned positions, rows of the table without
            offset rows. 0 if positions are relative.
        position_embedding_type: ``rope_gpt_neox``, ``learned_absolute`` or ``relative``.
        rotary_base: Base of the rotary frequencies; None if positions are not rotary.
        rotary_scaling: Scaling of rotary positions, with all numbers that transformers fills in
            (:func:`mmbuild.models.families.rope.resolve`); its kind is ``rope_type``. None without scaling.
        tie_word_embeddings: Whether the output head is the embedding table.
        layernorm_type: ``RmsNorm`` or ``LayerNorm``.
        layernorm_position: ``pre_layernorm`` (before attention and MLP) or ``post_layernorm`` (after the sum).
        has_model_final_layernorm: Whether a norm follows the last layer.
        has_embedding_layernorm: Whether a norm follows the embeddings.
        has_embedding_scale: Whether embeddings are multiplied by the square root of ``hidden_size``.
        has_attention_qkvo_bias: Whether the four projections of attention have biases.
        has_mlp_bias: Whether the projections of the MLP have biases.
        mlp_type: ``GatedMLP`` or ``MLP``.
        q_scaling: Attention scores are divided by ``q_scaling * sqrt(head_size)``.
        num_buckets: Buckets of relative positions.
        max_distance: Distance from which on relative positions share the last bucket.
        cross_attention: Whether layers attend to an encoder's output, also of width ``hidden_size``.
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
        num_visual_features: Rows of the prompt table per image.
        image_size: Height and width of the input, pixels.
        derivation: Derivation of ``num_visual_features`` from the config.
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
    """All facts about a model that planning needs.

    Attributes:
        family: The family's name.
        llm: The language model, or the decoder of an encoder-decoder.
        visual: The visual side.
        image_token_id: Placeholder id of one visual feature in an encoded prompt; None if prompts contain no images.
            Negative if the vocabulary has no such token.
        eos_token_ids: Ids that end a sequence according to the config; may be empty.
        encoder: The encoder of the language model (T5); None if there is none.
        directories: Subdirectories that contain files of this model (``llm``).
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
    """Properties of a family that do not depend on the model.

    Attributes:
        encoder_decoder: Whether the language model is an encoder-decoder, whose weights cannot be quantized.
        cross_attention: Whether visual features go to cross-attention, separately per sequence, instead of a prompt
            table shared by the batch. Such a model takes no text.
        second_sources: Which of ``model.vision`` and ``model.code`` the family uses.
        directories: Subdirectories of a model that contain its files (``llm``).
        dtypes: Number formats that the language model supports.
        most_images_per_prompt: Maximum number of images in a prompt; None: unlimited.
        generates_from: What transformers' ``generate`` gets for a prompt, and so what logits processors see: token
            ids, ids and embeddings (ids count as context, not as encoder ids), or only embeddings.
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
    """Interface of a family's package, as module-level names."""

    TRAITS: Traits
    NAMINGS: tuple[Naming, ...]

    def facts(self, config: Config, vision: Config | None = None) -> ModelFacts:
        """Derive facts from a ``config.json``, and from that of the second source if there is one.

        Raises:
            FamilyError: A config is of another family or incomplete.
        """
        ...

    def settings_place(self, config: Config) -> SettingsPlace:
        """Location of the generation settings that transformers uses for a model with this ``config.json``."""
        ...


@dataclass(frozen=True, slots=True)
class Naming:
    """A naming scheme of the language model's tensors.

    Attributes:
        prefix: Prefix of the names in the checkpoint tables (:mod:`mmbuild.models.checkpoint.tensor_table`).
        head: Full name of the output head.
        others: Prefixes below ``prefix`` that do not belong to the language model.
        ignored: Suffixes of tensors that are derived from others or from the config.
    """

    prefix: str
    head: str
    others: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()


def tower_facts(tower: Mapping[str, Any], image: int, count: int, arithmetic: str) -> VisualFacts:
    """Facts of a tower of pictures with side ``image``, whose features are counted by ``arithmetic``."""
    return VisualFacts(
        num_visual_features=count,
        image_size=(image, image),
        derivation=Derivation("num_visual_features", count, f"{arithmetic} = {count}"),
        num_hidden_layers=tower["num_hidden_layers"],
        hidden_size=tower["hidden_size"],
        intermediate_size=tower["intermediate_size"],
    )


def read_llm(content: Mapping[str, Any] | None) -> LlmFacts | None:
    """Parse :class:`LlmFacts` from plain data; None stays None."""
    return None if content is None else LlmFacts(**content)


def shape_of(llm: LlmFacts) -> LlmFacts:
    """``llm`` without fields that do not affect compiled packages: the number of layers, the position limit, unless
    positions are a table, and tied embeddings."""
    learned = llm.position_embedding_type == "learned_absolute"
    return replace(
        llm,
        num_hidden_layers=1,
        max_position_embeddings=llm.max_position_embeddings if learned else 0,
        tie_word_embeddings=False,
    )
