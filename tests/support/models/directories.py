"""Small LLaVA directories as transformers saves them, whose files agree with each other."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

from mmbuild.models.families.llava.processor import write_stand_in

VOCABULARY, IMAGE = 320, 300


def save_llava(directory: Path, **options: Any) -> Path:
    """A LLaVA of 320 tokens, 28 x 28 pixels and 16 visual features, with tokenizer and processor.

    Args:
        directory: Where to save it.
        options: As ``save_pretrained`` takes them, such as ``max_shard_size``.
    """
    text = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        pad_token_id=0,
    )
    eyes = CLIPVisionConfig(
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=3,
        num_attention_heads=4,
        image_size=28,
        patch_size=7,
    )
    config = LlavaConfig(text_config=text, vision_config=eyes, image_token_index=IMAGE)
    torch.manual_seed(1)
    LlavaForConditionalGeneration(config).float().save_pretrained(directory, **options)
    write_stand_in(json.loads((directory / "config.json").read_text()), directory)
    return directory


def edit(file: Path, change: Callable[[dict[str, Any]], object] | None = None, **values: Any) -> None:
    """Change a JSON file: ``change`` gets its content; ``values`` are put over it, None removes a key."""
    content = json.loads(file.read_text()) if file.exists() else {}
    if change is not None:
        change(content)
    content = {key: value for key, value in (content | values).items() if value is not None}
    file.write_text(json.dumps(content))
