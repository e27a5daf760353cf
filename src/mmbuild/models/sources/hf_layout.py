"""Which files of a model directory in Hugging Face layout a build needs."""

from __future__ import annotations

import re
from collections.abc import Iterable
from fnmatch import translate

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

_KINDS_OF_WEIGHTS = [re.compile("|".join(map(translate, kind))) for kind in (SAFETENSORS, PICKLES)]

# Any one of them makes a tokenizer, or says how images are prepared.
TOKENIZER_CORES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model")


def required_files(names: Iterable[str], directories: Iterable[str] = ()) -> list[str]:
    """The files to take out of those a model has, sorted.

    Args:
        names: Paths in the model, ``/`` between directory and file.
        directories: Directories below the model's own that hold files of it too.
    """
    present = list(names)
    taken = _needed([name for name in present if "/" not in name])
    for directory in directories:
        start = f"{directory}/"
        below = [name.removeprefix(start) for name in present if name.startswith(start)]
        taken += [start + name for name in _needed(below)]
    return sorted(taken)


def is_small(name: str) -> bool:
    """Whether a needed file is none of weights."""
    return name.rpartition("/")[2] in SMALL


def is_weights(name: str) -> bool:
    """Whether a file is one of weights."""
    return any(pattern.match(name) for pattern in _KINDS_OF_WEIGHTS)


def _needed(present: list[str]) -> list[str]:
    weights: list[str] = []
    for pattern in _KINDS_OF_WEIGHTS:
        weights = weights or [name for name in present if pattern.match(name)]
    return [*weights, *(name for name in present if name in SMALL)]
