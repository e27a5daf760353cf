"""What calibrated checkpoints store of a linear layer."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmbuild.models.checkpoint.calibrated_layout import ALGORITHMS, quantization_json, stored_tensors
from mmbuild.models.checkpoint.config import CheckpointConfig, from_json, to_json
from mmbuild.models.errors import CheckpointError
from mmbuild.models.families.facts import LlmFacts
from support.errors import refused

LLM = LlmFacts(
    architecture="LlamaForCausalLM",
    vocab_size=101,
    hidden_size=64,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_size=16,
    intermediate_size=96,
    hidden_act="silu",
    norm_epsilon=1e-5,
    max_position_embeddings=0,
    position_embedding_type="rope_gpt_neox",
)


def stored(algorithm, outputs, inputs, *, group_size=None, inputs_split=False):
    return stored_tensors(
        ALGORITHMS[algorithm],
        "layers.3.mlp.proj",
        outputs,
        inputs,
        dtype="float16",
        group_size=group_size,
        inputs_split=inputs_split,
    )


@given(st.integers(1, 64), st.integers(1, 16), st.sampled_from([16, 64, 128]))
def test_awq_stores_packed_pairs_of_outputs_scales_of_groups_and_a_factor_for_each_input(pairs, groups, size):
    assert stored("int4_awq", 2 * pairs, groups * size, group_size=size) == {
        "weight": ("int8", (pairs, groups * size)),
        "weights_scaling_factor": ("float16", (2 * pairs, groups)),
        "prequant_scaling_factor": ("float16", (groups * size,)),
    }


def test_smoothquant_stores_a_smoother_where_no_norm_can_take_it():
    channels = {"weight": ("int8", (6, 10)), "per_channel_scale": ("float32", (1, 6))}
    assert stored("smoothquant", 6, 10) == channels
    assert stored("smoothquant", 6, 10, inputs_split=True) == channels | {"smoother": ("float32", (1, 10))}


def test_fp8_stores_one_scale_of_the_weight_and_one_of_what_comes_in():
    assert stored("fp8", 6, 10) == {
        "weight": ("float8_e4m3fn", (6, 10)),
        "weights_scaling_factor": ("float32", (1,)),
        "activation_scaling_factor": ("float32", (1,)),
    }


@pytest.mark.parametrize("group_size", [None, 0, 48, 256])
def test_groups_that_do_not_divide_the_inputs_are_refused_by_the_layers_name(group_size):
    error = refused(CheckpointError, "MM543", stored, "int4_awq", 8, 128, group_size=group_size)
    assert "layers.3.mlp.proj" in error.message
    assert "128 inputs" in error.message


def test_an_odd_number_of_outputs_does_not_pack():
    error = refused(CheckpointError, "MM437", stored, "int4_awq", 7, 128, group_size=64)
    assert "layers.3.mlp.proj" in error.message


def test_the_config_says_how_it_was_quantized_and_is_read_back():
    awq = CheckpointConfig(LLM, "float16", 2, "W4A16_AWQ", group_size=32)
    assert to_json(awq)["quantization"] == {
        "quant_algo": "W4A16_AWQ",
        "kv_cache_quant_algo": None,
        "group_size": 32,
        "has_zero_point": False,
        "pre_quant_scale": True,
        "exclude_modules": ["lm_head"],
    }
    assert from_json(to_json(awq)) == awq


def test_other_quantizations_keep_the_keys_they_had():
    assert quantization_json("W8A16", None) == {"quant_algo": "W8A16", "kv_cache_quant_algo": None}
    assert quantization_json("FP8", None) == {
        "quant_algo": "FP8",
        "kv_cache_quant_algo": None,
        "exclude_modules": ["lm_head"],
    }
