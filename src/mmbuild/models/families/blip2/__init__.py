"""BLIP-2: a ViT and a Q-Former with OPT (:mod:`~mmbuild.models.families.blip2.opt`) or Flan-T5
(:mod:`~mmbuild.models.families.blip2.t5`). This package has the shared parts: tower, Q-Former and projection.

A model is a complete BLIP-2 checkpoint, or a text model with a BLIP-2 checkpoint as second source for the visual
side. The Q-Former has ``num_query_tokens`` learned queries, so that is the number of features of an image of any
size.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import ModuleType
from typing import Any

from mmbuild.models.families.defaults import config_class
from mmbuild.models.families.facts import Config, FamilyError, VisualFacts, tower_facts
from mmbuild.models.families.shared.config_reading import (
    not_built,
    require_model_type,
    require_tower,
    section,
    square_sides,
)
from mmbuild.models.families.transformers_config import display, parse, wrong_value
from mmbuild.models.families.unsupported import about_second_source, require_supported
from mmbuild.models.files.generation_settings import SettingsPlace

WHOLE = "blip-2"


# The widths of language models, by kind.
_WIDTHS = {"opt": "hidden_size", "t5": "d_model"}


@dataclass(frozen=True, slots=True)
class Parts:
    """The configs of a BLIP-2 model, as parsed by transformers.

    Attributes:
        text: The language model's config.
        where: Prefix of its keys in messages.
        blip2: ``Blip2Config``, which describes the visual side.
        tower: ``Blip2VisionConfig``.
        qformer: ``Blip2QFormerConfig``.
    """

    text: Mapping[str, Any]
    where: str
    blip2: Config
    tower: Mapping[str, Any]
    qformer: Mapping[str, Any]


def parts(config: Config, vision: Config | None, family: str, text_type: str) -> Parts:
    """Parse ``config.json`` of the model and of the second source.

    Args:
        config: Config of a complete BLIP-2 checkpoint, or of a text model.
        vision: Config of the second source.
        family: The family.
        text_type: ``model_type`` of the language model, ``opt`` or ``t5``.

    Raises:
        FamilyError: MM410, another kind of model; MM411, something unsupported; MM414, a text model without a second
            source; MM415, a second source for a complete model; MM416, a second source that is not a BLIP-2 model or
            is for another language model; MM710, already quantized; MM711, for another task.
    """
    require_supported(config, family, vision)
    if require_model_type(config, family, (WHOLE, text_type)) == WHOLE:
        if vision is not None:
            raise FamilyError(
                "model.source is a whole BLIP-2 checkpoint, so that model.vision has nothing to add",
                code="MM415",
                hint="remove model.vision, or set model.source to the text model alone",
            )
        return _whole(config, family, text_type)
    if vision is None:
        raise FamilyError(
            f"the model is a text-only `{text_type}` checkpoint, and has no visual tower",
            code="MM414",
            hint="add `vision: {source: hf://Salesforce/blip2-...}` below `model`, "
            "or set model.source to a whole BLIP-2 checkpoint",
        )
    text = {**parse(text_type, config), "model_type": text_type}
    _require_kind(vision, family, text_type)
    with about_second_source():
        whole = _whole(vision, family, text_type)
    key = _WIDTHS[text_type]
    if whole.text[key] != text[key]:
        raise _misfit(
            f"made for a language model of {key} {whole.text[key]}, and the one of model.source has {text[key]}"
        )
    return replace(whole, text=text, where="")


def language_model(config: Config) -> ModuleType:
    """The module of the language model in ``config``, which is a text model or a complete checkpoint."""
    from mmbuild.models.families.blip2 import opt, t5

    text = config.get("text_config") if config.get("model_type") == WHOLE else config
    return t5 if isinstance(text, Mapping) and text.get("model_type") == "t5" else opt


def settings_place(config: Config, text_type: str) -> SettingsPlace:
    """The text model's file; none for a complete checkpoint, where ``Blip2ForConditionalGeneration`` builds its
    language model from ``text_config`` and generates with that (transformers 5.10 to 5.17)."""
    if config.get("model_type") != WHOLE:
        return SettingsPlace()
    tokens = {
        key: value for key, value in config_class(text_type).defaults.items() if key.endswith("_token_id")
    }
    return SettingsPlace(file=None, section="text_config", class_defaults=tokens)


def _whole(config: Config, family: str, text_type: str) -> Parts:
    """The parts of a complete BLIP-2 checkpoint."""
    root, absent = parse(WHOLE, config), config_class(WHOLE).sections
    text = section(
        root, "text_config", family, (text_type,), default_type="opt", absent=absent["text_config"]
    )
    _require_decoder(root, text_type)
    vision, former = ("vision_config", "blip_2_vision_model"), ("qformer_config", "blip_2_qformer")
    tower, questions = (
        section(root, key, family, (kind,), default_type=kind, absent=absent[key])
        for key, kind in (vision, former)
    )
    require_tower("vision_config.", tower)
    require_tower("qformer_config.", questions)
    return Parts(text, "text_config.", root, tower, questions)


def _require_decoder(root: Mapping[str, Any], text_type: str) -> None:
    """Check the key by which transformers chooses between decoder and encoder-decoder."""
    key = "use_decoder_only_language_model"
    if bool(root.get(key, text_type == "opt")) != (text_type == "opt"):
        raise not_built(
            f"`{key}` in config.json is {display(root[key])}, and the language model is `{text_type}`",
            "remove the key, or compare config.json with the model's original",
        )


def _require_kind(vision: Config, family: str, text_type: str) -> None:
    if vision.get("model_type") != WHOLE:
        raise _misfit(
            f"a {display(vision.get('model_type'))} model, and family {family} needs a BLIP-2 checkpoint"
        )
    made_for = vision.get("text_config")
    other = made_for.get("model_type", "opt") if isinstance(made_for, Mapping) else "opt"
    if other != text_type:
        raise _misfit(
            f"made for a language model of kind {display(other)}, and model.source is `{text_type}`"
        )


def _misfit(what: str) -> FamilyError:
    return FamilyError(
        f"model.vision is {what}",
        code="MM416",
        hint="take the BLIP-2 checkpoint that was trained with this language model",
    )


def visual_facts(parts: Parts) -> VisualFacts:
    """Sizes of tower and Q-Former.

    Raises:
        FamilyError: MM411, a size is not a number of pixels, or there are no queries.
    """
    tower, count = parts.tower, parts.blip2["num_query_tokens"]
    image, _ = square_sides("vision_config.", tower)
    if count < 1:
        raise wrong_value("", "num_query_tokens", count, "at least 1", 32)
    return tower_facts(tower, image, count, f"num_query_tokens {count}")


def image_token_id(blip2: Config, tokenizer_size: int, vocab_size: int) -> int:
    """Id of ``<image>``.

    Files before transformers 4.47 have no ``image_token_index``, or null. Then it is the id that ``Blip2Processor``
    assigns when it adds the token: the first one after those of the text tokenizer.

    Args:
        blip2: The BLIP-2 config, parsed.
        tokenizer_size: Number of tokens in the language model's tokenizer.
        vocab_size: Rows of its embedding table; an id beyond them becomes -1, which no text can contain.
    """
    stated: int | None = blip2["image_token_index"]
    if stated is not None:
        return stated
    return tokenizer_size if tokenizer_size < vocab_size else -1
