"""Compiled engines of calibrated checkpoints answer as transformers does with the dequantized weights."""

import dataclasses
from types import MethodType

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM

from mmbuild.backends.torch.session import Session
from mmbuild.backends.torch.weights import check_weights, rank_files
from mmbuild.models.checkpoint.config import CheckpointConfig
from mmbuild.models.errors import CheckpointError, EngineError
from mmbuild.steps import build_llm
from support.engines.build import TARGET
from support.errors import refused
from support.models.calibrated_checkpoints import (
    AWQ,
    FP8,
    SMOOTH,
    in_hugging_face_names,
    random_tensors,
    write_checkpoint,
)
from support.models.engine_config import CONFIG, LLM
from support.steps import cache as step_cache

pytestmark = pytest.mark.slow

LLAMA = dataclasses.replace(
    LLM, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, head_size=8, rotary_base=10000.0
)
# 66 is the third row of the prompt table. One token alone: Inductor's product of one row of int8 was seen to be wrong
# on the CPU (torch 2.13), which the layers must not run into.
PROMPTS = [[3, 17, 41, 66, 5, 60], [17]]
STEPS = 6
# Largest difference of a logit, in units of the logits' own spread. AWQ and FP8: float32 in another order.
# SmoothQuant compared with per-token rounding in transformers: a value on the edge may round the other way.
# SmoothQuant compared with weight-only: the loss from rounding activations to 8 bits.
SAME, ROUNDED_AS_WELL, NOT_ROUNDED = 1e-5, 1e-3, 0.02


@pytest.fixture(scope="module", params=[AWQ, SMOOTH, FP8])
def engine(request, tmp_path_factory):
    """Config, directory of packages, checkpoint, tensors."""
    group_size = 16 if request.param == AWQ else None
    config = dataclasses.replace(
        CONFIG, llm=LLAMA, quant_algo=request.param, group_size=group_size, max_batch_size=1
    )
    packages = step_cache.run_step(step_cache.default_root(), build_llm.run, config.to_json(), target=TARGET)
    stored = CheckpointConfig(LLAMA, "float32", 1, request.param, group_size)
    tensors = random_tensors(stored, seed=7)
    checkpoint = write_checkpoint(tmp_path_factory.mktemp("checkpoint"), stored, tensors)
    return config, packages, checkpoint, stored, tensors


def session_of(config, packages, checkpoint):
    files = rank_files(checkpoint, config, 0)
    check_weights(files, config)
    return Session(config, packages, files, TARGET)


def reference(stored, tensors):
    """transformers' model with float32 weights."""
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=LLAMA.vocab_size,
            hidden_size=LLAMA.hidden_size,
            intermediate_size=LLAMA.intermediate_size,
            num_hidden_layers=LLAMA.num_hidden_layers,
            num_attention_heads=LLAMA.num_attention_heads,
            num_key_value_heads=LLAMA.num_key_value_heads,
            head_dim=LLAMA.head_size,
            rms_norm_eps=LLAMA.norm_epsilon,
            max_position_embeddings=64,
            tie_word_embeddings=False,
        )
    )
    missing = model.load_state_dict(in_hugging_face_names(stored, tensors), strict=False)
    assert not missing.unexpected_keys
    assert not missing.missing_keys
    return model.eval()


def round_tokens(model, tensors):
    """Round what enters each linear layer of the decoder to 8 bits, token by token, smoothed first where it is."""
    for name, module in model.model.layers.named_modules():
        if not isinstance(module, torch.nn.Linear):
            continue
        own = name.replace("self_attn.o_proj", "attention.dense").replace("mlp.down_proj", "mlp.proj")
        smoother = tensors.get(f"transformer.layers.{own}.smoother", torch.ones(1, module.in_features))[0]

        def forward(self, x, smoother=smoother):
            smooth = x / smoother
            unit = smooth.abs().amax(-1, keepdim=True) / 127
            return torch.nn.functional.linear(torch.round(smooth / unit) * unit * smoother, self.weight)

        module.forward = MethodType(forward, module)


def compare(engine, model):
    """Largest difference over all prompts."""
    return max(compare_one(engine, model, prompt) for prompt in PROMPTS)


@torch.no_grad()
def compare_one(engine, model, prompt):
    """Largest difference of the logits of a prompt with rows of the table and of the tokens after it, by spread."""
    config, packages, checkpoint, _, _ = engine
    session = session_of(config, packages, checkpoint)
    table = session.empty_prompt_table()
    table += torch.randn(table.shape, generator=torch.Generator().manual_seed(3))
    words, vocab = model.get_input_embeddings().weight, config.vocab_size
    embedded = torch.stack([table[i - vocab] if i >= vocab else words[i] for i in prompt])[None]
    ours, tokens, worst = session.prefill([prompt], table), [], 0.0
    for _ in range(STEPS):
        required = model(inputs_embeds=embedded).logits[:, -1]
        worst = max(worst, float((ours - required).abs().max() / required.std()))
        tokens.append(int(required.argmax()))
        embedded = torch.cat([embedded, words[tokens[-1]][None, None]], dim=1)
        ours = session.decode(torch.tensor(tokens[-1:]))
    assert len(set(tokens)) > 1, "a model that says one thing shows nothing"
    return worst


def test_logits_are_those_of_the_dequantized_checkpoint(engine):
    config, _, _, stored, tensors = engine
    model = reference(stored, tensors)
    worst = compare(engine, model)
    if config.quant_algo != SMOOTH:
        assert worst < SAME
        return
    assert SAME < worst < NOT_ROUNDED, "activations are rounded"
    round_tokens(model, tensors)
    assert compare(engine, model) < ROUNDED_AS_WELL


def test_loading_refuses_scales_that_cannot_be_right_by_the_layers_name(engine, tmp_path):
    config, packages, checkpoint, stored, tensors = engine
    layer = "transformer.layers.1.mlp.proj"
    scale = next(name for name in tensors if name.startswith(layer) and "scal" in name)
    for value, words in ((float("nan"), "not finite"), (0.0, "0 everywhere"), (-1.0, "negative")):
        broken = write_checkpoint(tmp_path, stored, tensors | {scale: torch.full_like(tensors[scale], value)})
        error = refused(CheckpointError, "MM544", session_of, config, packages, broken)
        assert f"`{layer}`" in error.message
        assert words in error.message
    del checkpoint


def test_weights_of_another_shape_are_refused_before_they_are_bound(engine, tmp_path):
    config, packages, checkpoint, _, _ = engine
    tensors = load_file(checkpoint / "rank0.safetensors")
    name = next(name for name in tensors if name.endswith(("_factor", "_scale")))
    tensors[name] = tensors[name].new_ones(3)
    save_file(tensors, tmp_path / "rank0.safetensors")
    assert name in refused(EngineError, "MM505", session_of, config, packages, tmp_path).message
