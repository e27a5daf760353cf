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

from mmbuild.families.base import Config, Derivation, ModelFacts, Traits, VisualFacts
from mmbuild.families.shared.llama import llama_facts
from mmbuild.families.shared.reading import not_built, require_model_type, section, token_ids
from mmbuild.families.sound import require_layer
from mmbuild.models.generation_settings import SettingsPlace

NAME = "llava"
TRAITS = Traits()


def facts(config: Config, vision: Config | None = None) -> ModelFacts:  # noqa: ARG001 (one source has it all)
    """Read a LLaVA ``config.json``; see :class:`~mmbuild.families.base.Family`."""
    require_model_type(config, NAME, ("llava",))
    text = section(config, "text_config", NAME, ("llama",))
    tower = section(config, "vision_config", NAME, ("clip_vision_model",))
    # LlavaConfig ties where either config says so (transformers 5.10 to 5.17).
    tied = bool(config.get("tie_word_embeddings") or text.get("tie_word_embeddings"))
    return ModelFacts(
        family=NAME,
        llm=llama_facts(text, "text_config.", tied=tied),
        visual=_visual(config, tower),
        image_token_id=int(config.get("image_token_id", config.get("image_token_index", 32000))),
        eos_token_ids=token_ids(config.get("eos_token_id", text.get("eos_token_id"))),
    )


def settings_place(config: Config) -> SettingsPlace:  # noqa: ARG001 (the same for all)
    """The model's own ``generation_config.json``."""
    return SettingsPlace()


def _visual(config: Mapping[str, Any], vision: Mapping[str, Any]) -> VisualFacts:
    image, patch = vision["image_size"], vision["patch_size"]
    if not (isinstance(image, int) and isinstance(patch, int) and 0 < patch <= image):
        raise not_built(
            f"`vision_config` has image_size {image} and patch_size {patch}; square sizes in pixels are built"
        )
    layers, states = int(vision["num_hidden_layers"]), config.get("vision_feature_layer", -2)
    for state in states if isinstance(states, list) else [states]:
        require_layer("vision_feature_layer", state, layers)
    side = image // patch
    strategy = config.get("vision_feature_select_strategy", "default")
    if strategy not in ("default", "full"):
        raise not_built(
            f"`vision_feature_select_strategy` is `{strategy}`; transformers knows `default` and `full`"
        )
    cls = 0 if strategy == "default" else 1
    count = side * side + cls
    arithmetic = f"({image} // {patch})^2{' + 1 (CLS)' if cls else ''} = {count}"
    return VisualFacts(
        num_visual_features=count,
        image_size=(image, image),
        derivation=Derivation("num_visual_features", count, arithmetic),
        num_hidden_layers=layers,
        hidden_size=int(vision["hidden_size"]),
        intermediate_size=int(vision["intermediate_size"]),
    )
