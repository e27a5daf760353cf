"""Small LLaVA model directories of random weights, written without transformers."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from mmbuild.models.families.llava import visual_shape, visual_weights

DEMO = Path(__file__).parents[3] / "examples" / "models" / "llava-shapes"
OLD, NEW = (
    ("language_model.model.", "language_model.lm_head.weight"),
    ("model.language_model.", "lm_head.weight"),
)


def config(**text: Any) -> dict[str, Any]:
    """A ``config.json`` with the given text sizes; 4 visual features."""
    sizes = {
        "model_type": "llama",
        "vocab_size": 50,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "max_position_embeddings": 128,
    }
    return {
        "model_type": "llava",
        "image_token_index": 4,
        "tie_word_embeddings": False,
        "vision_feature_select_strategy": "default",
        "text_config": sizes | text,
        "vision_config": {"model_type": "clip_vision_model", "image_size": 16, "patch_size": 8},
    }


def decoder(
    content: dict[str, Any], rng: np.random.Generator, naming: tuple[str, str] = OLD
) -> dict[str, Any]:
    """Random float32 tensors of the decoder, by full name."""
    text = content["text_config"]
    hidden, inner, head = text["hidden_size"], text["intermediate_size"], text["head_dim"]
    query, shared = text["num_attention_heads"] * head, text["num_key_value_heads"] * head
    shapes = {"embed_tokens.weight": (text["vocab_size"], hidden), "norm.weight": (hidden,)}
    for i in range(text["num_hidden_layers"]):
        layer = {
            "self_attn.q_proj": (query, hidden),
            "self_attn.k_proj": (shared, hidden),
            "self_attn.v_proj": (shared, hidden),
            "self_attn.o_proj": (hidden, query),
            "mlp.gate_proj": (inner, hidden),
            "mlp.up_proj": (inner, hidden),
            "mlp.down_proj": (hidden, inner),
            "input_layernorm": (hidden,),
            "post_attention_layernorm": (hidden,),
        }
        shapes |= {f"layers.{i}.{name}.weight": shape for name, shape in layer.items()}
    prefix, head_name = naming
    tensors = {prefix + name: shape for name, shape in shapes.items()}
    if not content["tie_word_embeddings"]:
        tensors[head_name] = (text["vocab_size"], hidden)
    return {name: rng.standard_normal(shape).astype(np.float32) for name, shape in tensors.items()}


def visual(content: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
    """Random float32 tensors of a small tower, which is put into ``content``, and of the projector."""
    content["vision_config"] |= {
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
    }
    shapes = visual_weights.tensors(visual_shape.shape(content))
    return {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}


def write_model(
    directory: Path, content: dict[str, Any], tensors: dict[str, Any], *, shards: int = 1
) -> Path:
    """A whole model directory: config, weights, and the demo model's tokenizer and processor in its sizes."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.json").write_text(json.dumps(content))
    shutil.copyfile(DEMO / "tokenizer_config.json", directory / "tokenizer_config.json")
    tokenizer = json.loads((DEMO / "tokenizer.json").read_text())
    words = tokenizer["model"]["vocab"].items()
    tokenizer["model"]["vocab"] = {w: i for w, i in words if i < content["text_config"]["vocab_size"]}
    (directory / "tokenizer.json").write_text(json.dumps(tokenizer))
    processor = json.loads((DEMO / "processor_config.json").read_text())
    side, processor["patch_size"] = (content["vision_config"][key] for key in ("image_size", "patch_size"))
    processor["image_processor"] |= {"size": {"shortest_edge": side}, "crop_size": side}
    (directory / "processor_config.json").write_text(json.dumps(processor))
    if shards == 1:
        save_file(tensors, directory / "model.safetensors")
        return directory
    weight_map = {}
    for i in range(shards):
        file = f"model-{i + 1:05}-of-{shards:05}.safetensors"
        part = {name: tensors[name] for name in sorted(tensors)[i::shards]}
        save_file(part, directory / file)
        weight_map |= dict.fromkeys(part, file)
    (directory / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return directory
