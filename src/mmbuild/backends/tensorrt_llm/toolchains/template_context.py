"""Names available in toolchain templates: the recipe's solved numbers, and facts of the model.

A template that uses any other name fails, so this is the complete interface between recipes and toolchain files.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from mmbuild.backends.tensorrt_llm.toolchains.model import FamilyEntry, Mode, ReservedWord, Toolchain
from mmbuild.backends.tensorrt_llm.toolchains.template import fill
from mmbuild.models.sources.config import parse_source
from mmbuild.schema.model import CALIBRATED, WEIGHT_ONLY, Algorithm, Engine
from mmbuild.schema.resolved import ResolvedRecipe
from mmbuild.schema.solver import sequence_len

DEFAULT_NEW_TOKENS = 30
"""Default length of an answer: that of upstream's commands, which its accuracy check requires."""

DEFAULT_SAMPLES = 32
"""Default number of calibration samples: that of upstream's commands, and the most that AWQ uses."""


def variables(variant: ResolvedRecipe, toolchain: Toolchain) -> dict[str, Any]:
    """All names for conditions and templates, except those of :func:`recipe_inference_context` and ``rank``."""
    recipe, facts = variant.recipe, variant.facts
    entry = toolchain.families[recipe.model.family]
    algorithm = recipe.engine.quantization.algorithm
    names: dict[str, Any] = {
        "family": facts.family,
        **_engine(recipe.engine),
        "max_seq_len": sequence_len(recipe).value,
        "visual_max_batch_size": recipe.visual.max_batch_size,
        "visual_dtype": recipe.visual.dtype and recipe.visual.dtype.value,
        "precision": toolchain.precisions.get(f"{algorithm}-{recipe.engine.dtype}")
        or toolchain.precisions[algorithm],
        "qformat": toolchain.qformats.get(algorithm),
        "fused_mlp": _fused_mlp(variant),
        "sm": recipe.target.sm if recipe.target is not None else None,
        "vocab_size": facts.llm.vocab_size,
        "inner_directories": len(facts.directories),
        **_sources(variant, entry, toolchain.reserved),
    }
    for name, text in (toolchain.paths | entry.paths).items():
        names[name] = fill(text, names)
    return names


def _engine(engine: Engine) -> dict[str, Any]:
    quantization = engine.quantization
    return {
        "dtype": engine.dtype.value,
        "algorithm": quantization.algorithm.value,
        "weight_only": quantization.algorithm in WEIGHT_ONLY,
        "group_size": quantization.group_size,
        # mmbuild itself writes the checkpoint, not a command.
        "calibrated": quantization.calibration is not None and quantization.algorithm in CALIBRATED,
        "samples": quantization.calibration.samples if quantization.calibration else DEFAULT_SAMPLES,
        "tensor_parallel": engine.tensor_parallel,
        "max_batch_size": engine.max_batch_size,
        "max_images_per_prompt": engine.max_images_per_prompt,
        "max_beam_width": engine.max_beam_width,
        "max_input_len": engine.max_input_len,
        "max_output_len": engine.max_output_len,
        "max_multimodal_len": engine.max_multimodal_len,
        "num_visual_features": engine.num_visual_features,
    }


def _fused_mlp(variant: ResolvedRecipe) -> bool | None:
    """Whether to fuse the MLP; ``auto`` fuses unquantized weights. Without a gate there is nothing to fuse.

    None omits the option. Upstream's page fuses on one GPU and does not mention the option for several.
    """
    engine = variant.recipe.engine
    fused = engine.tensorrt_llm.fused_mlp
    if fused == "auto" and engine.quantization.algorithm is Algorithm.NONE and engine.tensor_parallel > 1:
        return None
    if fused == "auto":
        fused = engine.quantization.algorithm is Algorithm.NONE
    return bool(fused) and variant.facts.llm.mlp_type == "GatedMLP"


def _sources(variant: ResolvedRecipe, entry: FamilyEntry, reserved: Sequence[ReservedWord]) -> dict[str, Any]:
    model = variant.recipe.model
    vision = model.vision
    chosen = vision if entry.weights == "whole" and vision is not None else model
    ref = parse_source(chosen.source)
    code = model.code
    return {
        "model": directory_name(ref.value, variant.facts.family, reserved),
        "source": model.source,
        "source_url": f"https://huggingface.co/{ref.value}" if ref.kind == "hub" else None,
        "source_path": ref.value if ref.kind == "directory" else None,
        "revision": chosen.revision if ref.kind == "hub" else None,
        "vision_source": vision.source if vision is not None else None,
        "visual_type": entry.visual_type
        or (entry.visual_types.get(vision.source) if vision is not None else None),
        "visual_sources": ", ".join(entry.visual_types),
        "code_url": code.source.removeprefix("git+") if code is not None else entry.code,
        "code_revision": code.revision if code is not None else None,
    }


def directory_name(source: str, family: str, reserved: Sequence[ReservedWord]) -> str:
    """Name of the model's directory: the last part of ``source``, in characters that need no quoting.

    The name is also the engine's name and part of every path, and scripts interpret some words in it: a family's
    reserved word is added if missing, and broken up for all other families.

    Args:
        source: A hub repository or a directory.
        family: The model's family.
        reserved: The reserved words.
    """
    name = source.rstrip("/").rpartition("/")[2]
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", name).lstrip("-.") or "model"
    for item in reserved:
        if family == item.family:
            spelt = re.sub(re.escape(item.word), item.word, name, flags=re.IGNORECASE)
            name = spelt if item.word in spelt else f"{item.word}-{name}"
        else:
            middle = len(item.word) // 2
            apart = f"{item.word[:middle]}-{item.word[middle:]}"
            name = re.sub(re.escape(item.word), apart, name, flags=re.IGNORECASE)
    return name


def recipe_inference_context(variant: ResolvedRecipe, entry: FamilyEntry, mode: Mode) -> Mapping[str, Any]:
    """:func:`inference_context` for the recipe's first question and image."""
    verify = variant.recipe.verify if mode != "check_accuracy" else None
    if verify is None:
        tokens = min(DEFAULT_NEW_TOKENS, variant.recipe.engine.max_output_len)
        return inference_context(entry, mode, None, None, tokens, stated=False)
    return inference_context(
        entry,
        mode,
        verify.prompts[0] if verify.prompts else None,
        verify.images[0] if verify.images else None,
        min(verify.max_new_tokens, variant.recipe.engine.max_output_len),
        stated=True,
    )


def inference_context(
    entry: FamilyEntry,
    mode: Mode,
    question: str | None,
    image: str | None,
    max_new_tokens: int,
    *,
    stated: bool,
) -> Mapping[str, Any]:
    """``mode``, ``prompt``, ``image``, ``max_new_tokens`` and ``stated``, for templates.

    Upstream's accuracy check compares with the known answer to its own question about its own image, so it ignores
    the recipe's.

    Args:
        entry: Settings of the family.
        mode: Mode of ``run.py``.
        question: The user's question; None uses the family's default.
        image: A file; None uses upstream's own.
        max_new_tokens: Maximum length of the answer, not above the engine's limit.
        stated: Whether any of these was set by a user or recipe.
    """
    own = mode == "check_accuracy"
    prompt = fill(entry.prompt_template, {"question": question}) if question is not None else entry.prompt
    return {
        "mode": mode,
        "prompt": None if entry.prompt is None else entry.prompt if own else prompt,
        "image": None if own else image,
        "max_new_tokens": max_new_tokens,
        "stated": stated and not own,
    }
