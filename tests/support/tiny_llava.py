"""Small LLaVA models of random shapes and weights, and engines built from them step by step."""

from __future__ import annotations

import json
import random
from dataclasses import asdict
from pathlib import Path
from typing import Any

import step_cache
import torch
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

from mmbuild.families import family
from mmbuild.steps import assemble, build_llm, build_visual, convert, quantize

PROCESSOR = Path(__file__).parents[2] / "examples" / "models" / "llava-shapes"
QUANT_ALGO = {"none": None, "int8": "W8A16", "int4": "W4A16"}
TARGET = {"device": "cpu", "sm": None, "isa": "avx2"}


def random_config(seed: int, **overrides: Any) -> LlavaConfig:
    """A LLaVA of random small shapes: grouped-query attention, tied or untied head, other image sizes."""
    rng = random.Random(seed)
    head_size = rng.choice([8, 16, 32])
    kv_heads = rng.choice([1, 2])
    heads = kv_heads * rng.choice([1, 2, 3])
    patch = rng.choice([4, 8, 14])
    tied = rng.choice([True, False])
    text = LlamaConfig(
        vocab_size=rng.choice([64, 97]),
        hidden_size=heads * rng.choice([16, 24]),
        intermediate_size=rng.choice([32, 80]),
        num_hidden_layers=rng.choice([2, 3]),
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        head_dim=head_size,
        max_position_embeddings=256,
        rms_norm_eps=rng.choice([1e-5, 1e-6]),
        initializer_range=0.3,
        tie_word_embeddings=tied,
    )
    vision = CLIPVisionConfig(
        hidden_size=rng.choice([32, 64]),
        intermediate_size=64,
        num_hidden_layers=rng.choice([2, 3]),
        num_attention_heads=4,
        image_size=patch * rng.choice([2, 3]),
        patch_size=patch,
        initializer_range=0.2,
    )
    config = LlavaConfig(
        text_config=text,
        vision_config=vision,
        image_token_id=4,
        tie_word_embeddings=tied,
        vision_feature_layer=rng.choice([-1, -2]),
        vision_feature_select_strategy=rng.choice(["default", "full"]),
    )
    for name, value in overrides.items():
        setattr(config, name, value)
    return config


def save_random_model(directory: Path, seed: int) -> LlavaConfig:
    """Write a random model to ``directory`` in ordinary Hugging Face layout (weights and config)."""
    torch.manual_seed(seed)
    config = random_config(seed)
    LlavaForConditionalGeneration(config).float().save_pretrained(directory)
    return config


def build_engine(
    model: Path,
    root: Path | None = None,
    *,
    quantization: str = "none",
    dtype: str = "float32",
    max_batch_size: int = 3,
    max_input_len: int = 96,
    max_output_len: int = 40,
    processor: Path = PROCESSOR,
) -> Path:
    """Run the steps of a LLaVA recipe one after the other; returns the engine directory.

    ``root`` keeps the outputs of the steps; left out, a directory that all tests share.
    """
    root = root or step_cache.default_root()
    facts = family("llava").facts(json.loads((model / "config.json").read_text()))
    features = facts.visual.num_visual_features
    params: dict[str, Any] = {"family": "llava", "dtype": dtype, "tensor_parallel": 1}
    checkpoint = step_cache.run_step(root, convert.run, params, inputs={"model": model})
    if quantization != "none":
        checkpoint = step_cache.run_step(
            root, quantize.run, {"algorithm": quantization}, inputs={"checkpoint": checkpoint}
        )
    sizes = asdict(facts.llm)
    del sizes["max_position_embeddings"], sizes["tie_word_embeddings"]
    limits = {
        "dtype": dtype,
        "quant_algo": QUANT_ALGO[quantization],
        "tensor_parallel": 1,
        "max_batch_size": max_batch_size,
        "max_input_len": max_input_len,
        "max_output_len": max_output_len,
        "max_multimodal_len": max_batch_size * features,
    }
    llm = step_cache.run_step(root, build_llm.run, sizes | limits, target=TARGET)
    visual_params = {
        "family": "llava",
        "dtype": dtype,
        "feature_dtype": dtype,
        "max_batch_size": max_batch_size,
        "num_visual_features": features,
        "image_size": list(facts.visual.image_size),
    }
    visual = step_cache.run_step(
        root, build_visual.run, visual_params, inputs={"model": model}, target=TARGET
    )
    return step_cache.run_step(
        root,
        assemble.run,
        {
            "family": "llava",
            "image_token_id": facts.image_token_id,
            "eos_token_ids": list(facts.eos_token_ids),
            "toolchain": {"torch": torch.__version__},
        },
        inputs={"checkpoint": checkpoint, "llm": llm, "visual": visual, "model": processor},
        target=TARGET,
    )
