"""Small LLaVA models of random shapes and weights, and engines built from them step by step."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import torch
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

PROCESSOR = Path(__file__).parents[3] / "examples" / "models" / "llava-shapes"


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
