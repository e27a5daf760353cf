"""Each rule has a recipe that triggers it, and a similar recipe that does not."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mmbuild.models.sources.config import read_config
from support.examples import examples
from support.projects.recipe_project import CONFIG, FEATURES, RECIPE, codes, load, only, pointed

FUSED = "  tensorrt_llm: {fused_mlp: true}\n"
VISION = "source: model\n  vision: {source: 'hf://a/b'}"
TRTLLM = RECIPE.replace("torch", "tensorrt-llm")
ENGINE = RECIPE.replace("  quantization: int8\n", "")
WHOLE_T5 = "source: hf://Salesforce/blip2-flan-t5-xl"
T5 = (
    RECIPE.replace("llava", "blip2-t5").replace("source: model", WHOLE_T5).replace("_prompt: 3", "_prompt: 1")
)
OPT = T5.replace("blip2-t5", "blip2-opt").replace("flan-t5-xl", "opt-2.7b").replace("int8", "none")
AWQ = ENGINE + "  quantization: int4_awq\n"
FUSED_OPT = OPT + FUSED
NONE_T5 = T5.replace("int8", "none")
CLIP = "\n  vision: {source: 'hf://openai/clip-vit-large-patch14-336'}"
NOUGAT = """\
version: 1
name: pages
model:
  family: nougat
  source: hf://facebook/nougat-base
engine:
  backend: torch
  dtype: bfloat16
  max_batch_size: 3
  max_input_len: 1
  max_output_len: 4095
"""


def with_text(**changes: object) -> dict[str, object]:
    return {**CONFIG, "text_config": {**CONFIG["text_config"], **changes}}


@pytest.mark.parametrize(
    ("code", "recipe", "caret", "silent"),
    [
        ("MM140", RECIPE + "  num_visual_features: 17\n", "17", RECIPE + "  num_visual_features: 16\n"),
        ("MM141", RECIPE + "  max_multimodal_len: 97\n", "97", RECIPE + "  max_multimodal_len: 96\n"),
        ("MM142", RECIPE + "visual: {max_batch_size: 2}\n", "2", RECIPE + "visual: {max_batch_size: 6}\n"),
        ("MM143", RECIPE.replace("128", "48"), "48", RECIPE.replace("128", "49")),
        ("MM144", RECIPE.replace("128", "193"), "193", RECIPE.replace("128", "192")),
        ("MM144", RECIPE.replace("64", "250").replace("128", "50"), "250", RECIPE),
        ("MM145", T5, "int8", NONE_T5),
        ("MM145", T5.replace("int8", "{algorithm: int4}"), "int4", NONE_T5),
        ("MM145", T5.replace("int8", "fp8"), "fp8", NONE_T5),
        ("MM146", RECIPE + FUSED, "true", ENGINE + FUSED),
        ("MM147", RECIPE + "  tensor_parallel: 3\n", "3", RECIPE + "  tensor_parallel: 2\n"),
        ("MM150", ENGINE + "  quantization: {algorithm: int8, group_size: 64}\n", "64",
         ENGINE + "  quantization: {algorithm: int4_awq, group_size: 64}\n"),
        ("MM151", ENGINE + "  quantization: {calibration: {data: a.jsonl}}\n", "a.jsonl",
         ENGINE),
        ("MM152", RECIPE + "target: {device: cpu, sm: 90}\n", "90", RECIPE + "target: {device: cuda, sm: 90}\n"),
        ("MM160", TRTLLM + "visual: {backend: torch}\n", "torch", TRTLLM + "visual: {backend: tensorrt}\n"),
        ("MM161", TRTLLM + "target: {device: cpu}\n", "cpu", TRTLLM + "target: {device: cuda}\n"),
        ("MM161", TRTLLM + "target: {device: cpu}\n", "cpu", RECIPE + "target: {device: cpu}\n"),
        ("MM578", RECIPE + "visual: {backend: tensorrt}\ntarget: {device: cpu}\n", "tensorrt",
         RECIPE + "visual: {backend: tensorrt}\ntarget: {device: cuda}\n"),
        ("MM162", AWQ + "  tensor_parallel: 2\n", "2", AWQ),
        ("MM162", ENGINE + "  quantization: {algorithm: int4_awq, group_size: 128}\n", "128",
         ENGINE + "  quantization: {algorithm: int4_awq, group_size: 64}\n"),
        ("MM163", FUSED_OPT, "true", FUSED_OPT.replace("true", "auto")),
        ("MM158", RECIPE + "verify: {max_new_tokens: 65}\n", "65", RECIPE + "verify: {max_new_tokens: 64}\n"),
        ("MM153", RECIPE.replace("source: model", "source: model\n  revision: v1"), "v1", RECIPE),
        ("MM154", RECIPE.replace("source: model", VISION), "'hf://a/b'", RECIPE),
        ("MM154", NOUGAT.replace("-base", "-base" + CLIP), "'hf://openai/clip-vit-large-patch14-336'", NOUGAT),
        ("MM145", NOUGAT + "  quantization: int8\n", "int8", NOUGAT),
        ("MM155", NOUGAT.replace("input_len: 1", "input_len: 2"), "2", NOUGAT),
        ("MM156", NONE_T5.replace("float32", "float16"), "float16", NONE_T5.replace("float32", "bfloat16")),
        ("MM157", NONE_T5.replace("_prompt: 1", "_prompt: 2"), "2", NONE_T5),
        ("MM157", NOUGAT + "  max_images_per_prompt: 2\n", "2", NOUGAT + "  max_images_per_prompt: 1\n"),
        ("MM141", NOUGAT + "  max_multimodal_len: 1764\n", "1764", NOUGAT + "  max_multimodal_len: 588\n"),
        ("MM140", NOUGAT + "  num_visual_features: 576\n", "576", NOUGAT + "  num_visual_features: 588\n"),
        ("MM144", NOUGAT.replace("4095", "4096"), "4096", NOUGAT),
    ],
)  # fmt: skip
def test_a_rule_fires_and_stays_silent(
    tmp_path: Path, code: str, recipe: str, caret: str, silent: str
) -> None:
    found = only(load(tmp_path, recipe))
    assert (found.code, pointed(found)) == (code, caret)
    assert codes(load(tmp_path, silent)) == []


def test_positions_of_an_encoder_decoder_hold_a_start_token_and_the_answer(tmp_path: Path) -> None:
    found = only(load(tmp_path, NOUGAT.replace("4095", "5000")))
    assert found.message == (
        "1 start token + max_output_len 5000 = 5001, more than the model's max_position_embeddings 4096"
    )
    assert found.hint == "lower max_output_len to 4095"


def test_relative_positions_have_no_end(tmp_path: Path) -> None:
    recipe = NONE_T5.replace("128", "100000").replace("output_len: 64", "output_len: 100000")
    assert codes(load(tmp_path, recipe)) == []


def test_ranks_divide_decoder_and_encoder_once(tmp_path: Path) -> None:
    found = [item.message for item in load(tmp_path, NONE_T5 + "  tensor_parallel: 7\n").diagnostics]
    assert found == [
        "tensor_parallel 7 does not divide the model's num_attention_heads 32 and intermediate_size 5120"
    ]


@pytest.mark.parametrize(
    ("family", "source", "code", "caret"),
    [
        ("blip2-opt", "hf://facebook/opt-2.7b", "MM414", "hf://facebook/opt-2.7b"),
        ("blip2-t5", "hf://google/flan-t5-xl", "MM414", "hf://google/flan-t5-xl"),
        ("vila", "hf://Efficient-Large-Model/vila-7B", "MM414", "hf://Efficient-Large-Model/vila-7B"),
        ("vila", "hf://Efficient-Large-Model/VILA1.5-3b" + CLIP, "MM415",
         "'hf://openai/clip-vit-large-patch14-336'"),
        ("blip2-opt", "hf://facebook/opt-2.7b" + CLIP, "MM416", "'hf://openai/clip-vit-large-patch14-336'"),
        ("blip2-opt", "hf://facebook/opt-2.7b" + CLIP.replace("openai/clip-vit-large-patch14-336",
         "Salesforce/blip2-opt-6.7b"), "MM416", "'hf://Salesforce/blip2-opt-6.7b'"),
        ("blip2-t5", "hf://facebook/opt-2.7b", "MM410", "blip2-t5"),
    ],
)  # fmt: skip
def test_models_without_their_visual_side_are_reported_at_once(
    tmp_path: Path, family: str, source: str, code: str, caret: str
) -> None:
    recipe = NONE_T5.replace("blip2-t5", family).replace(WHOLE_T5, f"source: {source}")
    found = only(load(tmp_path, recipe))
    assert (found.code, pointed(found)) == (code, caret)


def test_a_vila_directory_without_its_tower_is_reported(tmp_path: Path) -> None:
    config = read_config("hf://Efficient-Large-Model/VILA1.5-3b", None, tmp_path).config
    recipe = NONE_T5.replace("blip2-t5", "vila").replace(WHOLE_T5, "source: model").replace("128", "300")
    for name in ("llm", "mm_projector"):
        (tmp_path / "model" / name).mkdir(parents=True)
        (tmp_path / "model" / name / "config.json").write_text('{"eos_token_id": 2}')
        (tmp_path / "model" / name / "pytorch_model.bin").write_bytes(b"PK\x03\x04")
    found = only(load(tmp_path, recipe, config=config))
    assert (found.code, pointed(found)) == ("MM417", "model")
    assert "vision_tower/config.json" in found.message
    (tmp_path / "model" / "vision_tower").mkdir()
    (tmp_path / "model" / "vision_tower" / "config.json").write_text("{}")
    found = only(load(tmp_path, recipe, config=config))
    assert (found.code, pointed(found)) == ("MM417", "model")
    assert "weights in `vision_tower/`" in found.message
    (tmp_path / "model" / "vision_tower" / "pytorch_model.bin").write_bytes(b"PK\x03\x04")
    assert codes(load(tmp_path, recipe, config=config)) == []


def test_lengths_that_follow_from_too_many_images_are_no_second_cause(tmp_path: Path) -> None:
    stated = NONE_T5 + "  max_multimodal_len: 64\n"  # right for one image: 2 x 1 x 32
    assert codes(load(tmp_path, stated)) == []
    assert codes(load(tmp_path, stated, "engine.max_images_per_prompt=9")) == ["MM157"]


def test_consequences_of_a_wrong_family_are_not_reported(tmp_path: Path) -> None:
    found = only(load(tmp_path, RECIPE.replace("llava", "nougat")))
    assert (found.code, pointed(found)) == ("MM410", "nougat")


def test_sizes_that_no_model_has_are_reported_at_the_model(tmp_path: Path) -> None:
    found = only(load(tmp_path, RECIPE, config=with_text(num_hidden_layers=0, num_key_value_heads=3)))
    assert (found.code, pointed(found)) == ("MM411", "model")
    assert "num_hidden_layers is 0" in found.message


def test_many_ranks_are_among_those_that_are_possible(tmp_path: Path) -> None:
    found = only(load(tmp_path, NONE_T5 + "  tensor_parallel: 64\n"))
    assert found.hint == "possible values: 1, 2, 4, 8, 16, 32"


def test_key_and_value_heads_are_split_or_copied(tmp_path: Path) -> None:
    config = with_text(num_attention_heads=12, num_key_value_heads=4, hidden_size=96)
    assert codes(load(tmp_path, RECIPE + "  tensor_parallel: 6\n", config=config)) == ["MM148"]
    copied = with_text(num_attention_heads=12, num_key_value_heads=3, hidden_size=96)
    assert codes(load(tmp_path, RECIPE + "  tensor_parallel: 6\n", config=copied)) == []


def test_an_intermediate_size_that_does_not_divide_is_named(tmp_path: Path) -> None:
    result = load(tmp_path, RECIPE + "  tensor_parallel: 4\n", config=with_text(intermediate_size=98))
    assert "intermediate_size 98" in only(result).message
    assert only(result).hint == "possible values: 1, 2"


LLAVA_7B = """\
version: 1
name: seven
model: {family: llava, source: 'dummy://llava-hf/llava-1.5-7b-hf'}
engine:
  backend: torch
  quantization: int4_awq
  max_input_len: 1024
  max_output_len: 100
"""


@pytest.mark.parametrize(("ranks", "chosen"), [(1, 128), (2, 128), (4, 64), (8, None)])
def test_groups_that_a_seven_billion_llama_can_have(tmp_path: Path, ranks: int, chosen: int | None) -> None:
    # 11008 inputs of mlp.proj are 86 groups of 128, 172 of 64.
    result = load(tmp_path, LLAVA_7B, f"engine.tensor_parallel={ranks}", offline=True)
    if chosen is None:
        assert "mlp.proj 1376" in only(result).message
        assert only(result).hint == (
            "possible values: group_size 128 with tensor_parallel 1, 2; group_size 64 with tensor_parallel 1, 2, 4"
        )
        return
    (variant,) = result.variants
    assert variant.recipe.engine.quantization.group_size == chosen
    # A stated group size is either kept or reported.
    for group in (64, 128):
        stated = f"engine.quantization={{algorithm: int4_awq, group_size: {group}}}"
        found = codes(load(tmp_path, LLAVA_7B, f"engine.tensor_parallel={ranks}", stated, offline=True))
        assert found == ([] if 11008 // ranks % group == 0 else ["MM162"])


@pytest.mark.parametrize("backend", ["torch", "hf"])
@pytest.mark.parametrize("algorithm", ["int8", "int4", "int4_awq"])
@pytest.mark.parametrize(
    ("size", "ranks", "fitting"),
    [(65, 1, None), (130, 2, "possible tensor_parallel: 1"), (132, 2, None), (128, 1, None)],
)
def test_outputs_of_a_rank_pack_two_to_a_byte(
    tmp_path: Path, backend: str, algorithm: str, size: int, ranks: int, fitting: str | None
) -> None:
    """Of engines: checkpoints of backend hf pack along the inputs."""
    recipe = ENGINE.replace("backend: torch", f"backend: {backend}") + f"  quantization: {algorithm}\n"
    found = load(tmp_path, recipe + f"  tensor_parallel: {ranks}\n", config=with_text(intermediate_size=size))
    odd = size // ranks % 2 == 1 and backend == "torch" and algorithm != "int8"
    assert ("MM437" in codes(found)) is odd
    if odd and algorithm == "int4":
        assert only(found).hint == (fitting or "set engine.quantization to int8")
        assert "mlp.fc 65" in only(found).message


def test_groups_are_no_second_cause_where_ranks_do_not_divide(tmp_path: Path) -> None:
    assert codes(load(tmp_path, LLAVA_7B, "engine.tensor_parallel=3", offline=True)) == ["MM147"]


def test_both_numbers_of_visual_features_are_reported(tmp_path: Path) -> None:
    message = only(load(tmp_path, RECIPE + "  num_visual_features: 17\n")).message
    assert "17 in the recipe" in message
    assert "(28 // 7)^2 = 16" in message


def test_a_length_derived_from_wrong_features_is_not_reported_twice(tmp_path: Path) -> None:
    recipe = RECIPE + "  num_visual_features: 17\n  max_multimodal_len: 102\n"  # 2 x 3 x 17
    assert codes(load(tmp_path, recipe)) == ["MM140"]


def test_the_arithmetic_is_spelt_out(tmp_path: Path) -> None:
    message = only(load(tmp_path, RECIPE + "  max_multimodal_len: 5\n")).message
    assert message == (
        "max_multimodal_len is 5, but max_batch_size 2 x max_images_per_prompt 3 x num_visual_features 16 = 96"
    )


def test_independent_causes_are_reported_together(tmp_path: Path) -> None:
    recipe = RECIPE.replace("128", "40") + "  tensor_parallel: 5\n  max_multimodal_len: 1\n"
    assert codes(load(tmp_path, recipe)) == ["MM141", "MM143", "MM147"]


def test_a_large_product_can_be_written_as_it_is_computed(tmp_path: Path) -> None:
    # 2048 is the default batch of TensorRT-LLM 1.2; the products are larger than any factor may be.
    recipe = RECIPE.replace("max_batch_size: 2", "max_batch_size: 30000") + "  max_multimodal_len: 1440000\n"
    assert codes(load(tmp_path, recipe)) == []
    assert codes(load(tmp_path, recipe, "visual.max_batch_size=90000")) == []
    assert codes(load(tmp_path, recipe, "engine.max_multimodal_len=1440001")) == ["MM141"]


@pytest.mark.parametrize(("length", "fits"), [(2147, True), (2148, False)])
def test_a_full_batch_is_counted_in_32_bits(tmp_path: Path, length: int, fits: bool) -> None:
    recipe = RECIPE.replace("max_batch_size: 2", "max_batch_size: 1000000").replace("128", str(length))
    config = {**CONFIG, "text_config": {**CONFIG["text_config"], "max_position_embeddings": 4096}}
    assert codes(load(tmp_path, recipe, config=config)) == ([] if fits else ["MM113"])


@settings(max_examples=examples(40), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(batch=st.integers(1, 50), images=st.integers(1, 50), stated=st.integers(1, 50_000))
def test_only_the_product_is_accepted(tmp_path: Path, batch: int, images: int, stated: int) -> None:
    recipe = RECIPE.replace("max_batch_size: 2", f"max_batch_size: {batch}")
    recipe = recipe.replace("max_images_per_prompt: 3", f"max_images_per_prompt: {images}")
    recipe += f"  max_multimodal_len: {stated}\n"
    right = batch * images * FEATURES
    assert ("MM141" in codes(load(tmp_path, recipe))) == (stated != right)
    assert "MM141" not in codes(load(tmp_path, recipe, f"engine.max_multimodal_len={right}"))


@settings(max_examples=examples(40), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(prompt=st.integers(1, 300), answer=st.integers(1, 300))
def test_positions_bound_prompt_and_answer_together(tmp_path: Path, prompt: int, answer: int) -> None:
    recipe = RECIPE.replace(": 128", f": {prompt}", 1).replace("output_len: 64", f"output_len: {answer}")
    found = codes(load(tmp_path, recipe))
    assert ("MM144" in found) == (prompt + answer > 256)
    assert ("MM143" in found) == (prompt <= 3 * FEATURES)
