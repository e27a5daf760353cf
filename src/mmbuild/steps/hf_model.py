"""Step ``hf_model``: adds everything but weights to a Hugging Face model directory."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from mmbuild.backends.engine_dir import description
from mmbuild.backends.hf import config_json
from mmbuild.backends.hf.small_files import completed
from mmbuild.base.files import read_object
from mmbuild.base.limits import MODEL_JSON
from mmbuild.core.steps.context import StepContext, link
from mmbuild.models.files.generation_settings import FILE, GenerationSettings, Reader
from mmbuild.models.files.hf_layout import CONFIG, SMALL
from mmbuild.steps.assemble import read_logged

_TOKENS = ("bos_token_id", "eos_token_id", "pad_token_id")


def run(context: StepContext) -> None:
    """Combine ``inputs["weights"]`` with the files of ``inputs["model"]``, ``config.json`` and ``engine.json``.

    Params: ``family``, ``dtype``, ``quant_algo`` and ``quantization`` (section ``quantization_config``; None if
    nothing is quantized), ``image_size``, ``image_token_id``, ``vocab_size``, ``max_input_len``, ``max_output_len``,
    ``generation_config`` (``obey`` or ``ignore``), ``serving``.

    Raises:
        SettingsError: MM721 or MM722, the model's generation settings cannot be used or read.
        TemplateError, SmallFileError: MM730, MM731, its chat template cannot be used or read.
    """
    params, out, model = context.params, context.out, context.inputs["model"]
    for path in sorted(context.inputs["weights"].iterdir()):
        link(path, out / path.name)
    for path in sorted(model.iterdir()):
        if path.name in SMALL and path.name not in CONFIG and path.is_file():
            # A model outside the store is referred to by links; this directory must not depend on it.
            shutil.copyfile(path, out / path.name)
    source = read_object(model / "config.json", MODEL_JSON)
    for name, text in completed(model, params["family"], source).items():
        (out / name).write_text(text, encoding="utf-8")
    config = config_json.config_json(source, params["dtype"], params["quantization"])
    config_json.write(out / "config.json", config)
    settings = _generation_config(context, model)
    description.write(out, _description(params, settings))


def _generation_config(context: StepContext, model: Path) -> GenerationSettings:
    """Write ``generation_config.json``, if the model has one; returns what mmbuild reads from the model."""
    params = context.params
    obey = params["generation_config"] == "obey"
    reader = Reader(vocab_size=params["vocab_size"], encoder_decoder=False, beams=False, obey=obey)
    reading = read_logged(model, params["family"], reader)
    path = model / FILE
    if path.is_file():
        stated = read_object(path, MODEL_JSON)
        kept = stated if obey else {name: stated[name] for name in _TOKENS if name in stated}
        text = json.dumps(kept, indent=2, sort_keys=True)
        (context.out / FILE).write_text(text + "\n", encoding="utf-8")
    return reading.require()


def _description(params: Any, settings: GenerationSettings) -> description.Description:
    return description.Description(
        family=params["family"],
        backend="hf",
        llm={
            # Servers split the checkpoint when they load it.
            "tensor_parallel": 1,
            "dtype": params["dtype"],
            "quant_algo": params["quant_algo"],
            "max_input_len": params["max_input_len"],
            "max_output_len": params["max_output_len"],
            "serving": params["serving"],
        },
        visual={"image_size": params["image_size"]},
        target={"device": "cpu"},
        toolchain={},
        image_token_id=params["image_token_id"],
        eos_token_ids=settings.eos_token_ids,
        generation_settings=dict(settings.fields),
        settings_not_applied={},
        obeys_generation_config=params["generation_config"] == "obey",
    )
