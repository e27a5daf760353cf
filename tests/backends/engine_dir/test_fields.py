"""Edited files of an engine: every field has a type and a range, and every invalid mutant is refused."""

import copy
import json
import os
import random
from contextlib import suppress
from pathlib import Path

import pytest

from mmbuild.backends.engine_dir import description, fields
from mmbuild.backends.lowering import step_params
from mmbuild.backends.tensorrt_llm import compatibility as tensorrt_llm
from mmbuild.backends.torch.compatibility import HostFacts, compatibility, tensorrt_visual
from mmbuild.base.errors import MmbuildError
from mmbuild.evaluation import engine_manifest
from mmbuild.inspect.compare_builds import compare
from mmbuild.models.families import family as family_of

LLM = {
    "architecture": "LlamaForCausalLM",
    "vocab_size": 64,
    "hidden_size": 128,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_size": 32,
    "intermediate_size": 256,
    "hidden_act": "silu",
    "norm_epsilon": 1e-6,
    "max_position_embeddings": 0,
    "position_embedding_type": "rope_gpt_neox",
    "rotary_base": 10000.0,
}
ENGINE = {
    "version": 2,
    "family": "llava",
    "backend": "torch",
    "llm": {
        "llm": LLM,
        "encoder": None,
        "dtype": "float32",
        "quant_algo": None,
        "tensor_parallel": 1,
        "max_batch_size": 4,
        "max_beam_width": 1,
        "max_input_len": 128,
        "max_output_len": 40,
        "max_multimodal_len": 256,
    },
    "visual": {},
    "target": {"device": "cpu", "sm": None, "isa": "avx2"},
    "toolchain": {"torch": "2.13.0"},
    "image_token_id": 4,
    "eos_token_ids": [2],
    "generation_settings": {"suppress_tokens": [5], "length_penalty": 0.5},
    "settings_not_applied": {},
    "obeys_generation_config": True,
}
TOOLCHAIN = {
    **ENGINE,
    "backend": "tensorrt-llm",
    "llm": {
        "tensor_parallel": 2,
        "variables": {"family": "llava", "max_output_len": 40, "dtype": "float16", "algorithm": "none"},
        "places": {"llm": "trt_engines/llm", "model": "tmp/hf_models/m"},
    },
    "toolchain": {"tensorrt-llm": "0.9.0"},
    "target": {"device": "cuda", "sm": 90, "isa": None},
}
VISUAL = {
    "dtype": "float16",
    "feature_dtype": "float16",
    "max_batch_size": 1,
    "num_visual_features": 64,
    "image_size": [64, 64],
    "backend": "tensorrt",
    "tensorrt": {
        "version": "10.1.0",
        "sm": 90,
        "hidden_size": 128,
        "engine_bytes": 10,
        "timing_cache": "0" * 64,
        "timing_cache_changed": False,
    },
}
REPORT = {
    "version": 3,
    "engine": None,
    "quality": {"max_kl": {"value": 0.1}},
    "gates": [{"passed": True}],
    "questions": [{"image": 1, "prompt": "how many ?", "max_new_tokens": 8}],
    "pictures": ["a.png"],
    "summary": {"compared": True},
}
MANIFEST = {
    "actions": [
        {
            "step": "download",
            "artifact": "0" * 64,
            "params": {"kind": "path"},
            "seconds": 1.0,
            "peak_memory": 10,
        },
        {"step": "assemble", "artifact": "1" * 64, "seconds": 1.0, "peak_memory": 10},
    ],
    "refused": [{"step": "verify", "message": "no"}],
}
FILES = {
    "engine.json": ENGINE,
    "visual/visual.json": VISUAL,
    "report.json": REPORT,
    "profile.json": {"profile": {"tokens_per_second": 10.0, "peak_bytes": 1000}},
    "manifest.json": MANIFEST,
}
HERE = HostFacts(gpus=(), isa="avx2", torch="2.13.0", tensorrt="10.1.0")


@pytest.fixture
def build(tmp_path):
    for name, content in FILES.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(json.dumps(content))
    return tmp_path


def everything(build):
    """What verbs read of an engine directory without loading it."""
    found = compare([build])
    visual = tensorrt_visual(build)
    engine_manifest.weights(build)
    described = description.read(build, whole_llm=False)
    return (
        compatibility(described, HERE, visual)
        if described.backend == "torch"
        else tuple(tensorrt_llm.compatibility(described, HERE.gpus, {})),
        found,
        description.read(build),
    )


def changed(content, path, value):
    fresh = copy.deepcopy(content)
    *parents, last = path
    node = fresh
    for key in parents:
        node = node[key]
    node[last] = value
    return fresh


@pytest.mark.parametrize("content", [ENGINE, TOOLCHAIN])
def test_a_right_description_is_read(build, content):
    (build / "engine.json").write_text(json.dumps(content))
    everything(build)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("llm",), None),
        (("llm", "llm"), None),
        (("llm", "dtype"), "float17"),
        (("llm", "max_output_len"), 10**9),
        (("llm", "max_input_len"), -1),
        (("llm", "max_batch_size"), "4"),
        (("llm", "max_beam_width"), True),
        (("llm", "tensor_parallel"), 0),
        (("llm", "tomorrow"), 1),
        (("llm", "llm", "vocab_size"), 1.0),
        (("llm", "llm", "norm_epsilon"), "1e-6"),
        (("llm", "llm", "position_embedding_type"), "none"),
        (("family",), "llama"),
        (("family",), "../llava"),
        (("backend",), "onnx"),
        (("target",), []),
        (("target", "device"), "tpu"),
        (("target", "isa"), None),
        (("toolchain",), {}),
        (("toolchain", "torch"), 2),
        (("toolchain", "torch"), "\x1b[2J"),
        (("eos_token_ids",), 2),
        (("eos_token_ids",), ["2"]),
        (("eos_token_ids",), [1 << 40]),
        (("image_token_id",), 10**12),
        (("generation_settings",), [1]),
        (("generation_settings", "suppress_tokens"), "5"),
        (("generation_settings", "unknown"), 1),
        (("obeys_generation_config",), "no"),
        (("version",), True),
        (("version",), 2.0),
        (("more",), 1),
    ],
)
def test_a_field_of_another_type_or_out_of_range_is_named(build, path, value):
    (build / "engine.json").write_text(json.dumps(changed(ENGINE, path, value)))
    with pytest.raises(description.LayoutError) as caught:
        description.read(build)
    assert caught.value.code == "MM541"
    assert "\x1b" not in caught.value.message


@pytest.mark.parametrize("place", ["../../home", "/etc", "a\0b", "", "a/../b", 7])
def test_a_place_of_a_toolchain_s_engine_stays_inside(build, place):
    (build / "engine.json").write_text(json.dumps(changed(TOOLCHAIN, ("llm", "places", "llm"), place)))
    with pytest.raises(description.LayoutError):
        description.read(build)


@pytest.mark.parametrize("name", ["engine.json", "visual/visual.json", "report.json", "profile.json"])
@pytest.mark.parametrize("how", ["fifo", "directory", "device", "large", "deep", "not utf-8"])
def test_a_file_of_another_kind_is_refused_immediately(build, name, how):
    path = build / name
    path.unlink()
    if how == "fifo":
        os.mkfifo(path)
    elif how == "directory":
        path.mkdir()
    elif how == "device":
        path.symlink_to("/dev/zero")
    elif how == "large":
        with open(path, "wb") as stream:
            stream.truncate(1 << 30)
    else:
        path.write_bytes(b"[" * 10_000 if how == "deep" else b'{"\xff": 1}')
    with pytest.raises(MmbuildError):
        everything(build)


_VALUES = [
    None,
    True,
    0,
    -1,
    1,
    10**9,
    10**39,
    1e308,
    "",
    "float17",
    "a\0",
    "../x",
    "x" * 5000,
    [],
    [None],
    {},
    {"a": []},
]


def _paths(value, at=()):
    if at:
        yield at
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield from _paths(item, (*at, key))


@pytest.mark.parametrize("name", [*FILES, "toolchain"])
def test_no_mutant_ends_in_anything_but_an_error_with_a_code(build, name):
    rng = random.Random(name)
    base = TOOLCHAIN if name == "toolchain" else FILES[name]
    path = build / ("engine.json" if name == "toolchain" else name)
    for _ in range(300):
        mutant = base
        for _ in range(rng.randrange(1, 3)):
            place = rng.choice(list(_paths(mutant)))
            mutant = changed(mutant, place, rng.choice(_VALUES))
        text = json.dumps(mutant).encode()
        if rng.random() < 0.1:
            at = rng.randrange(len(text))
            text = text[:at] + rng.choice([b"\x00", b"\xff", b"[", b"", b"NaN"]) + text[at + 1 :]
        path.write_bytes(text)
        with suppress(MmbuildError):
            everything(build)


_RECORDED = Path(step_params.__file__).parents[2] / "models" / "families" / "recorded"
_DEMOS = Path(__file__).parents[3] / "examples" / "models"
_MODELS = {
    "llava": ("llava-shapes", "llava-hf--llava-1.5-13b-hf"),
    "vila": ("vila-shapes",),
    "nougat": ("nougat-pages", "facebook--nougat-base"),
    "blip2-opt": ("blip2-opt-shapes", "Salesforce--blip2-opt-6.7b"),
    "blip2-t5": ("blip2-t5-shapes", "Salesforce--blip2-flan-t5-xxl"),
}


@pytest.mark.parametrize(
    ("family", "name"), [(family, name) for family in _MODELS for name in _MODELS[family]]
)
def test_what_real_models_are_built_for_is_within_the_ranges(family, name):
    place = _DEMOS / name / "config.json"
    config = json.loads((place if place.exists() else _RECORDED / f"{name}.json").read_text())
    facts = family_of(family).facts(config, None)
    limits = {
        "max_batch_size": 8,
        "max_beam_width": 1,
        "max_input_len": 2048,
        "max_output_len": 512,
        "max_multimodal_len": 8 * facts.visual.num_visual_features,
    }
    llm = step_params.build_llm(facts, "float16", "W4A16", 1, limits, None)
    assert fields.engine_config(llm) is None
    described = step_params.assemble(facts, {"torch": "2.13.0"})
    engine = {**ENGINE, "family": family, "llm": llm, "image_token_id": described["image_token_id"]}
    assert fields.description({**engine, "generation_settings": {}}) is None
    visual = step_params.build_visual(facts, {}, "float16", "float16", 8)
    known = {name: visual[name] for name in ("dtype", "feature_dtype", "max_batch_size") if name in visual}
    size = {
        "num_visual_features": facts.visual.num_visual_features,
        "image_size": list(facts.visual.image_size),
    }
    assert fields.visual_config({**VISUAL, **known, **size}) is None
