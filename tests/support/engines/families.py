"""Engines and references of small random models of every family, compiled once for all tests."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch

from mmbuild.backends.torch import Engine
from mmbuild.models.families.processor import Request
from mmbuild.models.families.reference import load_reference
from support.engines import build as build_engine
from support.models import tiny_families
from support.steps import cache as step_cache

BATCH, BEAMS = 3, 3


def sources(family: str, seed: int) -> dict[str, Path]:
    """A random model on disk, in one directory or two."""
    name, _, form = family.partition("/")

    def make(directory: Path) -> None:
        if form == "two":
            tiny_families.save_in_two(name, seed, directory)
        elif form == "flat":
            tiny_families.save_flat_vila(seed, directory)
        elif name == "vila":
            tiny_families.save_vila(seed, directory / "model")
        else:
            tiny_families.save_model(name, seed, directory / "model")

    code = Path(tiny_families.__file__).read_text()
    root = step_cache.once(step_cache.default_root(), "family-model", [family, seed, code], make)
    return {path.name: path for path in sorted(root.iterdir())}


@cache
def engine(family: str, seed: int, quantization: str = "none", tensor_parallel: int = 1) -> Engine:
    """The float32 engine of :func:`sources`: batches of 3, 3 beams, 2 images a prompt for vila."""
    return Engine.load(directory(family, seed, quantization, tensor_parallel))


def directory(family: str, seed: int, quantization: str = "none", tensor_parallel: int = 1) -> Path:
    """The engine's directory."""
    name = family.partition("/")[0]
    return build_engine.build_engine(
        name,
        sources(family, seed),
        quantization=quantization,
        tensor_parallel=tensor_parallel,
        max_batch_size=BATCH,
        max_beam_width=BEAMS,
        max_images_per_prompt=2 if name == "vila" else 1,
        max_input_len=48,
        max_output_len=24,
    )


@cache
def reference(family: str, seed: int) -> Any:
    """transformers on the same weights."""
    return load_reference(family.partition("/")[0], sources(family, seed), "float32", "cpu")


def requests(engine: Engine, lengths: Sequence[int], seed: int = 0) -> list[Request]:
    """Prompts of random words after an image of noise each; where no text is taken, images alone."""
    generator = torch.Generator().manual_seed(seed)
    visual, config = engine.visual.config, engine.config
    made = []
    for length in lengths:
        pixels = torch.randn(1, 3, *visual.image_size, generator=generator)
        if not engine.processor.takes_text:
            made.append(Request((int(config.llm.decoder_start_token_id or 0),), pixels))
            continue
        words = torch.randint(4, config.vocab_size - 8, (length,), generator=generator).tolist()
        image = engine.description.image_token_id
        made.append(Request((*[image] * visual.num_visual_features, *words), pixels))
    return made
