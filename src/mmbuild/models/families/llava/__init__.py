"""LLaVA 1.5: a LLaMA decoder, a CLIP tower and a two-layer projector.

``config.json`` as transformers writes it, read as its ``LlavaConfig``, ``LlamaConfig`` and ``CLIPVisionConfig``
(5.17) do (:mod:`mmbuild.models.families.transformers_config`). num_visual_features follows
``LlavaForConditionalGeneration.get_image_features``: the patches, and the CLS token too unless
``vision_feature_select_strategy`` is ``default``. Several feature layers are concatenated on the channel axis, which
does not change the count.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mmbuild.models.families.defaults import config_class, table
from mmbuild.models.families.facts import Config, ModelFacts, Naming, Traits, VisualFacts, tower_facts
from mmbuild.models.families.recognize import is_original_layout, wrong_family
from mmbuild.models.families.sanity_checks import require_layer
from mmbuild.models.families.shared.config_reading import (
    require_model_type,
    section,
    square_sides,
    token_ids,
)
from mmbuild.models.families.shared.llama import llama_facts
from mmbuild.models.families.transformers_config import parse, wrong_value
from mmbuild.models.families.unsupported import require_supported
from mmbuild.models.files.generation_settings import SettingsPlace

NAME = "llava"
TRAITS = Traits(decoder="model.language_model")
# transformers moved the decoder from ``language_model.model.`` to ``model.language_model.``; both are on the hub, and
# transformers 5 still writes the older one.
NAMINGS = (
    Naming("language_model.model.", "language_model.lm_head.weight"),
    Naming("model.language_model.", "lm_head.weight"),
)


@dataclass(frozen=True, slots=True)
class Sections:
    """A LLaVA config, parsed.

    Attributes:
        root: ``LlavaConfig``.
        text: ``LlamaConfig``.
        tower: ``CLIPVisionConfig``.
    """

    root: Mapping[str, Any]
    text: Mapping[str, Any]
    tower: Mapping[str, Any]


def sections(config: Config) -> Sections:
    """Parse a ``config.json``.

    Raises:
        FamilyError: It is of another family, or holds what cannot be built.
    """
    require_supported(config, NAME)
    require_model_type(config, NAME, ("llava",))
    if is_original_layout(config):
        raise wrong_family(config, NAME)
    root, absent = parse(NAME, config), config_class(NAME).sections
    text, tower = "llama", "clip_vision_model"
    return Sections(
        root,
        section(root, "text_config", NAME, (text,), default_type=text, absent=absent["text_config"]),
        section(root, "vision_config", NAME, (tower,), default_type=tower, absent=absent["vision_config"]),
    )


def facts(config: Config, vision: Config | None = None) -> ModelFacts:  # noqa: ARG001 (one source has it all)
    """Read a LLaVA ``config.json``; see :class:`~mmbuild.models.families.facts.Family`."""
    read = sections(config)
    root, text = read.root, read.text
    eos = root.get("eos_token_id")
    _require_projector(root)
    return ModelFacts(
        family=NAME,
        # LlavaConfig ties where either config says so.
        llm=llama_facts(
            text, "text_config.", tied=root["tie_word_embeddings"] or text["tie_word_embeddings"]
        ),
        visual=_visual(root, read.tower),
        image_token_id=root["image_token_index"],
        eos_token_ids=token_ids("eos_token_id", text["eos_token_id"] if eos is None else eos),
    )


def settings_place(config: Config) -> SettingsPlace:  # noqa: ARG001 (the same for all)
    """The model's own ``generation_config.json``."""
    return SettingsPlace()


def _require_projector(root: Mapping[str, Any]) -> None:
    activation = root["projector_hidden_act"]
    if activation not in table("fields.yaml")["every"]["activations"]:
        raise wrong_value(
            "", "projector_hidden_act", activation, "an activation that transformers knows", "gelu"
        )


def _visual(root: Mapping[str, Any], tower: Mapping[str, Any]) -> VisualFacts:
    image, patch = square_sides("vision_config.", tower)
    layers, states = tower["num_hidden_layers"], root["vision_feature_layer"]
    if states in ([], ()):
        raise wrong_value("", "vision_feature_layer", states, "a layer of the tower, or a list of some", -2)
    for state in states if isinstance(states, list | tuple) else [states]:
        require_layer("vision_feature_layer", state, layers)
    across = image // patch
    cls = 0 if root["vision_feature_select_strategy"] == "default" else 1
    count = across * across + cls
    return tower_facts(tower, image, count, f"({image} // {patch})^2{' + 1 (CLS)' if cls else ''}")
