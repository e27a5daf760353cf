"""Selects the files that a build needs from a model in Hugging Face layout."""

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
LEGAL = ("LICENSE", "LICENSE.txt", "LICENSE.md", "NOTICE", "NOTICE.txt", "NOTICE.md")
"""Terms under which a model is passed on; what is built from its weights comes with them."""
SMALL = (*CONFIG, *TOKENIZER, *PROCESSOR, *LEGAL)

# Only one kind of weights is used: the first that exists.
SAFETENSORS = ("model.safetensors", "model-*.safetensors", "model.safetensors.index.json")
PICKLES = ("pytorch_model.bin", "pytorch_model-*.bin", "pytorch_model.bin.index.json")

_KINDS_OF_WEIGHTS = [re.compile("|".join(map(translate, kind))) for kind in (SAFETENSORS, PICKLES)]

# Each of these alone is a tokenizer.
TOKENIZER_CORES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model")


def required_files(names: Iterable[str], directories: Iterable[str] = ()) -> list[str]:
    """The required files of a model, sorted.

    Args:
        names: Paths of all its files, with ``/`` as separator.
        directories: Subdirectories that also contain files of the model.
    """
    present = list(names)
    taken = _needed([name for name in present if "/" not in name])
    for directory in directories:
        start = f"{directory}/"
        below = [name.removeprefix(start) for name in present if name.startswith(start)]
        taken += [start + name for name in _needed(below)]
    return sorted(taken)


def is_small(name: str) -> bool:
    """Whether a required file is not a weight file."""
    return name.rpartition("/")[2] in SMALL


def is_weights(name: str) -> bool:
    """Whether a file is a weight file."""
    return any(pattern.match(name) for pattern in _KINDS_OF_WEIGHTS)


def _needed(present: list[str]) -> list[str]:
    weights: list[str] = []
    for pattern in _KINDS_OF_WEIGHTS:
        weights = weights or [name for name in present if pattern.match(name)]
    return [*weights, *(name for name in present if name in SMALL)]
