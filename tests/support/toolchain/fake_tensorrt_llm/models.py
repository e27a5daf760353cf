"""What the programs need to know of a model, read in its config.json as its author wrote it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Stack:
    """A stack of layers."""

    layers: int
    width: int
    gated: bool


def decoder(model: Path) -> Stack:
    text = _text(json.loads((model / "config.json").read_text("utf-8")))
    layers = text.get("num_decoder_layers") or text.get("decoder_layers") or text.get("num_layers")
    return _stack(text, layers or text.get("num_hidden_layers", 32))


def encoder(model: Path) -> Stack:
    text = _text(json.loads((model / "config.json").read_text("utf-8")))
    return _stack(text, text["num_layers"])


def _text(config: dict[str, Any]) -> dict[str, Any]:
    for name in ("text_config", "llm_cfg", "decoder"):
        if isinstance(config.get(name), dict):
            return dict(config[name])
    return config


def _stack(text: dict[str, Any], layers: int) -> Stack:
    width = text.get("d_model") or text.get("hidden_size", 4096)
    kind = text.get("model_type", "llama")
    gated = str(text.get("feed_forward_proj", "")).startswith("gated") or "lla" in kind
    return Stack(layers, width, gated)
