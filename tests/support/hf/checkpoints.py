"""Checkpoints of the demo models, written by the steps of backend hf in this process."""

from __future__ import annotations

import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from mmbuild.backends.hf import names
from mmbuild.backends.hf.forms import FORMS, quant_algo, quantization_config
from mmbuild.backends.hf.layer import How
from mmbuild.backends.lowering import step_params
from mmbuild.core.steps.context import StepContext
from mmbuild.models.families.facts import ModelFacts
from mmbuild.steps import hf_model, hf_weights
from support.engines.build import facts_of

MODELS = Path(__file__).parents[3] / "examples" / "models"
FAMILIES = {"llava": MODELS / "llava-shapes", "blip2-opt": MODELS / "blip2-opt-shapes"}
"""The demo model of each family that backend hf writes."""

CALIBRATED = ("int4_awq", "smoothquant", "fp8")
SERVING = {
    "dtype": "float32",
    "tensor_parallel": 1,
    "max_model_len": 168,
    "max_sequences": 4,
    "images_per_prompt": 1,
    "max_batched_tokens": 256,
    "generation_config": "obey",
}


def facts(family: str, model: Path | None = None) -> ModelFacts:
    return facts_of(family, {"model": model or FAMILIES[family]})


def how(family: str, algorithm: str, dtype: str = "float32", group_size: int | None = None) -> How:
    return How(FORMS[algorithm], group_size, getattr(torch, dtype), facts(family).llm)


def weights(
    out: Path,
    family: str,
    algorithm: str,
    dtype: str = "float32",
    group_size: int | None = None,
    model: Path | None = None,
) -> Path:
    """The output of step ``hf_weights``, in the existing directory ``out``."""
    known = facts(family, model)
    params: dict[str, Any] = {
        **step_params.convert(known, dtype, 1),
        "algorithm": algorithm,
        "group_size": group_size,
    }
    if algorithm in CALIBRATED:
        requested = {"samples": 2, "seed": 0, "prompts": ["how many shapes ?"]}
        params |= {"image_size": list(known.visual.image_size), "calibration": requested}
    inputs = {"model": model or FAMILIES[family]}
    hf_weights.run(StepContext(params=params, inputs=inputs, out=out, target={"device": "cpu"}))
    return out


_KEPT: list[tempfile.TemporaryDirectory[str]] = []


@cache
def checkpoint(
    family: str,
    algorithm: str,
    dtype: str = "float32",
    group_size: int | None = None,
    model: Path | None = None,
    generation_config: str = "obey",
) -> Path:
    """A directory as step ``hf_model`` writes it; read-only by agreement, copy it to damage it."""
    directory = tempfile.TemporaryDirectory(prefix="mmbuild-hf-")
    _KEPT.append(directory)  # until the process ends
    root = Path(directory.name)
    for name in ("weights", "model"):
        (root / name).mkdir()
    known, form = facts(family, model), FORMS.get(algorithm)
    section = None
    if form is not None:
        section = quantization_config(
            form, group_size, names.targets(family, known.llm), names.ignored(family)
        )
    params = {
        "family": family,
        "dtype": dtype,
        "quant_algo": quant_algo(algorithm),
        "quantization": section,
        "image_size": list(known.visual.image_size),
        "image_token_id": known.image_token_id,
        "vocab_size": known.llm.vocab_size,
        "max_input_len": 128,
        "max_output_len": 40,
        "generation_config": generation_config,
        "serving": SERVING,
    }
    inputs = {
        "weights": weights(root / "weights", family, algorithm, dtype, group_size, model),
        "model": model or FAMILIES[family],
    }
    hf_model.run(StepContext(params=params, inputs=inputs, out=root / "model"))
    return root / "model"


def tensors(directory: Path) -> dict[str, torch.Tensor]:
    """All tensors of a directory with one weight file."""
    return load_file(directory / "model.safetensors")


def unpack(words: torch.Tensor, bits: int, inputs: int) -> torch.Tensor:
    """Stored int32 words as int8 values ``[out, inputs]``, the lowest input from the lowest bits."""
    each = 32 // bits
    values = torch.empty(len(words), each * words.shape[1], dtype=torch.int8)
    for place in range(each):
        values[:, place::each] = ((words >> (bits * place)) & ((1 << bits) - 1)) - (1 << (bits - 1))
    return values[:, :inputs]
