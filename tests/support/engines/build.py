"""Engines of any family, built step by step as a recipe would."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from mmbuild.backends.lowering import step_params
from mmbuild.backends.torch.aot_package import cpu_isa
from mmbuild.backends.torch.lower import QUANT_ALGO
from mmbuild.core.store.atomic_files import write_whole
from mmbuild.core.store.hashing import hash_file
from mmbuild.models.checkpoint.calibrated_layout import ALGORITHMS
from mmbuild.models.families import ModelFacts
from mmbuild.models.families import family as family_of
from mmbuild.schema.linear_shapes import group_size
from mmbuild.steps import assemble, build_llm, build_visual, convert, convert_visual, quantize
from support.steps import cache as step_cache

DATA = Path(__file__).parents[3] / "examples" / "calibration"
# That of recipes on this machine, so that tests of both share packages.
TARGET = {"device": "cpu", "sm": None, "isa": cpu_isa()}


def facts_of(family: str, sources: Mapping[str, Path]) -> ModelFacts:
    """What the configs of ``sources`` say."""
    configs = configs_of(sources)
    return family_of(family).facts(configs["model"], configs.get("vision"))


def configs_of(sources: Mapping[str, Path]) -> dict[str, Any]:
    """``config.json`` of every source."""
    return {name: json.loads((path / "config.json").read_text()) for name, path in sources.items()}


def build_engine(
    family: str,
    sources: Mapping[str, Path],
    root: Path | None = None,
    *,
    quantization: str = "none",
    dtype: str = "float32",
    tensor_parallel: int = 1,
    max_batch_size: int = 3,
    max_beam_width: int = 1,
    max_images_per_prompt: int = 1,
    max_input_len: int = 96,
    max_output_len: int = 40,
    processor: Path | None = None,
) -> Path:
    """Run the steps of a recipe one after the other; returns the engine directory.

    Args:
        family: Whose model.
        sources: ``{"model": directory}`` and where there is one ``"vision"``.
        root: Keeps the outputs of the steps; left out, a directory that all tests share.
        processor: Where tokenizer and processor are taken from; left out, the model.
    """
    root = root or step_cache.default_root()
    facts = facts_of(family, sources)
    images = max_batch_size * max_images_per_prompt
    features = facts.visual.num_visual_features
    per_sequence = family_of(family).TRAITS.cross_attention
    converted = step_params.convert(facts, dtype, tensor_parallel)
    group = group_size(facts, tensor_parallel) if quantization == "int4_awq" else None
    if quantization in ALGORITHMS:
        checkpoint = _calibrated(
            root, facts, sources, {**converted, "algorithm": quantization, "group_size": group}
        )
    else:
        checkpoint = step_cache.run_step(root, convert.run, converted, inputs={"model": sources["model"]})
    if quantization not in ("none", *ALGORITHMS):
        checkpoint = step_cache.run_step(
            root, quantize.run, {"algorithm": quantization}, inputs={"checkpoint": checkpoint}
        )
    limits = {
        "max_batch_size": max_batch_size,
        "max_beam_width": max_beam_width,
        "max_input_len": 1 if per_sequence else max_input_len,
        "max_output_len": max_output_len,
        "max_multimodal_len": features if per_sequence else images * features,
    }
    compiled = step_params.build_llm(facts, dtype, QUANT_ALGO[quantization], tensor_parallel, limits, group)
    llm = step_cache.run_step(root, build_llm.run, compiled, target=TARGET)
    visual, visual_weights = build_visual_engine(family, sources, root, dtype=dtype, images=images)
    described = step_params.assemble(facts, {"torch": torch.__version__})
    parts = {
        "checkpoint": checkpoint,
        "llm": llm,
        "visual": visual,
        "visual_weights": visual_weights,
        **{name: step_cache.own_copy(root, path) for name, path in sources.items()},
    }
    if processor is not None:
        parts["model"] = processor
    return with_manifest(step_cache.run_step(root, assemble.run, described, inputs=parts, target=TARGET))


def build_visual_engine(
    family: str, sources: Mapping[str, Path], root: Path | None = None, *, dtype: str, images: int
) -> tuple[Path, Path]:
    """Run the steps of a visual engine for up to ``images``; returns the directories of packages and of weights."""
    root = root or step_cache.default_root()
    facts, shape = facts_of(family, sources), step_params.visual_shape(family, configs_of(sources))
    compiled = step_params.build_visual(facts, shape, dtype, dtype, images)
    packages = step_cache.run_step(root, build_visual.run, compiled, target=TARGET)
    converted = step_params.convert_visual(family, shape, dtype)
    return packages, step_cache.run_step(root, convert_visual.run, converted, inputs=sources)


def with_manifest(directory: Path, **more: Any) -> Path:
    """``directory`` with the part of manifest.json that its files are checked by, and ``more``; written over."""
    files = {
        path.relative_to(directory).as_posix(): {"size": path.stat().st_size, "blake3": hash_file(path)}
        for path in sorted(directory.rglob("*"))
        if path.is_file() and path.name != "manifest.json" and path.parent.name != "verify"
    }
    write_whole(directory / "manifest.json", json.dumps({"files": files, **more}).encode())
    return directory


def relaid(directory: Path, out: Path, **changes: Any) -> Path:
    """An engine directory whose engine.json says something else; the rest are links."""
    shutil.copytree(directory, out, copy_function=os.symlink)
    content = json.loads((out / "engine.json").read_text())
    (out / "engine.json").unlink()
    (out / "engine.json").write_text(json.dumps({**content, **changes}))
    return with_manifest(out)


def _calibrated(
    root: Path, facts: ModelFacts, sources: Mapping[str, Path], params: Mapping[str, Any]
) -> Path:
    """A checkpoint that is fitted on the repository's data for the family's demo model."""
    request = {"samples": 32, "seed": 0, "text_only": False}
    return step_cache.run_step(
        root,
        quantize.run,
        {**params, "image_size": list(facts.visual.image_size), "calibration": request},
        inputs=sources,
        locators={"data": str(DATA / f"{facts.family}.jsonl")},
    )
