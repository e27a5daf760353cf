"""Proof: transformers with compressed-tensors loads every form of both families, with mmbuild's weights to the bit
and the original model's tokens."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from safetensors.torch import save_file

from mmbuild.backends.engine_dir import description
from mmbuild.backends.hf import arithmetic
from mmbuild.backends.hf.engine import HfEngine
from mmbuild.backends.hf.forms import FORMS
from mmbuild.backends.table import load_engine
from mmbuild.models.errors import CheckpointError
from mmbuild.steps import measure
from support.errors import refused
from support.hf.checkpoints import FAMILIES, MODELS, checkpoint, facts, tensors, unpack

FORM = [("int8", None), ("int4", None), ("int4", 64), ("int4_awq", 64), ("smoothquant", None), ("fp8", None)]
DTYPES = ("float32", "float16", "bfloat16")
FAST = ("llava", "int4", None, "float32")


def marks(turn: int, values: tuple[object, ...]):
    """Slow: each form of each family in one format, the formats taking turns; extended: in the others."""
    if values == FAST:
        return ()
    return pytest.mark.slow if DTYPES[turn % len(DTYPES)] == values[-1] else pytest.mark.extended


QUANTIZED = [
    pytest.param(*values, marks=marks(2 * own + turn, values))
    for own, family in enumerate(FAMILIES)
    for turn, (algorithm, group) in enumerate(FORM)
    for values in ((family, algorithm, group, dtype) for dtype in DTYPES)
]
PLAIN = [pytest.param(family, "none", None, "float16", marks=pytest.mark.slow) for family in FAMILIES]
QUESTIONS = {
    "llava": ["how many shapes ?", "what colour ?"],
    "blip2-opt": ["Question: how many shapes ? Answer:", "Question: what colour ? Answer:"],
}


def loaded(directory) -> HfEngine:
    pytest.importorskip("compressed_tensors")
    engine = load_engine(directory)
    assert isinstance(engine, HfEngine)
    return engine


@pytest.mark.parametrize(("family", "algorithm", "group", "dtype"), QUANTIZED)
def test_the_weights_that_transformers_runs_are_mmbuild_s_to_the_bit(family, algorithm, group, dtype):
    directory, form = checkpoint(family, algorithm, dtype, group), FORMS[algorithm]
    stored, engine = tensors(directory), loaded(directory)
    modules = {
        name: module
        for name, module in engine.model.named_modules()
        if hasattr(module, "quantization_scheme")
    }
    scaled = sorted(name.removesuffix(".weight_scale") for name in stored if name.endswith(".weight_scale"))
    assert len(modules) == len(scaled)
    for name in scaled:
        values, scales = stored[f"{name}.{form.weight}"], stored[f"{name}.weight_scale"]
        if form.packed:
            values = unpack(values, form.bits, int(stored[f"{name}.weight_shape"][1]))
        end = name[name.index("layers.") :]
        (module,) = (found for own, found in modules.items() if own.endswith(end) and "vision" not in own)
        assert module.weight.dtype == getattr(torch, dtype)
        assert torch.equal(module.weight, arithmetic.widened(values, scales)), name


@pytest.mark.parametrize(("family", "algorithm", "group", "dtype"), [*QUANTIZED, *PLAIN])
def test_its_tokens_are_the_original_model_s(family, algorithm, group, dtype):
    directory = checkpoint(family, algorithm, dtype, group)
    engine = loaded(directory)
    measured = measure.measure(
        engine,
        directory,
        {"model": FAMILIES[family]},
        prompts=QUESTIONS[family],
        images=[
            MODELS.parent / "pictures" / name for name in ("three-red-stars.png", "four-yellow-crosses.png")
        ],
        max_new_tokens=8,
    )
    summary = measured["summary"]
    assert summary["quant_algo"] == (None if algorithm == "none" else FORMS[algorithm].quant_algo)
    assert summary["dtype"] == dtype
    if algorithm == "none":
        assert summary["mean_kl"] == 0
        assert summary["identical"] == summary["questions"]
    else:
        assert summary["mean_kl"] < 1e-3
        assert summary["identical"] == summary["questions"]


def test_forced_tokens_give_the_logits_of_free_running():
    engine = loaded(checkpoint("llava", "int4"))
    (request,) = engine.encode([measure.generated_pictures((64, 64))[0]], ["how many shapes ?"])
    answer = engine.answer(request, 6)
    compared = engine.compare(request, answer, 6)
    assert compared.difference is None
    assert compared.max_kl == 0


@pytest.mark.parametrize("place", range(3))
def test_a_directory_with_a_damaged_ignore_entry_is_refused(tmp_path, place):
    directory = tmp_path / "edited"
    shutil.copytree(checkpoint("llava", "int4"), directory)
    config = json.loads((directory / "config.json").read_text())
    entry = config["quantization_config"]["ignore"][place]
    config["quantization_config"]["ignore"][place] = entry[:-4] + "x" + entry[-4:]
    (directory / "config.json").write_text(json.dumps(config))
    error = refused(CheckpointError, "MM885", load_engine, directory)
    assert entry[3:-4] in error.message


def test_a_directory_whose_config_lost_its_section_is_refused(tmp_path):
    directory = tmp_path / "edited"
    shutil.copytree(checkpoint("llava", "int4"), directory)
    config = json.loads((directory / "config.json").read_text())
    del config["quantization_config"]
    (directory / "config.json").write_text(json.dumps(config))
    assert "28 modules have scales" in refused(CheckpointError, "MM885", load_engine, directory).message


def test_a_config_of_another_quantization_is_refused(tmp_path):
    directory = tmp_path / "edited"
    shutil.copytree(checkpoint("llava", "none"), directory)
    section = json.loads((checkpoint("llava", "int4") / "config.json").read_text())["quantization_config"]
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps({**config, "quantization_config": section}))
    assert "has no scales" in refused(CheckpointError, "MM885", load_engine, directory).message


def test_settings_of_the_model_are_written_or_left_out_as_the_recipe_says():
    kept, ignored = (
        json.loads(
            (checkpoint("llava", "none", generation_config=choice) / "generation_config.json").read_text()
        )
        for choice in ("obey", "ignore")
    )
    assert kept == json.loads((FAMILIES["llava"] / "generation_config.json").read_text())
    assert ignored == {name: kept[name] for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    assert description.read(checkpoint("llava", "none")).eos_token_ids == facts("llava").eos_token_ids


NEWER = {
    "language_model.model.": "model.language_model.",
    "language_model.lm_head.": "lm_head.",
    "vision_tower.": "model.vision_tower.",
    "multi_modal_projector.": "model.multi_modal_projector.",
}
"""Names in files that transformers 4.52 to 4.57 wrote."""


@pytest.mark.slow
def test_files_with_newer_names_give_the_same_checkpoint(tmp_path):
    model = tmp_path / "model"
    shutil.copytree(FAMILIES["llava"], model)
    content = {}
    for name, tensor in tensors(FAMILIES["llava"]).items():
        old, new = next(pair for pair in NEWER.items() if name.startswith(pair[0]))
        content[new + name.removeprefix(old)] = tensor
    save_file(content, model / "model.safetensors", {"format": "pt"})
    directory = checkpoint("llava", "int4", "float16", model=model)
    assert "language_model.model.layers.0.mlp.up_proj.weight_packed" in tensors(directory)
    newer, older = loaded(directory), loaded(checkpoint("llava", "int4", "float16"))
    theirs = dict(older.model.named_parameters())
    assert all(torch.equal(value, theirs[name]) for name, value in newer.model.named_parameters())
