"""What VILA's config.json means, in both layouts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmbuild.models.families import FamilyError, vila
from support.examples import examples

RECORDED = Path(vila.__file__).parents[1] / "recorded"
SIGLIP: dict[str, Any] = {"model_type": "siglip_vision_model", "image_size": 384, "patch_size": 14}
CLIP: dict[str, Any] = {"model_type": "clip", "vision_config": {"image_size": 336, "patch_size": 14}}
INSIDE: dict[str, Any] = {
    "model_type": "llava_llama",
    "llm_cfg": {"model_type": "llama"},
    "vision_tower_cfg": SIGLIP,
    "mm_projector_cfg": {"mm_projector_type": "mlp_downsample"},
    "mm_vision_select_feature": "cls_patch",
}
FLAT: dict[str, Any] = {
    "model_type": "llava_llama",
    "mm_vision_tower": "a/b",
    "mm_projector_type": "mlp2x_gelu",
}


def recorded(model: str) -> dict[str, Any]:
    config: dict[str, Any] = json.loads((RECORDED / f"{model.replace('/', '--')}.json").read_text())
    return config


def test_vila_1_5_3b_makes_196_features() -> None:
    facts = vila.facts(recorded("Efficient-Large-Model/VILA1.5-3b"))
    assert facts.visual.derivation.arithmetic == (
        "(384 // 14)^2 = 27 x 27, padded to 28 x 28, 2 x 2 joined: 14 x 14 = 196"
    )
    assert (facts.llm.hidden_size, facts.llm.num_hidden_layers, facts.llm.num_attention_heads) == (
        2560,
        32,
        20,
    )
    assert facts.directories == ("llm", "vision_tower", "mm_projector")
    assert facts.image_token_id is not None
    assert facts.image_token_id < 0


@pytest.mark.parametrize(("model", "width"), [("vila-7B", 4096), ("vila-13B", 5120), ("vila-2.7B", 2560)])
def test_the_first_vilas_make_576_features_with_clip(model: str, width: int) -> None:
    second = recorded("openai/clip-vit-large-patch14-336")
    facts = vila.facts(recorded(f"Efficient-Large-Model/{model}"), second)
    assert facts.visual.derivation.arithmetic == "(336 // 14)^2 = 576"
    assert (facts.llm.hidden_size, facts.directories) == (width, ())


@settings(max_examples=examples(40), deadline=None)
@given(
    patch=st.integers(2, 9),
    side=st.integers(1, 12),
    rest=st.integers(0, 1),
    clip=st.booleans(),
    down=st.booleans(),
)
def test_features_are_counted_patch_by_patch(
    patch: int, side: int, rest: int, clip: bool, down: bool
) -> None:
    tower = {
        "model_type": "clip_vision_model" if clip else "siglip_vision_model",
        "image_size": patch * side + min(rest, patch - 1),
        "patch_size": patch,
    }
    config = {
        **INSIDE,
        "vision_tower_cfg": tower,
        "mm_projector_cfg": {"mm_projector_type": "mlp_downsample" if down else "linear"},
        # CLIP's class token left out, or SigLIP's patches as they are.
        "mm_vision_select_feature": "patch" if clip else "cls_patch",
    }
    # Every second row and column begins a joined cell; the last may stand alone.
    cells = len(range(0, side, 2)) if down else side
    assert vila.facts(config).visual.num_visual_features == cells**2


def test_the_class_token_may_be_taken_along() -> None:
    config = {**FLAT, "mm_vision_select_feature": "cls_patch"}
    assert vila.facts(config, CLIP).visual.derivation.arithmetic == "(336 // 14)^2 + 1 (CLS) = 577"


@pytest.mark.parametrize(
    "second", [CLIP, {"model_type": "clip_vision_model", "image_size": 336, "patch_size": 14}]
)
def test_a_second_source_may_have_a_text_half(second: dict[str, Any]) -> None:
    assert vila.facts(FLAT, second).visual.num_visual_features == 576


@pytest.mark.parametrize(
    "keys",
    [
        {"mm_use_im_patch_token": True},  # a token more in the vocabulary, which no prompt holds
        {"mm_use_im_start_end": False},
        {"mm_hidden_size": 768},
        {"mm_hidden_size": None},
        {"tune_mm_mlp_adapter": False},
        {"vision_resolution": 336},
        {"image_aspect_ratio": None},
        {"mm_patch_merge_type": "flat"},
        {"image_grid_pinpoints": None},
        {"moe": {"moe_enable": False}},
        {"s2": False, "use_s2": None},
    ],
)
def test_keys_of_llava_and_vila_that_change_nothing_are_let_through(keys: dict[str, Any]) -> None:
    assert vila.facts({**FLAT, **keys}, CLIP).visual.num_visual_features == 576


def test_a_tower_that_does_not_say_its_kind_is_known_by_its_class() -> None:
    tower = {"architectures": ["SiglipVisionModel"], "image_size": 384, "patch_size": 14}
    assert vila.facts({**INSIDE, "vision_tower_cfg": tower}).visual.num_visual_features == 196


@pytest.mark.parametrize(
    ("config", "vision", "code"),
    [
        (FLAT, None, "MM414"),
        ({**INSIDE, "vision_tower_cfg": None}, None, "MM414"),
        ({key: value for key, value in INSIDE.items() if key != "mm_projector_cfg"}, None, "MM414"),
        (INSIDE, CLIP, "MM415"),
        ({"model_type": "qwen2"}, None, "MM410"),
        ({"model_type": "llava", "text_config": {}}, None, "MM411"),
        ({**INSIDE, "llm_cfg": {"model_type": "mistral"}}, None, "MM410"),
        ({**INSIDE, "vision_tower_cfg": {"model_type": "intern_vit"}}, None, "MM410"),
        ({**INSIDE, "mm_projector_cfg": {"mm_projector_type": "mlp_downsample_3x3_fix"}}, None, "MM411"),
        ({**INSIDE, "mm_vision_select_feature": "patch"}, None, "MM411"),  # 728 is not a square number
        ({**INSIDE, "s2": True}, None, "MM411"),
        ({**INSIDE, "dynamic_s2": True}, None, "MM411"),
        ({**INSIDE, "ps3": True}, None, "MM411"),
        ({**INSIDE, "llm_cfg": "./llm"}, None, "MM411"),
        ({**INSIDE, "llm_cfg": {"num_hidden_layers": None}}, None, "MM411"),
        ({**INSIDE, "mm_projector_cfg": "mlp_downsample"}, None, "MM411"),
        ({**INSIDE, "mm_projector_cfg": {}}, None, "MM411"),
        ({**INSIDE, "mm_vision_select_layer": None}, None, "MM411"),
        ({**INSIDE, "mm_vision_select_layer": "-2"}, None, "MM411"),
        ({**INSIDE, "mm_vision_select_feature": None}, None, "MM411"),
        ({**INSIDE, "image_aspect_ratio": 1}, None, "MM411"),
        ({**INSIDE, "mm_hidden_size": 1152}, None, "MM411"),  # the tower's is 768
        ({**FLAT, "mm_projector_type": None}, CLIP, "MM411"),
        ({**FLAT, "mm_hidden_size": 1024}, CLIP, "MM416"),
        ({**FLAT, "use_s2": True}, CLIP, "MM411"),
        ({**FLAT, "tune_mm_mlp_adapter": True}, CLIP, "MM712"),
        (FLAT, {"model_type": "clip", "vision_config": None}, "MM411"),
        (FLAT, {"model_type": "clip", "vision_config": {"image_size": None}}, "MM411"),
        ({**INSIDE, "vision_resolution": 448}, None, "MM411"),
        ({**INSIDE, "image_aspect_ratio": "dynamic"}, None, "MM411"),
        ({**FLAT, "mm_use_im_start_end": True}, CLIP, "MM411"),
        (FLAT, {"model_type": "dinov2"}, "MM416"),
    ],
)
def test_unsupported_configs_are_reported(
    config: dict[str, Any], vision: dict[str, Any] | None, code: str
) -> None:
    with pytest.raises(FamilyError) as caught:
        vila.facts(config, vision)
    assert caught.value.code == code
