"""Loaded engines for tests, by what they were built from; compiled once (:mod:`support.steps.cache`)."""

from __future__ import annotations

import shutil
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

import shapes_world as world
from mmbuild.backends.torch import Engine
from mmbuild.backends.torch.visual_engine import VisualEngine
from mmbuild.models.families.processor import Request
from mmbuild.models.families.reference import load_reference
from support.engines import build as build_engine
from support.models import tiny_llava
from support.steps import cache as step_cache

DEMO = tiny_llava.PROCESSOR
BATCH = 4
# Asked one question at a time only: without the package for several.
_ALONE = {("bfloat16", "none")}


def demo_directory(dtype: str = "float32", quantization: str = "none") -> Path:
    """The engine directory of the demo model; read-only by agreement, copy it to damage it.

    Batches of up to 4, as in the demo recipes, so that applies of these share the packages; in bfloat16 one prompt
    with as many pictures.
    """
    alone = (dtype, quantization) in _ALONE
    return build_engine.build_engine(
        "llava",
        {"model": DEMO},
        dtype=dtype,
        quantization=quantization,
        max_batch_size=1 if alone else BATCH,
        max_images_per_prompt=BATCH if alone else 1,
        max_input_len=128,
        max_output_len=40,
    )


@cache
def demo_engine(dtype: str = "float32", quantization: str = "none") -> Engine:
    """The engine of :func:`demo_directory`, loaded."""
    return Engine.load(demo_directory(dtype, quantization))


@cache
def demo_reference(dtype: str = "float32") -> Any:
    """transformers on the demo model."""
    return load_reference("llava", {"model": DEMO}, dtype, "cpu")


def random_model(seed: int) -> Path:
    """Directory of a small LLaVA of random shapes and weights."""
    config = tiny_llava.random_config(seed).to_json_string(use_diff=False)
    return step_cache.once(
        step_cache.default_root(),
        "random-model",
        [seed, config],
        lambda directory: tiny_llava.save_random_model(directory, seed),
    )


@cache
def random_engine(seed: int) -> Engine:
    """The float32 engine of :func:`random_model`, batches of up to 3."""
    return Engine.load(
        build_engine.build_engine("llava", {"model": random_model(seed)}, processor=tiny_llava.PROCESSOR)
    )


@cache
def random_visual(seed: int) -> VisualEngine:
    """The visual engine of :func:`random_engine`, without the rest of it."""
    parts = build_engine.build_visual_engine(
        "llava", {"model": random_model(seed)}, dtype="float32", images=3
    )

    def together(out: Path) -> None:
        for directory in parts:
            shutil.copytree(directory, out, dirs_exist_ok=True)

    directory = step_cache.once(
        step_cache.default_root(), "random-visual", [part.name for part in parts], together
    )
    return VisualEngine(directory, build_engine.TARGET)


@cache
def random_reference(seed: int) -> Any:
    """transformers on the weights of :func:`random_model`."""
    return load_reference("llava", {"model": random_model(seed)}, "float32", "cpu")


def random_requests(engine: Engine, lengths: list[int], seed: int = 0) -> list[Request]:
    """Prompts of random words, an image of noise amid each; ``lengths`` are their words."""
    generator = torch.Generator().manual_seed(seed)
    features = engine.visual.config.num_visual_features
    image_token = engine.description.image_token_id
    requests = []
    for length in lengths:
        words = torch.randint(5, 64, (length,), generator=generator).tolist()
        before = length // 2
        ids = (*words[:before], *[image_token] * features, *words[before:])
        pixels = torch.randn(1, 3, *engine.visual.config.image_size, generator=generator)
        requests.append(Request(ids, pixels))
    return requests


def drawn(seed: int, count: int, *, held_out: bool = False) -> list[tuple[Image.Image, list[world.Question]]]:
    """Pictures of the demo model's world with their questions and right answers."""
    rng = np.random.default_rng(seed)
    pairs = []
    for _ in range(count):
        scene = world.draw_scene(rng, held_out=held_out)
        pairs.append((world.draw_picture(scene, rng), list(world.questions(scene, rng))))
    return pairs
