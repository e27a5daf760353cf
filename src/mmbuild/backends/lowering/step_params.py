"""Parameters of the steps, from a model's facts and what a recipe asks for: plain JSON, all of it in keys."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from mmbuild.models.families.facts import ModelFacts, shape_of


def download(
    facts: ModelFacts, source: str, configs: Mapping[str, Mapping[str, Any]], directories: Sequence[str]
) -> dict[str, Any]:
    """Of ``download``, beside what names the content: what the model must turn out to be.

    Args:
        facts: That the build is planned with.
        source: ``model`` or ``vision``.
        configs: ``config.json`` of all sources.
        directories: Directories below the model's own that hold files of it.
    """
    expected = {
        "family": facts.family,
        "source": source,
        "directories": directories,
        "configs": configs,
        "facts": asdict(facts),
    }
    # Lists where dataclasses have tuples: what a journal gives back is compared with this.
    plain: dict[str, Any] = json.loads(json.dumps(expected))
    return plain


def convert(facts: ModelFacts, dtype: str, tensor_parallel: int) -> dict[str, Any]:
    """Of ``convert``: what the checkpoint holds, and nothing of lengths or targets."""
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
    """Of ``build_llm`` for the torch backend: :class:`~mmbuild.backends.torch.config.EngineConfig` as JSON.

    Args:
        facts: Of the model; its weights are no matter.
        dtype: Of activations and unquantized weights.
        quant_algo: None, ``W8A16``, ``W4A16``, or one of :mod:`mmbuild.models.checkpoint.calibrated_layout`.
        tensor_parallel: Ranks.
        limits: ``max_batch_size``, ``max_beam_width``, ``max_input_len``, ``max_output_len``,
            ``max_multimodal_len``.
        group_size: Inputs that share a scale; None where the quantization has no groups.
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
    facts: ModelFacts, dtype: str, feature_dtype: str, max_batch_size: int | None
) -> dict[str, Any]:
    """Of ``build_visual``: no precision of the LLM but that of the features it takes."""
    return {
        "family": facts.family,
        "dtype": dtype,
        "feature_dtype": feature_dtype,
        "max_batch_size": max_batch_size,
        "num_visual_features": facts.visual.num_visual_features,
        "image_size": list(facts.visual.image_size),
    }


def assemble(
    facts: ModelFacts, toolchain: Mapping[str, str], generation_config: str = "obey"
) -> dict[str, Any]:
    """Of ``assemble``; ``generation_config``: whether the model's generation settings are obeyed, as in recipes."""
    return {
        "family": facts.family,
        "image_token_id": facts.image_token_id,
        "generation_config": generation_config,
        "toolchain": dict(toolchain),
    }
