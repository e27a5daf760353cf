"""Engines of the shipped demo models of every family, compiled once for all tests."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from demo_worlds import MODELS
from mmbuild.backends.torch import Engine
from mmbuild.models.families.reference import load_reference
from support.engines import build as build_engine

ROOT = Path(__file__).parents[3] / "examples" / "models"
BATCH, BEAMS = 4, 2
# Longest answers: a page takes more tokens than a sentence.
_OUTPUT = {"nougat": 200}
# Of llava's, those of :mod:`engines` are taken, which search no beams; vila's language model has the same shapes and
# shares their packages.
_BEAMS = {"llava": 1, "vila": 1}
# Asked one question at a time only: without the package for several.
_ALONE = {("vila", "float16"), ("nougat", "bfloat16")}


def model(family: str) -> Path:
    """The demo model of ``family``."""
    return ROOT / MODELS[family]


def directory(
    family: str, dtype: str = "float32", quantization: str = "none", tensor_parallel: int = 1
) -> Path:
    """The engine directory: batches of 4, 2 beams (llava and vila: 1), for vila 2 images a prompt; read-only by
    agreement.

    Of vila in float16 and nougat in bfloat16 one prompt, greedily.
    """
    alone = (family, dtype) in _ALONE
    return build_engine.build_engine(
        family,
        {"model": model(family)},
        dtype=dtype,
        quantization=quantization,
        tensor_parallel=tensor_parallel,
        max_batch_size=1 if alone else BATCH,
        max_beam_width=1 if alone else _BEAMS.get(family, BEAMS),
        max_images_per_prompt=2 if family == "vila" else 1,
        max_input_len=128,
        max_output_len=_OUTPUT.get(family, 40),
    )


@cache
def engine(family: str, dtype: str = "float32", quantization: str = "none") -> Engine:
    """The loaded engine of :func:`directory`."""
    return Engine.load(directory(family, dtype, quantization))


@cache
def reference(family: str, dtype: str = "float32") -> Any:
    """transformers on the demo model."""
    return load_reference(family, {"model": model(family)}, dtype, "cpu")
