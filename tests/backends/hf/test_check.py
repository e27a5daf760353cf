"""What validate says about recipes for backend hf."""

from __future__ import annotations

import json

import pytest

from mmbuild.pipeline.load import load_recipes
from support.projects.recipe_project import CONFIG, RECIPE, write_project

HF = RECIPE.replace("torch", "hf").replace("float32", "float16").replace("_prompt: 3", "_prompt: 1")
SERVERS = "  hf: {servers: [vllm, sglang]}\n"


def findings(tmp_path, recipe, config=CONFIG):
    loaded = load_recipes([write_project(tmp_path, recipe, config)])
    return {(item.code, item.severity): item for item in loaded.diagnostics}, loaded.variants


def wide(**text):
    """A model whose layers every server runs."""
    sizes = {
        "hidden_size": 512,
        "intermediate_size": 1024,
        "num_attention_heads": 8,
        "num_key_value_heads": 8,
    }
    return {**CONFIG, "text_config": {**CONFIG["text_config"], **sizes, **text}}


@pytest.mark.parametrize("algorithm", ["none", "int8", "int4", "int4_awq", "smoothquant", "fp8"])
def test_every_form_is_valid_for_every_server(tmp_path, algorithm):
    found, variants = findings(tmp_path, HF.replace("int8", algorithm) + SERVERS, wide())
    assert not found
    assert len(variants) == 1


@pytest.mark.parametrize("family", ["blip2-t5", "nougat", "vila"])
def test_other_families_are_refused_with_the_reason(tmp_path, family):
    source = {
        "blip2-t5": "hf://Salesforce/blip2-flan-t5-xl",
        "nougat": "hf://facebook/nougat-base",
        "vila": "hf://Efficient-Large-Model/VILA1.5-3b",
    }[family]
    recipe = HF.replace("llava", family).replace("source: model", f"source: {source}").replace("int8", "none")
    if family == "nougat":
        recipe = recipe.replace("max_input_len: 128", "max_input_len: 1")
    loaded = load_recipes([write_project(tmp_path, recipe.replace("float16", "bfloat16"))], offline=True)
    (item,) = [item for item in loaded.diagnostics if item.code == "MM880"]
    assert family in item.message
    assert "encoder-decoder" in item.message or "no class" in item.message


def test_a_tower_of_another_model_is_refused(tmp_path):
    recipe = HF.replace("llava", "blip2-opt").replace("int8", "none")
    recipe = recipe.replace(
        "source: model",
        "source: hf://facebook/opt-2.7b\n  vision: {source: 'hf://Salesforce/blip2-opt-2.7b'}",
    )
    loaded = load_recipes([write_project(tmp_path, recipe)], offline=True)
    assert "MM881" in {item.code for item in loaded.diagnostics}


@pytest.mark.parametrize("setting", ["backend: tensorrt", "dtype: float32"])
def test_a_visual_engine_is_refused(tmp_path, setting):
    found, _ = findings(tmp_path, HF + f"visual: {{{setting}}}\n", wide())
    assert ("MM882", "error") in found


def test_a_server_without_the_family_is_an_error_only_if_it_is_listed(tmp_path):
    recipe = HF.replace("llava", "blip2-opt").replace("int8", "none")
    recipe = recipe.replace("source: model", "source: hf://Salesforce/blip2-opt-2.7b")
    for more, severity in (("", "warning"), ("  hf: {servers: [sglang]}\n", "error")):
        loaded = load_recipes([write_project(tmp_path, recipe + more)], offline=True)
        (item,) = [item for item in loaded.diagnostics if item.code == "MM883"]
        assert (item.severity, "SGLang 0.5.23" in item.message) == (severity, True)


def test_layers_without_a_kernel_are_an_error_only_for_a_listed_server(tmp_path):
    recipe = HF.replace("float16", "float32")
    found, variants = findings(tmp_path, recipe, wide())
    assert ("MM886", "warning") in found
    assert variants
    found, variants = findings(tmp_path, recipe + SERVERS, wide())
    assert "not float32" in found["MM886", "error"].message
    assert not variants


def test_the_warning_for_float32_names_the_dtype_of_the_printed_commands(tmp_path):
    from mmbuild.backends.hf.commands import script

    recipe = HF.replace("float16", "float32")
    found, variants = findings(tmp_path, recipe, wide())
    hint = found["MM886", "warning"].hint
    assert hint.startswith("set engine.dtype to float16, or serve it with `--dtype float16`, ")
    assert "--dtype float16" in script(variants)
    # No kernel takes layers of this size, in any number format.
    found, _ = findings(tmp_path, recipe, wide(intermediate_size=1028))
    assert found["MM886", "warning"].hint.startswith("choose another engine.quantization")


def test_groups_that_a_split_over_ranks_does_not_divide_are_refused(tmp_path):
    grouped = HF.replace("int8", "{algorithm: int4, group_size: 64}")
    assert not findings(tmp_path, grouped + SERVERS, wide())[0]
    found, _ = findings(tmp_path, grouped + "  tensor_parallel: 8\n", wide(intermediate_size=768))
    assert "groups of 64 do not divide" in found["MM162", "error"].message


def test_int4_has_groups_only_here(tmp_path):
    grouped = RECIPE.replace("int8", "{algorithm: int4, group_size: 64}")
    found, _ = findings(tmp_path, grouped, wide())
    assert ("MM150", "error") in found


def test_the_numbers_of_a_recipe_are_in_both_commands(tmp_path):
    from mmbuild.backends.hf.commands import script, serving

    recipe = HF + "  tensor_parallel: 2\n"
    _, variants = findings(tmp_path, recipe.replace("_prompt: 1", "_prompt: 3"), wide())
    numbers = serving(variants[0])
    assert numbers == {
        "dtype": "float16",
        "tensor_parallel": 2,
        "max_model_len": 192,
        "max_sequences": 2,
        "images_per_prompt": 3,
        "max_batched_tokens": 192,
        "generation_config": "obey",
    }
    text = script(variants)
    for words in (
        "--max-model-len 192",
        "--tensor-parallel-size 2",
        "--tp-size 2",
        json.dumps({"image": 3})[1:-1],
    ):
        assert words.replace('"', '\\"') in text
