"""Which files of a model directory in Hugging Face layout a build needs."""

from __future__ import annotations

from collections.abc import Iterable
from fnmatch import fnmatchcase

CONFIG = ("config.json", "generation_config.json")
TOKENIZER = (
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "spiece.model",
    "chat_template.json",
    "chat_template.jinja",
)
PROCESSOR = ("processor_config.json", "preprocessor_config.json")
SMALL = (*CONFIG, *TOKENIZER, *PROCESSOR)

# One kind of weights is taken: the first that is there.
SAFETENSORS = ("model.safetensors", "model-*.safetensors", "model.safetensors.index.json")
PICKLES = ("pytorch_model.bin", "pytorch_model-*.bin", "pytorch_model.bin.index.json")

# Any one of them makes a tokenizer, or says how images are prepared.
TOKENIZER_CORES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model")


def needed(names: Iterable[str]) -> list[str]:
    """The files to take out of those a model has, sorted; file names without directories only."""
    present = list(names)
    for kind in (SAFETENSORS, PICKLES):
        weights = [name for name in present if _matches(name, kind)]
        if weights:
            break
    return sorted({*weights, *(name for name in present if name in SMALL)})


def _matches(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)
