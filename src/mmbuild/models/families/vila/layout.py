"""Reads the two layouts of VILA models into a common form.

VILA-1.5 keeps decoder, tower and projector in ``llm/``, ``vision_tower/`` and ``mm_projector/``, and a copy of their
configs in the outer ``config.json`` (``llm_cfg``, ``vision_tower_cfg``, ``mm_projector_cfg``). The first VILA
(vila-7B, -13B, -2.7B) is one directory as LLaVA's own code writes it: a LLaMA config with keys ``mm_...`` in between,
and only the name of the tower, whose weights come from a second source. Key by key after ``LlavaMetaModel`` and
``VisionTower`` in github.com/NVlabs/VILA.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from mmbuild.models.families.facts import Config, FamilyError
from mmbuild.models.families.recognize import builder, is_original_layout, tower_setting, types_of
from mmbuild.models.families.shared.config_reading import not_built, require_model_type, section
from mmbuild.models.families.transformers_config import MISSING, display, is_kind, parse, wrong_value
from mmbuild.models.families.unsupported import about_second_source, require_supported

NAME = "vila"
DIRECTORIES = ("llm", "vision_tower", "mm_projector")
TOWERS = ("clip_vision_model", "siglip_vision_model")


@dataclass(frozen=True, slots=True)
class Layout:
    """A VILA model, independent of its layout.

    Attributes:
        text: The LLaMA decoder's config.
        where: Prefix of its keys in messages.
        tower: The visual tower's config.
        tower_where: Prefix of its keys in messages.
        second: Whether the tower comes from the second source.
        projector: ``linear``, ``mlp2x_gelu``, ``mlp_downsample`` ...
        layer: Index of the tower's hidden state to use, 0 for the embeddings; negative from the end.
        feature: ``patch`` omits the tower's first token, ``cls_patch`` uses all.
        aspect: Handling of images that are not square: ``pad``, ``resize``, or else the tower's preprocessing.
        directories: Subdirectories that contain files of the model.
    """

    text: Mapping[str, Any]
    where: str
    tower: Mapping[str, Any]
    tower_where: str
    projector: str
    layer: int
    feature: Literal["patch", "cls_patch"]
    aspect: str
    second: bool = False
    directories: tuple[str, ...] = ()


def read(config: Config, vision: Config | None) -> Layout:
    """Read ``config.json``, and that of the second source where there is one.

    Raises:
        FamilyError: MM410, another kind of model; MM411, incomplete, or something that is not built; MM414, the
            tower is missing; MM415, a second source that has nothing to add; MM416, one of another kind or width;
            MM710, quantized already; MM711, made for another task; MM712, the projector alone.
    """
    require_supported(config, NAME, vision)
    require_model_type(config, NAME, types_of(NAME))
    _require_built(config)
    if not is_original_layout(config):
        right = builder(config)
        if right is None and config.get("model_type") == "llama":
            raise FamilyError(
                "config.json describes a language model without pictures: it has no visual tower",
                code="MM414",
                hint="mmbuild builds vision-language models: name a LLaVA or VILA model, which contains its "
                "language model",
                blame=("model.source",),
            )
        raise FamilyError(
            "config.json has neither `llm_cfg`, as VILA-1.5 writes it, nor `mm_vision_tower`, as VILA does",
            code="MM411",
            hint=f"set model.family to `{right}`, which builds this model"
            if right
            else "set model.source to a VILA model, or to a LLaVA 1.5 in its own layout",
            blame=("model.family", "model.source") if right else ("model.source",),
        )
    layout = _in_directories(config, vision) if "llm_cfg" in config else _flat(config, vision)
    _require_width(config, layout.tower)
    return layout


def _in_directories(config: Config, vision: Config | None) -> Layout:
    if vision is not None:
        raise FamilyError(
            "model.source is a VILA-1.5 model, which brings its tower along, so that model.vision has nothing to add",
            code="MM415",
            hint="remove model.vision",
        )
    for key in ("vision_tower_cfg", "mm_projector_cfg"):
        if config.get(key) is None:
            raise FamilyError(
                f"the model lacks its visual side: config.json has no `{key}`",
                code="MM414",
                hint="download the model again, whole: config.json, llm/, vision_tower/ and mm_projector/",
            )
    projector = config["mm_projector_cfg"]
    if not isinstance(projector, Mapping):
        raise wrong_value("", "mm_projector_cfg", projector, "a section (a JSON object)")
    return Layout(
        text=section(config, "llm_cfg", NAME, ("llama",), default_type="llama"),
        where="llm_cfg.",
        tower=section(
            config, "vision_tower_cfg", NAME, TOWERS, default_type=_tower(config["vision_tower_cfg"])
        ),
        tower_where="vision_tower_cfg.",
        projector=_projector("mm_projector_cfg.", projector.get("mm_projector_type", MISSING)),
        directories=DIRECTORIES,
        **_selection(config),
    )


def _tower(section: object) -> str:
    """The kind of a tower that does not say it, by its class: `SiglipVisionModel`."""
    classes = section.get("architectures") if isinstance(section, Mapping) else None
    return TOWERS[1 if "siglip" in str(classes).lower() else 0]


def _flat(config: Config, vision: Config | None) -> Layout:
    if config.get("tune_mm_mlp_adapter"):
        raise FamilyError(
            "`tune_mm_mlp_adapter` in config.json is true: this training run saved only the projector",
            code="MM712",
            hint="use the model of the next training stage, whose directory holds the language model too",
            blame=("model.source",),
        )
    if vision is None:
        raise FamilyError(
            f"the model lacks its visual tower: config.json only names it, {display(config.get('mm_vision_tower'))}",
            code="MM414",
            hint=f"add {tower_setting(config)}",
        )
    with about_second_source():
        tower, where = _second_source(vision)
    return Layout(
        text=parse("llama", config),
        where="",
        tower=tower,
        tower_where=where,
        second=True,
        projector=_projector("", config.get("mm_projector_type", "linear")),
        **_selection(config),
    )


def _second_source(vision: Config) -> tuple[Mapping[str, Any], str]:
    """The tower's config in a config of CLIP or SigLIP, with or without the text half, and what it is called."""
    kinds = {"clip": "clip_vision_model", "siglip": "siglip_vision_model", **{kind: kind for kind in TOWERS}}
    found = vision.get("model_type")
    kind = kinds.get(found) if isinstance(found, str) else None
    if kind is None:
        raise FamilyError(
            f"model.vision is a {display(found)} model, and family {NAME} needs CLIP or SigLIP",
            code="MM416",
            hint="take the tower that the model's own config.json names as `mm_vision_tower`",
        )
    # As CLIPVisionModel.from_pretrained: the section where there is one, else the whole.
    tower, where = vision, ""
    if "vision_config" in vision:
        tower, where = vision["vision_config"], "vision_config."
    if not isinstance(tower, Mapping):
        raise wrong_value("", "vision_config", tower, "a section (a JSON object), or left out")
    return {**parse(kind, tower, where), "model_type": kind}, where


def _projector(where: str, kind: object) -> str:
    if not isinstance(kind, str):
        raise wrong_value(where, "mm_projector_type", kind, "the name of a kind of projector")
    return kind


def _selection(config: Config) -> dict[str, Any]:
    feature = config.get("mm_vision_select_feature", "patch")
    if feature not in ("patch", "cls_patch"):
        raise wrong_value("", "mm_vision_select_feature", feature, "`patch` or `cls_patch`", "patch")
    layer = config.get("mm_vision_select_layer", -2)
    if not is_kind(layer, "int"):
        raise wrong_value(
            "", "mm_vision_select_layer", layer, "the number of a hidden state of the tower", -2
        )
    aspect = config.get("image_aspect_ratio")
    if not is_kind(aspect, "str?"):
        raise wrong_value("", "image_aspect_ratio", aspect, "`pad`, `resize`, another string, or null", "pad")
    return {"layer": layer, "feature": feature, "aspect": str(aspect)}


def _require_built(config: Config) -> None:
    if config.get("mm_use_im_start_end"):
        raise not_built(
            "`mm_use_im_start_end` in config.json is true: pictures are enclosed in two special tokens, "
            f"which family {NAME} does not write",
            "use a model that was trained without these tokens",
        )


def _require_width(config: Config, tower: Mapping[str, Any]) -> None:
    """Compare what config.json says about the tower with the tower."""
    width, resolution = config.get("mm_hidden_size"), config.get("vision_resolution")
    if width is not None and width != tower["hidden_size"]:
        raise FamilyError(
            f"the projector was trained for a tower of width {display(width)} (`mm_hidden_size` in config.json), "
            f"and the tower's `hidden_size` is {tower['hidden_size']}",
            code="MM411" if "llm_cfg" in config else "MM416",
            hint=f"use the tower that config.json names, {display(config.get('mm_vision_tower'))}"
            if config.get("mm_vision_tower")
            else "compare config.json with the model's original",
        )
    if resolution not in (-1, None, tower["image_size"]):
        raise not_built(
            f"`vision_resolution` in config.json is {display(resolution)}; only the tower's own size, "
            f"{tower['image_size']}, is supported",
            "use a model whose tower was not enlarged",
        )
