"""assemble: checkpoint, packages, visual engine and processor files become one engine directory.

Nothing is copied: files are hard links to the inputs'. What must agree is checked here, because a
disagreement would only show as wrong answers: the dtype of the features and of the LLM, the sizes of both
engines, the checkpoint and the packages.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmbuild.engine import layout
from mmbuild.errors import MmbuildError
from mmbuild.steps.base import StepContext, link

# What a processor is loaded from; absent ones are left out.
PROCESSOR_FILES = (
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "config.json",
    "generation_config.json",
    "merges.txt",
    "preprocessor_config.json",
    "processor_config.json",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "vocab.json",
)

# Checkpoint keys that the packages were compiled for, by their name in the engine config.
_SHARED_KEYS = (
    "architecture",
    "dtype",
    "vocab_size",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "intermediate_size",
    "head_size",
    "hidden_act",
    "norm_epsilon",
    "position_embedding_type",
    "rotary_base",
    "rotary_scaling",
)


class AssembleError(MmbuildError):
    """Parts that do not belong together."""


def run(context: StepContext) -> None:
    """``params``: ``{"family", "image_token_id", "eos_token_ids", "toolchain"}``; inputs: ``checkpoint``,
    ``llm``, ``visual``, ``model``.

    Raises:
        AssembleError: Two parts contradict each other, or one is incomplete.
    """
    inputs, out = context.inputs, context.out
    llm = _json(inputs["llm"] / "llm.json")
    visual = _json(inputs["visual"] / "visual.json")
    checkpoint = _json(inputs["checkpoint"] / "config.json")
    check_checkpoint(llm, checkpoint)
    check_features(llm, visual)
    for name in layout.packages(llm["max_batch_size"]):
        link(inputs["llm"] / f"{name}.pt2", out / layout.LLM / f"{name}.pt2")
    link(inputs["checkpoint"] / "config.json", out / layout.LLM / "config.json")
    for rank in range(llm["tensor_parallel"]):
        name = f"rank{rank}.safetensors"
        if not (inputs["checkpoint"] / name).exists():
            raise AssembleError(f"the checkpoint has no {name}", code="MM550", hint="Apply the recipe again")
        link(inputs["checkpoint"] / name, out / layout.LLM / name)
    for path in sorted(inputs["visual"].iterdir()):
        link(path, out / layout.VISUAL / path.name)
    for name in PROCESSOR_FILES:
        if (inputs["model"] / name).exists():
            link(inputs["model"] / name, out / layout.PROCESSOR / name)
    layout.write(out, _description(context, llm, visual))


def _description(
    context: StepContext, llm: Mapping[str, Any], visual: Mapping[str, Any]
) -> layout.Description:
    params = context.params
    return layout.Description(
        family=params["family"],
        backend="torch",
        llm=llm,
        visual=visual,
        target=dict(context.target),
        toolchain=dict(params["toolchain"]),
        image_token_id=params["image_token_id"],
        eos_token_ids=_eos(context.inputs["model"], params["eos_token_ids"]),
    )


def _eos(model: Path, fallback: list[int]) -> tuple[int, ...]:
    """End tokens: generation_config.json is what transformers' generate obeys; the config's otherwise."""
    path = model / "generation_config.json"
    value = _json(path).get("eos_token_id") if path.exists() else None
    if value is None:
        return tuple(fallback)
    return tuple(value) if isinstance(value, list) else (int(value),)


def check_checkpoint(llm: Mapping[str, Any], checkpoint: Mapping[str, Any]) -> None:
    """Refuse a checkpoint of other shapes, split or quantization than the packages.

    Raises:
        AssembleError: With the first number that differs.
    """
    theirs = {key: checkpoint.get(key) for key in _SHARED_KEYS}
    theirs["quant_algo"] = (checkpoint.get("quantization") or {}).get("quant_algo")
    theirs["tensor_parallel"] = (checkpoint.get("mapping") or {}).get("tp_size", 1)
    for key, value in theirs.items():
        if llm[key] != value:
            raise AssembleError(
                f"the checkpoint's {key} is {value}, and the LLM engine was built for {llm[key]}",
                code="MM551",
                hint="The model's config.json is not the one that was planned with, or the store is damaged: "
                "compare config.json, run `mmbuild cache verify`",
            )


def check_features(llm: Mapping[str, Any], visual: Mapping[str, Any]) -> None:
    """Refuse a visual engine whose features the prompt table cannot hold.

    Raises:
        AssembleError: Another dtype, or more features than rows.
    """
    if visual["feature_dtype"] != llm["dtype"]:
        raise AssembleError(
            f"visual features are {visual['feature_dtype']}, and the LLM's prompt table is {llm['dtype']}",
            code="MM552",
        )
    rows = visual["max_batch_size"] * visual["num_visual_features"]
    if rows != llm["max_multimodal_len"]:
        raise AssembleError(
            f"{visual['max_batch_size']} images x {visual['num_visual_features']} features = {rows}, "
            f"and the LLM's max_multimodal_len is {llm['max_multimodal_len']}",
            code="MM553",
        )


def _json(path: Path) -> dict[str, Any]:
    data: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return data
