"""Step parameters, from model facts and recipe: plain JSON, all of it part of the keys."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from mmbuild.models.families import part
from mmbuild.models.families.facts import ModelFacts, shape_of


def download(
    facts: ModelFacts, source: str, configs: Mapping[str, Mapping[str, Any]], directories: Sequence[str]
) -> dict[str, Any]:
    """Parameters of ``download`` besides those that identify the content: the facts to check the model against.

    Args:
        facts: Model facts that the build is planned with.
        source: ``model`` or ``vision``.
        configs: ``config.json`` of all sources.
        directories: Subdirectories of the model that hold its files.
    """
    expected = {
        "family": facts.family,
        "source": source,
        "directories": directories,
        "configs": configs,
        "facts": asdict(facts),
    }
    # Lists instead of the dataclasses' tuples: values read back from a journal are compared with these.
    plain: dict[str, Any] = json.loads(json.dumps(expected))
    return plain


def convert(facts: ModelFacts, dtype: str, tensor_parallel: int) -> dict[str, Any]:
    """Parameters of ``convert``: the checkpoint's content, independent of lengths and targets."""
    return {
        "family": facts.family,
        "llm": asdict(facts.llm),
        "encoder": facts.encoder and asdict(facts.encoder),
        "dtype": dtype,
        "tensor_parallel": tensor_parallel,
    }


def build_llm(
    facts: ModelFacts,
    dtype: str,
    quant_algo: str | None,
    tensor_parallel: int,
    limits: Mapping[str, int | None],
    group_size: int | None = None,
) -> dict[str, Any]:
    """Parameters of ``build_llm`` for the torch backend:
    :class:`~mmbuild.backends.torch.config.EngineConfig` as JSON.

    Args:
        facts: Facts of the model; only shapes are used.
        dtype: Dtype of activations and unquantized weights.
        quant_algo: None, ``W8A16``, ``W4A16``, or one of :mod:`mmbuild.models.checkpoint.calibrated_layout`.
        tensor_parallel: Number of ranks.
        limits: ``max_batch_size``, ``max_beam_width``, ``max_input_len``, ``max_output_len``,
            ``max_multimodal_len``.
        group_size: Number of inputs that share a scale; None if the quantization has no groups.
    """
    grouped = {} if group_size is None else {"group_size": group_size}
    return {
        "llm": asdict(shape_of(facts.llm)),
        "encoder": facts.encoder and asdict(shape_of(facts.encoder)),
        "dtype": dtype,
        "quant_algo": quant_algo,
        "tensor_parallel": tensor_parallel,
        **limits,
        **grouped,
    }


def build_visual(
    facts: ModelFacts, shape: Mapping[str, Any], dtype: str, feature_dtype: str, max_batch_size: int | None
) -> dict[str, Any]:
    """Parameters of ``build_visual``; of the LLM's precision only the dtype of the features it takes.

    Args:
        facts: Facts of the model.
        shape: Result of :func:`visual_shape`.
        dtype: Dtype of tower and projector.
        feature_dtype: Dtype of the features.
        max_batch_size: Maximum number of images.
    """
    return {
        "family": facts.family,
        "shape": shape,
        "dtype": dtype,
        "feature_dtype": feature_dtype,
        "max_batch_size": max_batch_size,
        "num_visual_features": facts.visual.num_visual_features,
        "image_size": list(facts.visual.image_size),
    }


def convert_visual(family: str, shape: Mapping[str, Any], dtype: str) -> dict[str, Any]:
    """Parameters of ``convert_visual``: the weights' names, shapes and dtype; ``shape``: of :func:`visual_shape`."""
    return {"family": family, "shape": shape, "dtype": dtype}


def visual_shape(family: str, configs: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """What of ``config.json`` a model's visual module is built from, as plain JSON.

    Args:
        family: The model's family.
        configs: ``config.json`` of all sources.
    """
    shape = part(family, "visual_shape").shape(configs["model"], configs.get("vision"))
    plain: dict[str, Any] = json.loads(json.dumps(shape))
    return plain


def assemble(
    facts: ModelFacts, toolchain: Mapping[str, str], generation_config: str = "obey"
) -> dict[str, Any]:
    """Parameters of ``assemble``; ``generation_config``: ``obey`` or ``ignore``, as in recipes."""
    return {
        "family": facts.family,
        "image_token_id": facts.image_token_id,
        "generation_config": generation_config,
        "toolchain": dict(toolchain),
    }
