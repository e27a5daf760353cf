"""A calibrated checkpoint over several ranks holds the numbers of the one that it was split from."""

import dataclasses

import pytest
import torch
from calibrated_checkpoints import AWQ, FP8, SMOOTH, dequantized, random_tensors, write_checkpoint
from errors_told import refused
from safetensors.torch import load_file
from small_config import LLM

from mmbuild.checkpoint.calibrated import BY_QUANT_ALGO, stored_tensors
from mmbuild.checkpoint.config import CheckpointConfig
from mmbuild.checkpoint.errors import CheckpointError
from mmbuild.checkpoint.reader import load_config
from mmbuild.checkpoint.resplit import rank_tensors, resplit
from mmbuild.checkpoint.tensors import tensors as specified

GROUP = 16
LLAMA = dataclasses.replace(
    LLM,
    vocab_size=101,
    hidden_size=64,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    intermediate_size=128,
)
OPT = dataclasses.replace(
    LLAMA,
    architecture="OPTForCausalLM",
    num_key_value_heads=4,
    max_position_embeddings=24,
    position_embedding_type="learned_absolute",
    layernorm_type="LayerNorm",
    has_attention_qkvo_bias=True,
    has_mlp_bias=True,
    mlp_type="MLP",
)


def calibrated(quant_algo, llm=LLAMA, group_size=GROUP):
    return CheckpointConfig(llm, "float32", 1, quant_algo, group_size if quant_algo == AWQ else None)


@pytest.mark.parametrize("ranks", [1, 2, 4])
@pytest.mark.parametrize("llm", [LLAMA, OPT], ids=["llama", "opt"])
@pytest.mark.parametrize("quant_algo", [AWQ, SMOOTH, FP8])
def test_each_rank_stands_for_its_part_of_the_weights(quant_algo, llm, ranks):
    config = calibrated(quant_algo, llm)
    whole = random_tensors(config)
    for rank in range(ranks):
        parts = dict(rank_tensors(whole, config, rank, ranks))
        for spec in specified(llm):
            if not spec.quantizable:
                continue
            layer = spec.name.removesuffix(".weight")
            matrix, wanted = dequantized(layer, whole), []
            for part, rows in zip(spec.parts, matrix.split([p.shape[0] for p in spec.parts]), strict=True):
                cut = part.rule(llm, rank, ranks)
                wanted.append(rows[slice(*(cut.rows or (None,)))][:, slice(*(cut.columns or (None,)))])
            assert torch.equal(dequantized(layer, parts), torch.cat(wanted)), layer


@pytest.mark.parametrize("quant_algo", [AWQ, SMOOTH, FP8])
def test_files_hold_what_the_tables_say_of_each_rank(quant_algo, tmp_path):
    config = calibrated(quant_algo, OPT)
    made = resplit(write_checkpoint(tmp_path / "one", config, random_tensors(config)), tmp_path, 2)
    assert made == dataclasses.replace(config, tensor_parallel=2) == load_config(tmp_path)
    found = load_file(tmp_path / "rank1.safetensors")
    for spec in specified(OPT):
        layer, shape = spec.name.removesuffix(".weight"), spec.shape(OPT, 1, 2)
        if not spec.quantizable:
            assert tuple(found.pop(spec.name).shape) == shape
            continue
        split = layer.endswith(("dense", "proj"))
        how = BY_QUANT_ALGO[quant_algo]
        wanted = stored_tensors(
            how, layer, *shape, dtype="float32", group_size=config.group_size, inputs_split=split
        )
        for suffix, (dtype, size) in wanted.items():
            tensor = found.pop(f"{layer}.{suffix}")
            assert (str(tensor.dtype), tuple(tensor.shape)) == (f"torch.{dtype}", size)
    assert not found


def test_biases_follow_their_outputs_and_the_vocabulary_is_padded():
    config = calibrated(AWQ, OPT)
    whole = random_tensors(config)
    first, last = (dict(rank_tensors(whole, config, rank, 2)) for rank in range(2))
    layer = "transformer.layers.1"
    query, key, value = whole[f"{layer}.attention.qkv.bias"].chunk(3)
    assert torch.equal(last[f"{layer}.attention.qkv.bias"], torch.cat([t[32:] for t in (query, key, value)]))
    assert torch.equal(first[f"{layer}.mlp.fc.bias"], whole[f"{layer}.mlp.fc.bias"][:64])
    assert torch.equal(last[f"{layer}.mlp.proj.bias"], whole[f"{layer}.mlp.proj.bias"])
    positions = "transformer.position_embedding.weight"
    assert torch.equal(last[positions], whole[positions])
    head = torch.cat([first["lm_head.weight"], last["lm_head.weight"]])
    assert head.shape == (102, 64)
    assert torch.equal(head[:101], whole["lm_head.weight"])
    assert not head[101].any()


def test_groups_that_ranks_would_share_are_refused_by_the_layers_name(tmp_path):
    config = calibrated(AWQ, group_size=32)
    one = write_checkpoint(tmp_path / "one", config, random_tensors(config))
    error = refused(CheckpointError, "MM543", resplit, one, tmp_path, 4)
    assert "transformer.layers.0.attention.dense" in error.message


def test_what_is_not_calibrated_or_split_already_is_refused(tmp_path):
    plain = dataclasses.replace(calibrated(SMOOTH), quant_algo="W8A16")
    other = write_checkpoint(tmp_path / "plain", plain, {"ln_f": torch.zeros(1)})
    assert "W8A16" in refused(CheckpointError, "MM438", resplit, other, tmp_path, 2).message
    split = write_checkpoint(
        tmp_path / "two", dataclasses.replace(calibrated(FP8), tensor_parallel=2), {"ln_f": torch.zeros(1)}
    )
    assert "2 ranks" in refused(CheckpointError, "MM438", resplit, split, tmp_path, 2).message


def test_a_model_that_does_not_divide_is_refused():
    config = calibrated(FP8)
    refused(CheckpointError, "MM433", lambda: dict(rank_tensors({}, config, 0, 3)))
