"""What BLIP-2 is apart from its language model: tower, Q-Former, projection, and two ways to come in parts.

A model is one BLIP-2 checkpoint that holds everything, or a text model and, as second source, a BLIP-2
checkpoint that gives the visual side. The Q-Former asks ``num_query_tokens`` learned questions of the picture,
so that an image fills that many rows whatever its size.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mmbuild.families.base import Config, Derivation, FamilyError, VisualFacts
from mmbuild.families.defaults import with_defaults
from mmbuild.families.shared.reading import require_model_type, section, square
from mmbuild.models.generation_settings import SettingsPlace

WHOLE = "blip-2"


@dataclass(frozen=True, slots=True)
class Parts:
    """A BLIP-2 model taken apart.

    Attributes:
        text: The language model's config, over its defaults.
        blip2: The BLIP-2 config that the visual side is read from.
    """

    text: Mapping[str, Any]
    blip2: Config


def parts(config: Config, vision: Config | None, family: str, text_type: str) -> Parts:
    """Take apart ``config.json`` of the model and of the second source.

    Args:
        config: Of a whole BLIP-2 checkpoint, or of a text model.
        vision: Of the second source.
        family: Who asks.
        text_type: ``model_type`` of the language model, ``opt`` or ``t5``.

    Raises:
        FamilyError: MM410, another kind of model; MM414, a text model without a second source; MM415, a second
            source beside a whole model; MM416, a second source that is no BLIP-2 or made for another language model.
    """
    if require_model_type(config, family, (WHOLE, text_type)) == WHOLE:
        if vision is not None:
            raise FamilyError(
                "model.source is a whole BLIP-2 checkpoint, so that model.vision has nothing to add",
                code="MM415",
                hint="Remove model.vision, or set model.source to the text model alone",
            )
        return Parts(section(config, "text_config", family, (text_type,)), config)
    text = with_defaults(text_type, config)
    if vision is None:
        raise FamilyError(
            f"the model is a text-only `{text_type}` checkpoint, and has no visual tower",
            code="MM414",
            hint="Add `vision: {source: hf://Salesforce/blip2-...}` below `model`, "
            "or set model.source to a whole BLIP-2 checkpoint",
        )
    _require_fit(text, vision, family, text_type)
    return Parts(text, vision)


def settings_place(config: Config, text_type: str) -> SettingsPlace:
    """A text model's own file; none in a whole checkpoint, where ``Blip2ForConditionalGeneration`` makes its language
    model from ``text_config`` and lets that generate (transformers 5.10 to 5.17)."""
    if config.get("model_type") != WHOLE:
        return SettingsPlace()
    tokens = {key: value for key, value in with_defaults(text_type, {}).items() if key.endswith("_token_id")}
    return SettingsPlace(file=None, section="text_config", class_defaults=tokens)


def _require_fit(text: Mapping[str, Any], vision: Config, family: str, text_type: str) -> None:
    made_for = vision.get("text_config")
    if vision.get("model_type") != WHOLE or not isinstance(made_for, Mapping):
        raise _misfit(f"a `{vision.get('model_type')}` model, and family {family} needs a BLIP-2 checkpoint")
    other = made_for.get("model_type", text_type)
    if other != text_type:
        raise _misfit(f"made for a language model of kind `{other}`, and model.source is `{text_type}`")
    key = "d_model" if text_type == "t5" else "hidden_size"
    width = with_defaults(text_type, made_for)[key]
    if width != text[key]:
        raise _misfit(
            f"made for a language model of {key} {width}, and the one of model.source has {text[key]}"
        )


def _misfit(what: str) -> FamilyError:
    return FamilyError(
        f"model.vision is {what}",
        code="MM416",
        hint="Take the BLIP-2 checkpoint that was trained with this language model",
    )


def visual_facts(blip2: Config, family: str) -> VisualFacts:
    """Sizes of tower and Q-Former.

    Raises:
        FamilyError: MM411, a size is no number of pixels.
    """
    tower = section({"vision_config": {}, **blip2}, "vision_config", family, ("blip_2_vision_model",))
    count = int(blip2.get("num_query_tokens", 32))
    side = square("vision_config.image_size", tower["image_size"])
    return VisualFacts(
        num_visual_features=count,
        image_size=(side, side),
        derivation=Derivation("num_visual_features", count, f"num_query_tokens {count} = {count}"),
        num_hidden_layers=int(tower["num_hidden_layers"]),
        hidden_size=int(tower["hidden_size"]),
        intermediate_size=int(tower["intermediate_size"]),
    )


def image_token_id(blip2: Config, tokenizer_size: int, vocab_size: int) -> int:
    """Id of ``<image>``.

    Files before transformers 4.47 have no ``image_token_index``. Then it is the id that ``Blip2Processor``
    gives the token when it adds it: the first one behind the text tokenizer's.

    Args:
        blip2: The BLIP-2 config.
        tokenizer_size: Tokens of the language model's own tokenizer.
        vocab_size: Rows of its embedding table; an id beyond them becomes -1, which no text can hold.
    """
    stated = blip2.get("image_token_index", blip2.get("image_token_id"))
    if stated is not None:
        return int(stated)
    return tokenizer_size if tokenizer_size < vocab_size else -1
