"""What config.json says of a source is found when the recipe is validated, and pointed at in the recipe."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mmbuild.pipeline.load import LoadResult, load_recipes
from support.examples import examples
from support.projects.recipe_project import CONFIG, only, pointed

OPT: dict[str, Any] = {"model_type": "opt", "hidden_size": 96, "num_attention_heads": 4}
BLIP2: dict[str, Any] = {"model_type": "blip-2", "text_config": OPT}
T5 = {"model_type": "blip-2", "text_config": {"model_type": "t5"}}
NOUGAT = {
    "model_type": "vision-encoder-decoder",
    "encoder": {"model_type": "donut-swin"},
    "decoder": {"model_type": "mbart"},
}
FLAT: dict[str, Any] = {
    "model_type": "llava_llama",
    "mm_vision_tower": "a/b",
    "max_position_embeddings": 4096,
}
CLIP = {"model_type": "clip", "vision_config": {"image_size": 28, "patch_size": 7}}
MODELS: dict[str, tuple[dict[str, Any], dict[str, Any] | None]] = {
    "llava": (CONFIG, None),
    "vila": (FLAT, CLIP),
    "blip2-opt": (OPT, BLIP2),
    "blip2-t5": (T5, None),
    "nougat": (NOUGAT, None),
}
QUANTIZED = {"quantization_config": {"quant_method": "awq", "bits": 4}}


def project(
    directory: Path, family: str, config: dict[str, Any], second: dict[str, Any] | None = None
) -> Path:
    """A recipe for ``config``, whose second source is ``vision``."""
    (directory / "mmbuild.yaml").touch()
    for name, content in (("model", config), ("vision", second)):
        if content is not None:
            (directory / name).mkdir(exist_ok=True)
            (directory / name / "config.json").write_text(json.dumps(content), encoding="utf-8")
    vision = "" if second is None else "  vision:\n    source: vision\n"
    recipe = directory / "recipe.yaml"
    recipe.write_text(
        f"version: 1\nname: small\nmodel:\n  family: {family}\n  source: model\n{vision}"
        "engine:\n  backend: torch\n  dtype: float32\n"
        f"  max_input_len: {1 if family == 'nougat' else 64}\n  max_output_len: 16\n",
        encoding="utf-8",
    )
    return recipe


def validate(directory: Path, family: str, *sources: Any) -> LoadResult:
    return load_recipes([project(directory, family, *sources)], offline=True)


@pytest.mark.parametrize("family", MODELS)
def test_models_that_are_built_are_valid(tmp_path: Path, family: str) -> None:
    result = validate(tmp_path, family, *MODELS[family])
    # Bare configs name no end token, which is a warning.
    assert {item.code for item in result.diagnostics} <= {"MM723"}
    assert len(result.variants) == 1


@pytest.mark.parametrize(
    ("family", "config", "second", "code", "path", "under"),
    [
        ("llava", {**CONFIG, **QUANTIZED}, None, "MM710", "model.source", "model"),
        ("vila", FLAT, {**CLIP, **QUANTIZED}, "MM710", "model.vision.source", "vision"),
        ("blip2-opt", OPT, {**BLIP2, **QUANTIZED}, "MM710", "model.vision.source", "vision"),
        ("llava", FLAT, None, "MM410", "model.family", "llava"),
        ("llava", {"model_type": "qwen2_5_vl"}, None, "MM410", "model.source", "model"),
        ("llava", {"model_type": "llava_next"}, None, "MM410", "model.source", "model"),
        ("vila", {**FLAT, "image_aspect_ratio": "anyres"}, CLIP, "MM411", "model.source", "model"),
        ("vila", CONFIG, None, "MM411", "model.family", "vila"),
        (
            "vila",
            FLAT,
            {**CLIP, "vision_config": {"image_size": None}},
            "MM411",
            "model.vision.source",
            "vision",
        ),
        ("vila", {**FLAT, "mm_hidden_size": 1024}, CLIP, "MM416", "model.vision.source", "vision"),
        ("vila", {**FLAT, "tune_mm_mlp_adapter": True}, CLIP, "MM712", "model.source", "model"),
        ("vila", {**FLAT, "rope_scaling": {"type": "yarn"}}, CLIP, "MM503", "model.source", "model"),
        ("llava", {**CONFIG, "text_config": {"hidden_size": None}}, None, "MM411", "model.source", "model"),
        ("blip2-opt", {**BLIP2, "architectures": ["Blip2Model"]}, None, "MM711", "model.source", "model"),
        (
            "blip2-opt",
            OPT,
            {**BLIP2, "architectures": ["Blip2Model"]},
            "MM711",
            "model.vision.source",
            "vision",
        ),
        ("blip2-opt", T5, None, "MM410", "model.family", "blip2-opt"),
        ("nougat", {**NOUGAT, "encoder": {"model_type": "vit"}}, None, "MM410", "model.source", "model"),
    ],
)
def test_unsupported_source_is_reported_at_its_key(
    tmp_path: Path,
    family: str,
    config: dict[str, Any],
    second: dict[str, Any] | None,
    code: str,
    path: str,
    under: str,
) -> None:
    found = only(validate(tmp_path, family, config, second))
    assert (found.code, found.path, pointed(found)) == (code, path, under)
    assert found.hint


def test_consequences_of_a_wrong_family_are_not_reported(tmp_path: Path) -> None:
    # float16 is refused for T5 alone, and this is an OPT.
    recipe = project(tmp_path, "blip2-t5", BLIP2)
    text = recipe.read_text(encoding="utf-8").replace("float32", "float16")
    recipe.write_text(text, encoding="utf-8")
    assert only(load_recipes([recipe], offline=True)).code == "MM410"


def keys_of(content: Any, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    if not isinstance(content, dict):
        return []
    return [(*path, key) for key in content] + [
        deeper for key, value in content.items() for deeper in keys_of(value, (*path, key))
    ]


READ = (
    "hidden_size", "num_attention_heads", "image_size", "rope_scaling", "rope_parameters", "rope_theta",
    "vision_feature_layer", "eos_token_id", "num_query_tokens", "image_token_id", "architectures", "dtype",
    "depths", "num_heads", "mlp_ratio", "feed_forward_proj", "id2label", "quantization_config", "layer_types",
    "num_key_value_heads", "mm_projector_type", "mm_vision_select_layer", "cross_attention_hidden_size",
)  # fmt: skip
anything = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(2**62, 2**70)
    | st.floats()
    | st.text(max_size=6)
    | st.sampled_from(["linear", "llama3", "gated-gelu", "bfloat16", "LlavaModel"]),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["rope_type", "type", "factor", "model_type", "a"]), inner, max_size=3
        )
    ),
    max_leaves=6,
)


@settings(
    max_examples=examples(150), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(family=st.sampled_from(sorted(MODELS)), data=st.data(), value=anything)
def test_any_value_anywhere_in_config_json_yields_only_findings(
    tmp_path: Path, family: str, data: st.DataObject, value: object
) -> None:
    sources: list[Any] = copy.deepcopy([source for source in MODELS[family] if source is not None])
    source = data.draw(st.sampled_from(sources))
    sections = [(), *(path for path in keys_of(source) if isinstance(_at(source, path), dict))]
    known = [*keys_of(source), *((*section, key) for section in sections for key in READ)]
    *parents, last = data.draw(st.sampled_from(known))
    _at(source, tuple(parents))[last] = value
    result = validate(tmp_path, family, *sources)
    assert result.variants or result.diagnostics
    for found in result.diagnostics:
        # `damaged` would mean that a reader stumbled, not that it understood what is wrong.
        # Infinity and NaN are no JSON, so there is nothing to understand: the file itself is refused.
        assert found.code != "MM132" or "which is not a JSON number" in found.message, found.message
        assert (found.line, found.file) != (0, "")
        found.message.encode("utf-8")


def _at(content: Any, path: tuple[str, ...]) -> Any:
    for key in path:
        content = content[key]
    return content


def test_findings_import_neither_torch_nor_transformers(tmp_path: Path) -> None:
    recipe = project(tmp_path, "vila", FLAT, {**CLIP, **QUANTIZED})
    code = (
        "import sys; from pathlib import Path; from mmbuild.pipeline.load import load_recipes\n"
        f"found = load_recipes([Path({str(recipe)!r})], offline=True).diagnostics\n"
        "print(found[0].code, [name for name in ('torch', 'transformers') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["MM710", "[]"]
