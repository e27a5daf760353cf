"""assemble: what belongs together becomes an engine directory, what does not is refused."""

import json

import pytest
from engines import DEMO, demo_engine
from errors_told import refused

from mmbuild.engine import layout
from mmbuild.steps import assemble
from mmbuild.steps.assemble import AssembleError
from mmbuild.steps.base import StepContext

TARGET = {"device": "cpu", "sm": None, "isa": "avx2"}
LLM = {
    "architecture": "LlamaForCausalLM",
    "dtype": "float16",
    "vocab_size": 64,
    "hidden_size": 128,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 256,
    "head_size": 32,
    "hidden_act": "silu",
    "norm_epsilon": 1e-6,
    "position_embedding_type": "rope_gpt_neox",
    "rotary_base": 10000.0,
    "rotary_scaling": None,
    "quant_algo": "W4A16",
    "tensor_parallel": 1,
    "max_batch_size": 4,
    "max_multimodal_len": 256,
}
VISUAL = {"feature_dtype": "float16", "max_batch_size": 4, "num_visual_features": 64}
SHARED = {name: LLM[name] for name in assemble._SHARED_KEYS}
CHECKPOINT = {**SHARED, "quantization": {"quant_algo": "W4A16"}, "mapping": {"tp_size": 1}}


@pytest.fixture
def parts(tmp_path):
    """Input artifacts whose packages and weights are only names."""
    files = {
        "llm/llm.json": LLM,
        "llm/prefill.pt2": "prefill",
        "llm/decode.pt2": "decode",
        "llm/decode_batch.pt2": "decode of several",
        "visual/visual.json": VISUAL,
        "visual/visual.pt2": "visual",
        "visual/visual.safetensors": "weights",
        "checkpoint/config.json": CHECKPOINT,
        "checkpoint/rank0.safetensors": "rank",
        "model/config.json": {},
        "model/tokenizer.json": {},
        "model/chat_template.jinja": "",
        "model/generation_config.json": {"eos_token_id": 2},
        "model/model.safetensors": "weights of the model",
        "model/notes.txt": "",
    }
    for name, content in files.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(content if isinstance(content, str) else json.dumps(content))
    return tmp_path


def change(path, **values):
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def assembled(parts, eos=(7,)):
    out = parts / "out"
    out.mkdir()
    params = {
        "family": "llava",
        "image_token_id": 4,
        "eos_token_ids": list(eos),
        "toolchain": {"torch": "2.13.0", "transformers": "5.17.0"},
    }
    inputs = {name: parts / name for name in ("checkpoint", "llm", "visual", "model")}
    assemble.run(StepContext(params=params, inputs=inputs, out=out, target=TARGET))
    return out


def test_an_engine_directory_holds_both_engines_and_the_processor(parts):
    out = assembled(parts)
    files = {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()}
    assert files == {
        "engine.json",
        "llm/config.json",
        "llm/decode.pt2",
        "llm/decode_batch.pt2",
        "llm/prefill.pt2",
        "llm/rank0.safetensors",
        "processor/chat_template.jinja",
        "processor/config.json",
        "processor/generation_config.json",
        "processor/tokenizer.json",
        "visual/visual.json",
        "visual/visual.pt2",
        "visual/visual.safetensors",
    }


def test_nothing_is_copied(parts):
    out = assembled(parts)
    for name in ("llm/prefill.pt2", "visual/visual.safetensors"):
        assert (out / name).samefile(parts / name)
    assert (out / "llm" / "rank0.safetensors").samefile(parts / "checkpoint" / "rank0.safetensors")


def test_engine_json_describes_it(parts):
    described = layout.read(assembled(parts))
    assert described.llm == LLM
    assert described.visual == VISUAL
    assert described.target == TARGET
    assert described.image_token_id == 4
    assert described.toolchain["torch"] == "2.13.0"


@pytest.mark.parametrize(
    ("generation", "expected"),
    [({"eos_token_id": 2}, (2,)), ({"eos_token_id": [2, 3]}, (2, 3)), ({}, (7,)), (None, (7,))],
)
def test_end_tokens_are_those_of_generation_config_then_of_config(parts, generation, expected):
    path = parts / "model" / "generation_config.json"
    path.unlink()
    if generation is not None:
        path.write_text(json.dumps(generation))
    assert layout.read(assembled(parts)).eos_token_ids == expected


def test_every_rank_is_taken(parts):
    change(parts / "llm" / "llm.json", tensor_parallel=2)
    change(parts / "checkpoint" / "config.json", mapping={"tp_size": 2})
    assert "rank1.safetensors" in refused(AssembleError, "MM550", assembled, parts).message


@pytest.mark.parametrize("name", sorted(SHARED))
def test_a_checkpoint_of_other_shapes_is_refused_with_both_values(parts, name):
    others = {str: "other", type(None): {"rope_type": "linear", "factor": 2.0}}
    other = others[type(SHARED[name])] if type(SHARED[name]) in others else SHARED[name] + 1
    change(parts / "checkpoint" / "config.json", **{name: other})
    error = refused(AssembleError, "MM551", assembled, parts)
    assert name in error.message
    assert str(other) in error.message
    assert str(SHARED[name]) in error.message


@pytest.mark.parametrize("quantization", [None, {"quant_algo": "W8A16"}, {"quant_algo": None}])
def test_a_checkpoint_of_another_quantization_is_refused(parts, quantization):
    change(parts / "checkpoint" / "config.json", quantization=quantization)
    assert "quant_algo" in refused(AssembleError, "MM551", assembled, parts).message


def test_features_of_another_dtype_are_refused(parts):
    change(parts / "visual" / "visual.json", feature_dtype="float32")
    error = refused(AssembleError, "MM552", assembled, parts)
    assert "float32" in error.message
    assert "float16" in error.message


def test_features_that_do_not_fill_the_prompt_table_are_refused_with_the_arithmetic(parts):
    change(parts / "visual" / "visual.json", max_batch_size=3)
    error = refused(AssembleError, "MM553", assembled, parts)
    assert "3 images x 64 features = 192" in error.message
    assert "256" in error.message


def test_a_real_engine_carries_the_chat_form_of_its_model():
    carried = demo_engine().directory / "processor" / "chat_template.jinja"
    assert carried.read_text() == (DEMO / "chat_template.jinja").read_text()
