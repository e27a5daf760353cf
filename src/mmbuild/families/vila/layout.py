"""The two ways in which VILA models are laid out, read into one form.

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

from mmbuild.families.base import Config, FamilyError
from mmbuild.families.defaults import with_defaults
from mmbuild.families.shared.reading import not_built, require_model_type, section

NAME = "vila"
DIRECTORIES = ("llm", "vision_tower", "mm_projector")
TOWERS = ("clip_vision_model", "siglip_vision_model")
_MODEL_TYPES = ("llava_llama", "llava", "llama")


@dataclass(frozen=True, slots=True)
class Layout:
    """A VILA model, whichever way it is laid out.

    Attributes:
        text: The LLaMA decoder's config.
        where: What that section is called in messages.
        tower: The visual tower's config.
        projector: ``linear``, ``mlp2x_gelu``, ``mlp_downsample`` ...
        layer: Which hidden state of the tower is looked at, 0 the embeddings; negative from the end.
        feature: ``patch`` leaves out the tower's first token, ``cls_patch`` takes all.
        aspect: What happens to pictures that are not square: ``pad``, ``resize``, or else the tower's own way.
        directories: Directories below the model's own that hold files of it.
    """

    text: Mapping[str, Any]
    where: str
    tower: Mapping[str, Any]
    projector: str
    layer: int
    feature: Literal["patch", "cls_patch"]
    aspect: str
    directories: tuple[str, ...] = ()


def read(config: Config, vision: Config | None) -> Layout:
    """Read ``config.json``, and that of the second source where there is one.

    Raises:
        FamilyError: MM410, another kind of model; MM411, incomplete, or something that is not built; MM414, the
            tower is missing; MM415, a second source that has nothing to add; MM416, one
            of another kind.
    """
    require_model_type(config, NAME, _MODEL_TYPES)
    _require_built(config)
    if "llm_cfg" in config:
        return _in_directories(config, vision)
    if "mm_projector_type" in config or "mm_vision_tower" in config:
        return _flat(config, vision)
    raise not_built(
        "config.json has neither `llm_cfg`, as VILA-1.5 writes it, nor `mm_vision_tower`, as VILA does",
        "Download the model's config.json again, or set model.family to the family of this model",
    )


def _in_directories(config: Config, vision: Config | None) -> Layout:
    if vision is not None:
        raise FamilyError(
            "model.source is a VILA-1.5 model, which brings its tower along, so that model.vision has nothing to add",
            code="MM415",
            hint="Remove model.vision",
        )
    for key in ("vision_tower_cfg", "mm_projector_cfg"):
        if not isinstance(config.get(key), Mapping):
            raise FamilyError(
                f"the model lacks its visual side: config.json has no `{key}`",
                code="MM414",
                hint="Download the model again, whole: config.json, llm/, vision_tower/ and mm_projector/",
            )
    return Layout(
        text=section(config, "llm_cfg", NAME, ("llama",)),
        where="llm_cfg.",
        tower=section(config, "vision_tower_cfg", NAME, TOWERS),
        projector=str(config["mm_projector_cfg"].get("mm_projector_type")),
        directories=DIRECTORIES,
        **_selection(config),
    )


def _flat(config: Config, vision: Config | None) -> Layout:
    if vision is None:
        raise FamilyError(
            f"the model lacks its visual tower: config.json only names it, `{config.get('mm_vision_tower')}`",
            code="MM414",
            hint="Add `vision: {source: hf://openai/clip-vit-large-patch14-336}` below `model`",
        )
    return Layout(
        text=with_defaults("llama", config),
        where="",
        tower=_second_source(vision),
        projector=str(config.get("mm_projector_type", "linear")),
        **_selection(config),
    )


def _second_source(vision: Config) -> Mapping[str, Any]:
    """The tower's config in a config of CLIP or SigLIP, with or without the text half."""
    inner = vision.get("vision_config")
    kinds = {"clip": "clip_vision_model", "siglip": "siglip_vision_model", **{kind: kind for kind in TOWERS}}
    kind = kinds.get(str(vision.get("model_type")))
    if kind is None:
        raise FamilyError(
            f"model.vision is a `{vision.get('model_type')}` model, and family {NAME} needs CLIP or SigLIP",
            code="MM416",
            hint="Take the tower that config.json names as `mm_vision_tower`",
        )
    tower = inner if isinstance(inner, Mapping) else vision
    return {**with_defaults(kind, tower), "model_type": kind}


def _selection(config: Config) -> dict[str, Any]:
    feature = config.get("mm_vision_select_feature", "patch")
    if feature not in ("patch", "cls_patch"):
        raise not_built(f"`mm_vision_select_feature` is `{feature}`; VILA knows `patch` and `cls_patch`")
    return {
        "layer": int(config.get("mm_vision_select_layer", -2)),
        "feature": feature,
        "aspect": str(config.get("image_aspect_ratio")),
    }


def _require_built(config: Config) -> None:
    for key in ("s2", "dynamic_s2", "mm_use_im_start_end"):
        if config.get(key):
            raise not_built(
                f"`{key}` is true, and family {NAME} builds towers that see a picture once, in one size"
            )
    resolution = config.get("vision_resolution", -1)
    if resolution not in (-1, None):
        raise not_built(
            f"`vision_resolution` is {resolution}, and family {NAME} builds towers in their own size"
        )
    if str(config.get("image_aspect_ratio")).startswith("dynamic"):
        raise not_built(
            f"`image_aspect_ratio` is `{config['image_aspect_ratio']}`, which cuts pictures into tiles"
        )
