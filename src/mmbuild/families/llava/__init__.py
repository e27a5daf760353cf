"""LLaVA 1.5: a LLaMA decoder, a CLIP tower and a two-layer projector.

``config.json`` as transformers writes it: ``text_config`` and ``vision_config`` hold only what differs from
the defaults of ``LlamaConfig`` and ``CLIPVisionConfig``, so those defaults (``defaults.yaml``, from
transformers 4.38 to 5.17) are applied first. num_visual_features follows
``LlavaForConditionalGeneration.get_image_features``: the patches, and the CLS token too unless
``vision_feature_select_strategy`` is ``default``. Several feature layers are concatenated on the channel
axis, which does not change the count.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mmbuild.families.base import Config, Derivation, FamilyError, LlmFacts, ModelFacts, Traits, VisualFacts
from mmbuild.families.defaults import with_defaults

NAME = "llava"
TRAITS = Traits()


def facts(config: Config, vision: Config | None = None) -> ModelFacts:  # noqa: ARG001 (one source has it all)
    """Read a LLaVA ``config.json``; see :class:`~mmbuild.families.base.Family`."""
    model_type = config.get("model_type")
    if model_type != "llava":
        raise FamilyError(
            f"config.json says model_type `{model_type}`, and family llava needs `llava`",
            code="MM410",
            hint="Set model.family to the family of this model, or model.source to a LLaVA model",
        )
    text = _section(config, "text_config", "llama")
    tower = _section(config, "vision_config", "clip_vision_model")
    return ModelFacts(
        family=NAME,
        llm=_llm(config, text),
        visual=_visual(config, tower),
        image_token_id=int(config.get("image_token_id", config.get("image_token_index", 32000))),
        eos_token_ids=_token_ids(config.get("eos_token_id", text.get("eos_token_id"))),
    )


def _section(config: Mapping[str, Any], key: str, expected: str) -> Mapping[str, Any]:
    section = config.get(key)
    if not isinstance(section, Mapping):
        raise FamilyError(
            f"config.json has no `{key}`", code="MM411", hint="Download the model's config.json again"
        )
    model_type = section.get("model_type", expected)
    if model_type != expected:
        raise FamilyError(
            f"`{key}.model_type` is `{model_type}`, and family llava is built for `{expected}`", code="MM410"
        )
    return with_defaults(expected, section)


def _llm(config: Mapping[str, Any], text: Mapping[str, Any]) -> LlmFacts:
    heads = int(text["num_attention_heads"])
    rope = text.get("rope_parameters") or {}
    for bias in ("attention_bias", "mlp_bias"):
        if text.get(bias):
            raise FamilyError(
                f"`text_config.{bias}` is true, and family llava builds LLaMA decoders without biases",
                code="MM411",
            )
    return LlmFacts(
        architecture="LlamaForCausalLM",
        vocab_size=int(text["vocab_size"]),
        hidden_size=int(text["hidden_size"]),
        num_hidden_layers=int(text["num_hidden_layers"]),
        num_attention_heads=heads,
        num_key_value_heads=int(text.get("num_key_value_heads") or heads),
        head_size=int(text.get("head_dim") or int(text["hidden_size"]) // heads),
        intermediate_size=int(text["intermediate_size"]),
        hidden_act=str(text["hidden_act"]),
        norm_epsilon=float(text["rms_norm_eps"]),
        max_position_embeddings=int(text["max_position_embeddings"]),
        position_embedding_type="rope_gpt_neox",
        rotary_base=float(text.get("rope_theta") or rope.get("rope_theta") or 10000.0),
        rotary_scaling=_rotary_scaling(text.get("rope_scaling") or rope),
        # LlavaConfig ties where either config says so (transformers 5.10 to 5.17).
        tie_word_embeddings=bool(config.get("tie_word_embeddings") or text.get("tie_word_embeddings")),
    )


def _rotary_scaling(rope: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The mapping, None where positions are not scaled; files before transformers 4.45 call its kind ``type``."""
    return None if rope.get("rope_type", rope.get("type", "default")) == "default" else rope


def _visual(config: Mapping[str, Any], vision: Mapping[str, Any]) -> VisualFacts:
    image, patch = vision["image_size"], vision["patch_size"]
    if not (isinstance(image, int) and isinstance(patch, int) and 0 < patch <= image):
        raise FamilyError(
            f"`vision_config` has image_size {image} and patch_size {patch}; square sizes in pixels are built",
            code="MM411",
        )
    side = image // patch
    strategy = config.get("vision_feature_select_strategy", "default")
    if strategy not in ("default", "full"):
        raise FamilyError(
            f"`vision_feature_select_strategy` is `{strategy}`; transformers knows `default` and `full`",
            code="MM411",
        )
    cls = 0 if strategy == "default" else 1
    count = side * side + cls
    arithmetic = f"({image} // {patch})^2{' + 1 (CLS)' if cls else ''} = {count}"
    return VisualFacts(
        num_visual_features=count,
        image_size=(image, image),
        derivation=Derivation("num_visual_features", count, arithmetic),
        num_hidden_layers=int(vision["num_hidden_layers"]),
        hidden_size=int(vision["hidden_size"]),
        intermediate_size=int(vision["intermediate_size"]),
    )


def _token_ids(value: object) -> tuple[int, ...]:
    if isinstance(value, int):
        return (value,)
    if isinstance(value, list):
        return tuple(int(item) for item in value)
    return ()
