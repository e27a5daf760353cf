"""VILA: a LLaMA decoder, a SigLIP or CLIP tower and a projector, which in VILA-1.5 joins 2 x 2 patches into one.

The two layouts are read in :mod:`mmbuild.models.families.vila.layout`. The number of features follows the tower's
patches (``VisionTower.feature_select``) and the projector (``MultimodalProjector``, ``DownSampleBlock``) of
github.com/NVlabs/VILA; there is no ``<image>`` token in the vocabulary, and placeholders are VILA's ``-200``.
"""

from __future__ import annotations

import math
import re
from contextlib import nullcontext

from mmbuild.models.families.facts import Config, ModelFacts, Naming, Traits, VisualFacts, tower_facts
from mmbuild.models.families.sanity_checks import require_layer
from mmbuild.models.families.shared.config_reading import not_built, require_tower, side, token_ids
from mmbuild.models.families.shared.llama import llama_facts
from mmbuild.models.families.transformers_config import display
from mmbuild.models.families.unsupported import about_second_source
from mmbuild.models.families.vila import layout
from mmbuild.models.families.vila.layout import NAME, Layout
from mmbuild.models.files.generation_settings import SettingsPlace

TRAITS = Traits(
    second_sources=("vision", "code"),
    directories=layout.DIRECTORIES,
    generates_from="embeddings",
    decoder="llm.model",
)
# The decoder is in ``llm/`` since VILA-1.5, before that among the tensors of one directory.
NAMINGS = (
    Naming("llm/model.", "llm/lm_head.weight"),
    Naming("model.", "lm_head.weight", others=("mm_projector.", "vision_tower.")),
)

IMAGE_TOKEN_ID = -200
DOWN_SAMPLING = "mlp_downsample"


def facts(config: Config, vision: Config | None = None) -> ModelFacts:
    """Read a VILA ``config.json``; see :class:`~mmbuild.models.families.facts.Family`."""
    read = layout.read(config, vision)
    text = read.text
    return ModelFacts(
        family=NAME,
        llm=llama_facts(text, read.where, tied=text["tie_word_embeddings"]),
        visual=_visual(read),
        image_token_id=IMAGE_TOKEN_ID,
        eos_token_ids=token_ids(f"{read.where}eos_token_id", text["eos_token_id"]),
        directories=read.directories,
    )


def settings_place(config: Config) -> SettingsPlace:
    """VILA-1.5 loads its decoder from ``llm/``, so that a file next to the outer ``config.json`` is not read
    (``build_llm_and_tokenizer`` of github.com/NVlabs/VILA). The first VILA is one directory."""
    if "llm_cfg" not in config:
        return SettingsPlace()
    return SettingsPlace("llm/generation_config.json", "llm/config.json", section="llm_cfg")


def _visual(read: Layout) -> VisualFacts:
    tower = read.tower
    with about_second_source() if read.second else nullcontext():
        require_tower(read.tower_where, tower)
        image, patch = (side(read.tower_where, key, tower[key]) for key in ("image_size", "patch_size"))
    require_layer("mm_vision_select_layer", read.layer, tower["num_hidden_layers"])
    across = image // patch
    if across < 1:
        raise not_built(f"the tower has image_size {image} and patch_size {patch}: no patch fits")
    # CLIP puts a class token in front of the patches, SigLIP has none; `patch` leaves out the first token.
    extra = (1 if tower["model_type"] == "clip_vision_model" else 0) - (1 if read.feature == "patch" else 0)
    count, arithmetic = _projected(read.projector, across * across + extra, _patches(image, patch, extra))
    return tower_facts(tower, image, count, arithmetic)


def _patches(image: int, patch: int, extra: int) -> str:
    grid = f"({image} // {patch})^2"
    return {0: grid, 1: f"{grid} + 1 (CLS)", -1: f"{grid} - 1 (first patch left out)"}[extra]


def _projected(projector: str, tokens: int, arithmetic: str) -> tuple[int, str]:
    """Features after the projector, and how they come about."""
    if projector == "linear" or re.fullmatch(r"mlp[1-9]\d*x_gelu", projector):
        return tokens, arithmetic
    if projector != DOWN_SAMPLING:
        raise not_built(
            f"`mm_projector_type` is {display(projector)}; linear, mlp<n>x_gelu and {DOWN_SAMPLING} are built"
        )
    side = math.isqrt(tokens)
    if side * side != tokens:
        raise not_built(
            f"{DOWN_SAMPLING} joins a square of patches, and the tower gives {arithmetic} = {tokens}"
        )
    half = -(-side // 2)
    padded = f", padded to {2 * half} x {2 * half}" if side % 2 else ""
    return half * half, f"{arithmetic} = {side} x {side}{padded}, 2 x 2 joined: {half} x {half}"
