"""llm-compressor's side: it writes a checkpoint. Runs in an environment of its own, since it pins other versions:
``PYTHON -m benchmarks.real_decoder.compressor_side MODEL SAMPLES TO FORM``."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from benchmarks.real_decoder.forms import FORMS, OTHERS, Form
from benchmarks.real_decoder.texts import SAMPLES, inputs, read_samples


def _decoder(*names: str) -> list[str]:
    return [f"re:.*language_model.*{name}$" for name in names]


_SCALED = (
    (_decoder("input_layernorm")[0], _decoder("q_proj", "k_proj", "v_proj")),
    (_decoder("post_attention_layernorm")[0], _decoder("gate_proj", "up_proj")),
    (_decoder("v_proj")[0], _decoder("o_proj")),
    (_decoder("up_proj")[0], _decoder("down_proj")),
)
"""What scales are folded into, and the layers that have them: llm-compressor's defaults for a LLaMA (SmoothQuant has
the first two). These match the tower's layers too, unless they say which model is meant."""


def write(model: Path, samples: Path, to: Path, form: Form) -> None:
    """Quantize ``model`` on the samples of ``samples`` (JSONL), and write the checkpoint to ``to``."""
    from datasets import Dataset
    from llmcompressor import oneshot
    from transformers import AutoProcessor, LlavaForConditionalGeneration

    if (
        not torch.accelerator.is_available()
    ):  # its AWQ pins memory for copies to one, whether there is one or not
        torch.Tensor.pin_memory = lambda tensor, *_: tensor  # type: ignore[method-assign, assignment]
    processor = AutoProcessor.from_pretrained(model)
    prepared = [inputs(processor, sample) for sample in read_samples(samples)]
    rows = [{name: value.tolist() for name, value in item.items()} for item in prepared]
    loaded = LlavaForConditionalGeneration.from_pretrained(model, dtype=torch.float32)
    oneshot(
        model=loaded,
        processor=processor,
        recipe=modifiers(form),
        dataset=Dataset.from_list(rows),
        data_collator=_collate,
        num_calibration_samples=SAMPLES,
        max_seq_length=4096,
        shuffle_calibration_samples=False,
    )
    loaded.save_pretrained(to, save_compressed=True)
    processor.save_pretrained(to)
    _name_what_is_left_alone(to / "config.json")


def _name_what_is_left_alone(path: Path) -> None:
    """Replace the list ``ignore`` by the patterns of the recipe.

    llm-compressor 0.14 lists ``vision_tower...``, transformers 5.17 calls these modules ``model.vision_tower...`` and
    would look for quantized weights of the tower.
    """
    config = json.loads(path.read_text("utf-8"))
    config["quantization_config"]["ignore"] = list(OTHERS)
    path.write_text(json.dumps(config, indent=2), encoding="utf-8")


def _collate(batch: list[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
    (only,) = batch
    return {name: torch.tensor(value) for name, value in only.items()}


def modifiers(form: Form) -> list[Any]:
    """llm-compressor's recipe: its defaults, but for the format and SmoothQuant's strength, 0.5 as in the paper."""
    from llmcompressor.modifiers.gptq import GPTQModifier
    from llmcompressor.modifiers.quantization import QuantizationModifier
    from llmcompressor.modifiers.transform.awq import AWQMapping, AWQModifier
    from llmcompressor.modifiers.transform.smoothquant import SmoothQuantModifier
    from llmcompressor.modifiers.transform.smoothquant.utils import LayerMap

    scheme = {"targets": ["Linear"], "weights": dict(form.weights)}
    if form.inputs is not None:
        scheme["input_activations"] = dict(form.inputs)
    how = {"config_groups": {"group_0": scheme}, "ignore": list(OTHERS)}
    before: dict[str | None, list[Any]] = {
        "awq": [AWQModifier(mappings=[AWQMapping(smooth, balanced) for smooth, balanced in _SCALED])],
        "smoothquant": [
            SmoothQuantModifier(
                smoothing_strength=0.5,
                mappings=[LayerMap(balanced, smooth) for smooth, balanced in _SCALED[:2]],
            )
        ],
    }
    rounding = GPTQModifier if form.modifier == "gptq" else QuantizationModifier
    return [*before.get(form.modifier, []), rounding(**how)]


if __name__ == "__main__":
    write(Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), FORMS[sys.argv[4]])
