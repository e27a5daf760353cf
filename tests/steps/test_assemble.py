"""Step assemble: matching parts become an engine directory, mismatched parts are rejected."""

import json
import shutil
from dataclasses import asdict

import pytest

from mmbuild.backends.engine_dir import description
from mmbuild.core.steps.context import StepContext
from mmbuild.models.checkpoint.config import CheckpointConfig, to_json
from mmbuild.models.families.facts import shape_of
from mmbuild.models.files.generation_settings import SettingsError
from mmbuild.steps import assemble
from mmbuild.steps.assemble import AssembleError
from support.engines.build import facts_of
from support.engines.loaded import DEMO, demo_engine
from support.errors import refused

TARGET = {"device": "cpu", "sm": None, "isa": "avx2"}
FACTS = facts_of("llava", {"model": DEMO})
LLM = {
    "llm": asdict(shape_of(FACTS.llm)),
    "encoder": None,
    "dtype": "float16",
    "quant_algo": "W4A16",
    "tensor_parallel": 1,
    "max_batch_size": 4,
    "max_beam_width": 1,
    "max_input_len": 128,
    "max_output_len": 40,
    "max_multimodal_len": 256,
}
PACKAGES = (
    "embed",
    "layer_prefill",
    "layer_chunk",
    "layer_decode",
    "head",
    "layer_decode_batch",
    "head_batch",
)
VISUAL = {"feature_dtype": "float16", "max_batch_size": 4, "num_visual_features": 64}
CHECKPOINT = to_json(CheckpointConfig(FACTS.llm, "float16", 1, "W4A16"))


@pytest.fixture
def parts(tmp_path):
    """Input artifacts whose packages and weights are only names."""
    files = {
        "llm/llm.json": LLM,
        **{f"llm/{name}.pt2": name for name in PACKAGES},
        "llm/kernels/c7.cubin": "kernel",
        "visual/visual.json": VISUAL,
        "visual/calls.json": {},
        "visual/layers.pt2": "visual",
        "visual_weights/visual.safetensors": "weights",
        "checkpoint/config.json": CHECKPOINT,
        "checkpoint/rank0.safetensors": "rank",
        "model/config.json": {"text_config": {"eos_token_id": 7}},
        "model/tokenizer.json": {},
        "model/chat_template.jinja": "",
        "model/generation_config.json": {"eos_token_id": 2},
        "model/model.safetensors": "weights of the model",
        "model/notes.txt": "",
    }
    for name, content in files.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True, parents=True)
        path.write_text(content if isinstance(content, str) else json.dumps(content))
    return tmp_path


def change(path, **values):
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def assembled(parts, family="llava", **params):
    out = parts / "out"
    out.mkdir()
    params = {
        "family": family,
        "image_token_id": 4,
        "generation_config": "obey",
        **params,
        "toolchain": {"torch": "2.13.0", "transformers": "5.17.0"},
    }
    inputs = {name: parts / name for name in ("checkpoint", "llm", "visual", "visual_weights", "model")}
    assemble.run(StepContext(params=params, inputs=inputs, out=out, target=TARGET))
    return out


def test_an_engine_directory_holds_both_engines_and_the_processor(parts):
    out = assembled(parts)
    files = {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()}
    assert files == {
        "engine.json",
        "llm/config.json",
        *(f"llm/{name}.pt2" for name in PACKAGES),
        "llm/kernels/c7.cubin",
        "llm/rank0.safetensors",
        "processor/chat_template.jinja",
        "processor/config.json",
        "processor/generation_config.json",
        "processor/tokenizer.json",
        "visual/calls.json",
        "visual/layers.pt2",
        "visual/visual.json",
        "visual/visual.safetensors",
    }


def test_nothing_is_copied(parts):
    out = assembled(parts)
    for name in ("llm/layer_prefill.pt2", "visual/layers.pt2"):
        assert (out / name).samefile(parts / name)
    assert (out / "visual" / "visual.safetensors").samefile(parts / "visual_weights" / "visual.safetensors")
    assert (out / "llm" / "rank0.safetensors").samefile(parts / "checkpoint" / "rank0.safetensors")


def test_an_engine_does_not_depend_on_a_local_model(parts, tmp_path):
    """A model that is referenced, not downloaded, is a directory of links to it."""
    elsewhere = tmp_path / "elsewhere"
    (parts / "model").rename(elsewhere)
    (parts / "model").mkdir()
    for path in elsewhere.iterdir():
        (parts / "model" / path.name).symlink_to(path)
    out = assembled(parts)
    shutil.rmtree(elsewhere)
    assert not [path for path in out.rglob("*") if path.is_symlink()]
    assert json.loads((out / "processor" / "config.json").read_text()) == {"text_config": {"eos_token_id": 7}}


def test_engine_json_describes_it(parts):
    described = description.read(assembled(parts))
    assert described.llm == {**LLM, "llm": {**LLM["llm"], "num_hidden_layers": FACTS.llm.num_hidden_layers}}
    assert described.visual == VISUAL
    assert described.target == TARGET
    assert described.image_token_id == 4
    assert described.toolchain["torch"] == "2.13.0"


@pytest.mark.parametrize(
    ("generation", "expected"),
    [
        ({"eos_token_id": 2}, (2,)),
        ({"eos_token_id": [2, 3]}, (2, 3)),
        ({"eos_token_id": None}, ()),
        ({}, ()),
        (None, (7,)),
    ],
)
def test_end_tokens_come_from_generation_config_or_else_from_config(parts, generation, expected):
    path = parts / "model" / "generation_config.json"
    path.unlink()
    if generation is not None:
        path.write_text(json.dumps(generation))
    assert description.read(assembled(parts)).eos_token_ids == expected


WRITTEN = {"eos_token_id": 2, "repetition_penalty": 1.3, "top_k": 5, "guidance_scale": 2.0}


def test_engine_json_lists_applied_and_unapplied_settings(parts, capsys):
    change(parts / "model" / "generation_config.json", **WRITTEN)
    described = description.read(assembled(parts))
    assert described.generation_settings == {"repetition_penalty": 1.3}
    assert described.settings_not_applied == {"guidance_scale": 2.0}
    out = capsys.readouterr().out
    assert "guidance_scale" in out
    assert "[MM720]" in out
    assert "repetition_penalty" not in out


def test_engine_json_keeps_only_end_tokens_of_ignored_settings(parts, capsys):
    change(parts / "model" / "generation_config.json", **WRITTEN, min_length="x")
    described = description.read(assembled(parts, generation_config="ignore"))
    assert described.eos_token_ids == (2,)
    assert described.generation_settings == described.settings_not_applied == {}
    assert "MM720" not in capsys.readouterr().out


def test_a_setting_of_the_wrong_type_is_rejected_by_name(parts):
    change(parts / "model" / "generation_config.json", forced_bos_token_id=FACTS.llm.vocab_size)
    error = refused(SettingsError, "MM721", assembled, parts)
    assert "forced_bos_token_id" in error.message


def test_vila_settings_are_read_from_llm(parts, capsys):
    (parts / "model" / "llm").mkdir()
    (parts / "model" / "config.json").write_text(json.dumps({"llm_cfg": {"eos_token_id": 7}}))
    written = {"eos_token_id": [2, 77], "no_repeat_ngram_size": 3}
    (parts / "model" / "llm" / "generation_config.json").write_text(json.dumps(written))
    described = description.read(assembled(parts, "vila"))
    assert described.eos_token_ids == (2, 77)
    assert described.generation_settings == {"no_repeat_ngram_size": 3}
    assert "[MM724]" in capsys.readouterr().out


def test_every_rank_is_required(parts):
    change(parts / "llm" / "llm.json", tensor_parallel=2)
    change(parts / "checkpoint" / "config.json", mapping={"world_size": 2, "tp_size": 2, "pp_size": 1})
    assert "rank1.safetensors" in refused(AssembleError, "MM550", assembled, parts).message


SHAPES = {
    name: value
    for name, value in LLM["llm"].items()
    if isinstance(value, (int, float)) and name != "num_hidden_layers"
} | {
    "quant_algo": "W4A16",
    "dtype": "float16",
    "hidden_act": "silu",
}


@pytest.mark.parametrize("name", sorted(set(SHAPES) - {"max_position_embeddings", "tie_word_embeddings"}))
def test_a_checkpoint_with_other_shapes_is_rejected_with_both_values(parts, name):
    value = SHAPES[name]
    other = "other" if isinstance(value, str) else value + 1
    where = {"quant_algo": {"quantization": {"quant_algo": other}}}.get(name, {name: other})
    change(parts / "checkpoint" / "config.json", **where)
    error = refused(AssembleError, "MM551", assembled, parts)
    assert name in error.message
    assert str(other) in error.message
    assert str(value) in error.message


def test_a_tied_head_and_the_position_limit_do_not_shape_packages(parts):
    change(parts / "checkpoint" / "config.json", max_position_embeddings=9)
    assembled(parts)


def test_the_checkpoint_says_how_many_layers_an_engine_has(parts):
    change(parts / "checkpoint" / "config.json", num_hidden_layers=7)
    described = json.loads((assembled(parts) / "engine.json").read_text())
    assert described["llm"]["llm"]["num_hidden_layers"] == 7


def test_features_of_another_dtype_are_rejected(parts):
    change(parts / "visual" / "visual.json", feature_dtype="float32")
    error = refused(AssembleError, "MM552", assembled, parts)
    assert "float32" in error.message
    assert "float16" in error.message


def test_features_that_do_not_fit_the_prompt_table_are_rejected_with_the_arithmetic(parts):
    change(parts / "visual" / "visual.json", max_batch_size=3)
    error = refused(AssembleError, "MM553", assembled, parts)
    assert "3 images x 64 features = 192" in error.message
    assert "256" in error.message


@pytest.mark.slow
def test_a_real_engine_contains_the_chat_template_of_its_model():
    template = demo_engine().directory / "processor" / "chat_template.jinja"
    assert template.read_text() == (DEMO / "chat_template.jinja").read_text()
