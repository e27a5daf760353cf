"""Files of a model directory that contradict each other are refused by name; models as they are saved are not."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file
from transformers import AutoProcessor, LlavaConfig

from mmbuild.base.codes import lookup
from mmbuild.models.families import family
from mmbuild.models.validation.checked_model import Model, Source
from mmbuild.models.validation.consistency import Finding, findings, inspected_paths
from support.examples import examples
from support.models import tiny_families as tiny
from support.models.directories import edit, save_llava

EXAMPLES = Path(__file__).parents[3] / "examples" / "models"


def model_of(name: str, sources: dict[str, Path], *, weights: bool = True) -> Model:
    configs = {source: json.loads((path / "config.json").read_text()) for source, path in sources.items()}
    facts = family(name).facts(configs["model"], configs.get("vision"))
    return Model(name, facts, configs, {source: Source(path, weights) for source, path in sources.items()})


def check(directory: Path, name: str = "llava", *, weights: bool = True) -> list[Finding]:
    return findings(model_of(name, {"model": directory}, weights=weights))


def messages(found: list[Finding]) -> str:
    return "\n".join(f"{item.error.code} {item.error.message}" for item in found)


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_llava(tmp_path_factory.mktemp("llava") / "m")


@pytest.fixture(scope="session")
def sharded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same model in seven shards with an index."""
    return save_llava(tmp_path_factory.mktemp("llava") / "m", max_shard_size="40KB")


@pytest.fixture
def model(whole: Path, tmp_path: Path) -> Path:
    return shutil.copytree(whole, tmp_path / "m")


@pytest.fixture
def shards(sharded: Path, tmp_path: Path) -> Path:
    return shutil.copytree(sharded, tmp_path / "s")


# Models as they are saved.


@pytest.mark.parametrize(
    ("name", "directory"),
    [
        ("llava", "llava-shapes"),
        ("vila", "vila-shapes"),
        ("blip2-opt", "blip2-opt-shapes"),
        ("blip2-t5", "blip2-t5-shapes"),
        ("nougat", "nougat-pages"),
    ],
)
def test_the_demo_models_agree_with_themselves(name: str, directory: str) -> None:
    assert messages(check(EXAMPLES / directory, name)) == ""


@pytest.mark.parametrize("name", ["blip2-opt", "blip2-t5", "nougat"])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_models_that_transformers_saves_agree_with_themselves(name: str, seed: int, tmp_path: Path) -> None:
    tiny.save_model(name, seed, tmp_path)
    assert messages(check(tmp_path, name)) == ""


def test_models_in_two_sources_agree_with_themselves(tmp_path: Path) -> None:
    for name in ("blip2-opt", "blip2-t5"):
        sources = tiny.save_in_two(name, 1, tmp_path / name)
        assert messages(findings(model_of(name, sources))) == ""


def test_both_layouts_of_vila_agree_with_themselves(tmp_path: Path) -> None:
    assert messages(findings(model_of("vila", tiny.save_vila(1, tmp_path / "inner")))) == ""
    assert messages(findings(model_of("vila", tiny.save_flat_vila(1, tmp_path / "flat")))) == ""


def test_a_sharded_model_and_pickles_next_to_safetensors_are_usual(shards: Path, model: Path) -> None:
    assert messages(check(shards)) == ""
    (model / "pytorch_model.bin").write_bytes(b"PK\x03\x04")
    (model / "consolidated.safetensors").write_bytes(b"of another program")
    (model / "mm_projector.bin").write_bytes(b"left by training")
    assert messages(check(model)) == ""


# Weights.

SHARD = "model-00002-of-00007.safetensors"
INDEX = "model.safetensors.index.json"
NORM = "language_model.model.norm.weight"
HEAD = "language_model.lm_head.weight"
EMBEDDING = "language_model.model.embed_tokens.weight"
BIAS = "multi_modal_projector.linear_1.bias"
CLASS = "embeddings.class_embedding"


def rewrite(file: Path, change: Callable[[dict[str, Any]], object]) -> None:
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file, metadata={"format": "pt"})


def holder(directory: Path, tensor: str) -> str:
    return str(json.loads((directory / INDEX).read_text())["weight_map"][tensor])


def move_in_index(directory: Path) -> None:
    name = holder(directory, NORM)
    other = SHARD if name != SHARD else "model-00001-of-00007.safetensors"
    edit(directory / INDEX, lambda index: index["weight_map"].update({NORM: other}))


def hold_twice(directory: Path) -> None:
    tensors = load_file(directory / holder(directory, NORM))
    other = next(file for file in sorted(directory.glob("model-*")) if NORM not in load_file(file))
    rewrite(other, lambda held: held.update({NORM: tensors[NORM]}))


def drop_from_shard(directory: Path) -> None:
    rewrite(directory / holder(directory, NORM), lambda held: held.pop(NORM))


def second_count(directory: Path) -> None:
    for number in (1, 2):
        shutil.copy(directory / SHARD, directory / f"model-0000{number}-of-00002.safetensors")


SHARDED = {
    "a whole file next to shards": (
        lambda d: shutil.copy(d / SHARD, d / "model.safetensors"),
        "MM732",
        ["`model.safetensors`", f"`{INDEX}`, which names `model-00001-of-00007.safetensors` and 6 more"],
    ),
    "a whole file next to shards without an index": (
        lambda d: ((d / INDEX).unlink(), shutil.copy(d / SHARD, d / "model.safetensors")),
        "MM732",
        ["`model.safetensors`", "`model-00001-of-00007.safetensors` and 6 more"],
    ),
    "shards of another count": (
        second_count,
        "MM733",
        ["`model-00001-of-00002.safetensors` and 1 more", "`model-00001-of-00007.safetensors` and 6 more"],
    ),
    "a shard of the same count that the index leaves out": (
        lambda d: edit(d / INDEX, lambda index: index.update(weight_map={NORM: holder(d, NORM)})),
        "MM733",
        [INDEX],
    ),
    "no index": (lambda d: (d / INDEX).unlink(), "MM733", [f"without `{INDEX}`"]),
    "no index, and pickles that would be taken": (
        lambda d: ((d / INDEX).unlink(), (d / "pytorch_model.bin").write_bytes(b"PK\x03\x04")),
        "MM733",
        [f"without `{INDEX}`"],
    ),
    "a shard missing": (lambda d: (d / SHARD).unlink(), "MM405", [INDEX, SHARD]),
    "a shard that is a pointer": (
        lambda d: (d / SHARD).write_text("version https://git-lfs.github.com/spec/v1\n"),
        "MM404",
        [SHARD],
    ),
    "a shard cut off": (lambda d: (d / SHARD).write_bytes((d / SHARD).read_bytes()[:-1]), "MM403", [SHARD]),
    "a tensor placed in another shard": (move_in_index, "MM733", [NORM, INDEX]),
    "a tensor in two shards": (hold_twice, "MM733", [NORM]),
    "a tensor that its shard lost": (drop_from_shard, "MM733", [NORM, INDEX, "which does not hold it"]),
    "an index that is empty": (lambda d: (d / INDEX).write_text(""), "MM731", [INDEX, "is empty"]),
    "an index without a map": (lambda d: (d / INDEX).write_text("{}"), "MM403", [INDEX, "weight_map"]),
    "an index that leaves the directory": (
        lambda d: edit(d / INDEX, weight_map={NORM: "../model.safetensors"}),
        "MM403",
        [INDEX],
    ),
}


@pytest.mark.parametrize("fault", SHARDED)
def test_sets_of_weights_that_contradict_are_refused(shards: Path, fault: str) -> None:
    spoil, code, words = SHARDED[fault]
    spoil(shards)
    refused_once(check(shards), code, words)


def refused_once(found: list[Finding], code: str, words: list[str], source: str = "model") -> None:
    assert [item.error.code for item in found] == [code], messages(found)
    (item,) = found
    assert item.source == source
    assert all(word in item.error.message for word in words), item.error.message
    assert "\n" not in item.error.message
    assert item.error.hint is not None
    assert not item.error.hint.endswith(".")
    assert lookup(code) is not None


def resize(directory: Path, rows: int) -> None:
    def change(tensors: dict[str, Any]) -> None:
        for name in (EMBEDDING, "language_model.lm_head.weight"):
            tensors[name] = np.resize(tensors[name], (rows, tensors[name].shape[1]))

    rewrite(directory / "model.safetensors", change)


def set_text(directory: Path, **values: Any) -> None:
    edit(directory / "config.json", lambda config: config["text_config"].update(values))


def set_tower(directory: Path, **values: Any) -> None:
    edit(directory / "config.json", lambda config: config["vision_config"].update(values))


WEIGHTS = {
    "config.json says another vocabulary": (
        lambda d: set_text(d, vocab_size=330),
        "MM738",
        ["`text_config.vocab_size` in config.json is 330", EMBEDDING, "`model.safetensors`", "320 rows"],
    ),
    "the embeddings were resized alone": (
        lambda d: resize(d, 384),
        "MM738",
        ["is 320", "384 rows"],
    ),
    "config.json says another width": (
        lambda d: set_text(d, hidden_size=64),
        "MM738",
        ["`text_config.hidden_size` in config.json is 64", "32 columns"],
    ),
    "config.json says more layers": (lambda d: set_text(d, num_hidden_layers=3), "MM430", ["layers.2."]),
    "config.json says fewer layers": (lambda d: set_text(d, num_hidden_layers=1), "MM434", ["layers.1."]),
    "config.json says a wider MLP": (
        lambda d: set_text(d, intermediate_size=64),
        "MM431",
        ["gate_proj", "[48, 32]", "[64, 32]"],
    ),
    "config.json says other heads": (lambda d: set_text(d, num_key_value_heads=4), "MM431", ["k_proj"]),
    "a tensor is missing": (
        lambda d: rewrite(d / "model.safetensors", lambda held: held.pop(NORM)),
        "MM430",
        [NORM],
    ),
    "a bias of the projector is missing": (
        lambda d: rewrite(d / "model.safetensors", lambda held: held.pop(BIAS)),
        "MM430",
        ["tensor `multi_modal_projector.linear_1.bias` is missing from model.safetensors"],
    ),
    "config.json says a tower with a wider MLP": (
        lambda d: set_tower(d, intermediate_size=64),
        "MM431",
        ["tensor `vision_tower.encoder.layers.0.mlp.fc1.bias`", "[48]", "[64]"],
    ),
    "config.json says a deeper tower": (
        lambda d: set_tower(d, num_hidden_layers=5),
        "MM430",
        [
            "tensor `vision_tower.encoder.layers.3.layer_norm1.bias` and 15 more of tower and projector are missing"
        ],
    ),
    "the tower is missing": (
        lambda d: rewrite(
            d / "model.safetensors",
            lambda held: [held.pop(name) for name in [*held] if "vision_tower" in name],
        ),
        "MM430",
        ["tensor `vision_tower.embeddings.class_embedding` and 36 more of tower and projector are missing"],
    ),
    "a projector of another width": (
        lambda d: rewrite(d / "model.safetensors", lambda held: held.update({BIAS: np.zeros(7, np.float32)})),
        "MM431",
        [BIAS, "[7]", "[32]"],
    ),
    "a tower under two names": (
        lambda d: rewrite(
            d / "model.safetensors",
            lambda held: held.update({"vision_tower.vision_model." + CLASS: held["vision_tower." + CLASS]}),
        ),
        "MM434",
        ["as `vision_tower.vision_model.embeddings.class_embedding` and as `vision_tower.embeddings"],
    ),
    "a class token of integers": (
        lambda d: rewrite(
            d / "model.safetensors",
            lambda held: held.update(
                {"vision_tower." + CLASS: held["vision_tower." + CLASS].astype(np.int64)}
            ),
        ),
        "MM749",
        ["vision_tower.embeddings.class_embedding", "I64"],
    ),
    "weights of something else": (
        lambda d: save_file({"weight": np.zeros(3, np.float32)}, d / "model.safetensors"),
        "MM430",
        [EMBEDDING],
    ),
    "the file holds nothing": (lambda d: (d / "model.safetensors").write_text("{}"), "MM403", []),
}


@pytest.mark.parametrize("fault", WEIGHTS)
def test_weights_of_another_shape_than_config_says_are_refused(model: Path, fault: str) -> None:
    spoil, code, words = WEIGHTS[fault]
    spoil(model)
    refused_once(check(model), code, words)


def test_random_weights_have_no_files_to_look_at(model: Path) -> None:
    (model / "model.safetensors").write_text("{}")
    assert messages(check(model, weights=False)) == ""


@pytest.mark.parametrize("name", ["blip2-opt", "blip2-t5", "nougat"])
def test_every_family_compares_its_vocabulary_with_its_weights(name: str, tmp_path: Path) -> None:
    tiny.save_model(name, 1, tmp_path)
    section = "decoder" if name == "nougat" else "text_config"
    edit(tmp_path / "config.json", lambda config: config[section].update(vocab_size=310))
    found = check(tmp_path, name)
    refused_once(found, "MM738", [f"`{section}.vocab_size` in config.json is 310", "300 rows"])


def test_vila_compares_its_vocabulary_with_its_weights_too(tmp_path: Path) -> None:
    sources = tiny.save_vila(1, tmp_path)
    for file, section in (("config.json", "llm_cfg"), ("llm/config.json", None)):
        edit(tmp_path / file, lambda c, s=section: (c[s] if s else c).update(vocab_size=310))
    words = ["`llm_cfg.vocab_size` in config.json is 310", "`llm/model.safetensors`", "300 rows"]
    refused_once(findings(model_of("vila", sources)), "MM738", words)


def test_weights_inside_and_outside_of_vila_s_directories_are_two_sets(tmp_path: Path) -> None:
    sources = tiny.save_vila(1, tmp_path)
    shutil.copy(tmp_path / "llm/model.safetensors", tmp_path)
    refused_once(
        findings(model_of("vila", sources)), "MM732", ["`model.safetensors`", "`llm/model.safetensors`"]
    )


def test_copies_of_a_config_that_describe_another_model_are_refused(tmp_path: Path) -> None:
    sources = tiny.save_vila(1, tmp_path)
    edit(tmp_path / "llm/config.json", rope_parameters={"rope_theta": 5e5, "rope_type": "default"})
    words = [
        "llm/config.json",
        "`llm_cfg` in the outer config.json",
        "llm.rotary_base is 500000.0",
        "10000.0",
    ]
    refused_once(findings(model_of("vila", sources)), "MM741", words)


def pickle(directory: Path, change: Callable[[dict[str, Any]], object] | None = None, **options: Any) -> None:
    """The weights once more, as a pickle."""
    import torch
    from safetensors.torch import load_file as load

    tensors = load(directory / "model.safetensors")
    if change is not None:
        change(tensors)
    torch.save(tensors, directory / "pytorch_model.bin", **options)


def in_one_record(tensors: dict[str, Any]) -> None:
    """As older tools wrote them: views of one flat tensor."""
    import torch

    flat = torch.cat([value.flatten() for value in tensors.values()])
    start = 0
    for name, value in tensors.items():
        tensors[name] = flat[start : start + value.numel()].view(value.shape)
        start += value.numel()


PICKLES: dict[str, Callable[[Path], object]] = {
    "of the same weights": pickle,
    "in another number format": lambda d: pickle(d, lambda t: t.update({k: v.half() for k, v in t.items()})),
    "in the form of before torch 1.6": lambda d: pickle(
        d, lambda t: t.update({k: v + 1 for k, v in t.items()}), _use_new_zipfile_serialization=False
    ),
    "incomplete": lambda d: (
        pickle(d),
        (d / "pytorch_model.bin").rename(d / "pytorch_model-00001-of-00002.bin"),
    ),
    "all tensors in one record": lambda d: pickle(d, in_one_record),
    "damaged": lambda d: (d / "pytorch_model.bin").write_bytes(b"PK\x03\x04 and nothing"),
    "without a tensor that follows from others": lambda d: pickle(
        d, lambda t: t.pop("language_model.lm_head.weight")
    ),
}


@pytest.mark.parametrize("kind", PICKLES)
def test_pickles_next_to_safetensors_are_another_form_of_the_same_weights(model: Path, kind: str) -> None:
    PICKLES[kind](model)
    assert messages(check(model)) == ""


def test_pickles_of_another_model_are_refused(model: Path) -> None:
    pickle(model, lambda tensors: tensors.update({name: value + 1 for name, value in tensors.items()}))
    words = ["two sets of weights", "has other values in `model.safetensors`", "`pytorch_model.bin`"]
    refused_once(check(model), "MM732", words)


def test_pickles_of_a_model_with_one_other_layer_are_refused(model: Path) -> None:
    name = "language_model.model.layers.0.self_attn.v_proj.weight"
    pickle(model, lambda tensors: tensors.update({name: tensors[name] * 2}))
    refused_once(check(model), "MM732", [f"`{name}` has other values"])


def test_pickles_of_another_vocabulary_are_refused(model: Path) -> None:
    pickle(
        model,
        lambda tensors: tensors.update({EMBEDDING: tensors[EMBEDDING][:300].clone()}) or tensors.pop(HEAD),
    )
    words = [f"the embedding `{EMBEDDING}` is 320 x 32 in `model.safetensors`", "`pytorch_model.bin`"]
    refused_once(check(model), "MM732", words)


# Adapters.


def to_adapter(directory: Path, *names: str) -> None:
    for name in names:
        (directory / name).write_text("{}")
    edit(directory / "adapter_config.json", base_model_name_or_path="llava-hf/llava-1.5-7b-hf")


@pytest.mark.parametrize(
    "names", [("adapter_model.safetensors",), ("adapter_model.bin", "non_lora_trainables.bin")]
)
def test_adapters_alone_are_called_adapters(model: Path, names: tuple[str, ...]) -> None:
    (model / "model.safetensors").unlink()
    to_adapter(model, *names)
    words = [f"holds an adapter (`{names[0]}`)", "base model `llava-hf/llava-1.5-7b-hf`"]
    refused_once(check(model), "MM734", words)


def test_a_projector_alone_is_an_adapter(model: Path) -> None:
    (model / "model.safetensors").rename(model / "mm_projector.bin")
    refused_once(check(model), "MM734", ["`mm_projector.bin`"])


def test_an_adapter_next_to_full_weights_is_not_silently_left_out(model: Path) -> None:
    to_adapter(model, "adapter_model.safetensors")
    refused_once(check(model), "MM734", ["full weights and an adapter", "llava-hf/llava-1.5-7b-hf"])


# Tokenizer, processor, chat template.

PROCESSOR = "processor_config.json"


def without_mean(directory: Path) -> str:
    """The processor's file with a mean that is null, which transformers takes for a value."""
    content = json.loads((directory / PROCESSOR).read_text())
    content["image_processor"]["image_mean"] = None
    return json.dumps(content)


def test_settings_that_mean_the_same_do_not_disagree(model: Path) -> None:
    content = json.loads((model / PROCESSOR).read_text())["image_processor"]
    mean = [round(value, 7) for value in content["image_mean"]]
    (model / "preprocessor_config.json").write_text(json.dumps({"do_pad": None, "image_mean": mean}))
    assert messages(check(model)) == ""


def test_one_end_token_of_the_vocabulary_ends_answers(model: Path) -> None:
    edit(model / "generation_config.json", eos_token_id=[2, 320])
    assert messages(check(model)) == ""


def add_token(directory: Path, text: str = "<extra>", number: int = 320) -> None:
    def change(tokenizer: dict[str, Any]) -> None:
        tokenizer["added_tokens"].append({"id": number, "content": text, "special": True})

    edit(directory / "tokenizer.json", change)


def set_images(directory: Path, **values: Any) -> None:
    edit(directory / PROCESSOR, lambda processor: processor["image_processor"].update(values))


def as_before_2025(directory: Path, **values: Any) -> None:
    """Image settings in a separate file, as in hub models."""
    images = json.loads((directory / PROCESSOR).read_text())["image_processor"]
    edit(directory / PROCESSOR, image_processor=None)
    edit(directory / "preprocessor_config.json", **{**images, **values})


SMALL_FILES = {
    "a token without an embedding": (
        add_token,
        "MM736",
        ["`text_config.vocab_size` in config.json is 320", "`<extra>` with id 320 (`tokenizer.json`)"],
    ),
    "several": (
        lambda d: [add_token(d, f"<{n}>", n) for n in (320, 321, 330)],
        "MM736",
        ["`<320>` with id 320 (`tokenizer.json`) and 2 more"],
    ),
    "one that tokenizer_config.json adds": (
        lambda d: edit(d / "tokenizer_config.json", pad_token="[PAD]"),
        "MM736",
        ["`[PAD]` with id 320 (`tokenizer_config.json`)"],
    ),
    "one of added_tokens.json": (
        lambda d: edit(d / "added_tokens.json", **{"<more>": 320}),
        "MM736",
        ["`<more>` with id 320"],
    ),
    "one that only tokenizer_config.json lists": (
        lambda d: edit(
            d / "tokenizer_config.json", added_tokens_decoder={"320": {"content": "<listed>", "special": True}}
        ),
        "MM736",
        ["`<listed>` with id 320"],
    ),
    "a token with two ids": (
        lambda d: edit(d / "added_tokens.json", **{"<image>": 301}),
        "MM737",
        ["`<image>` is 300 in `tokenizer.json` and 301 in `added_tokens.json`"],
    ),
    "another image token in config.json": (
        lambda d: edit(d / "config.json", image_token_index=301),
        "MM737",
        ["`image_token_index` in config.json is 301, the tokenizer's `[301]`", "`<image>` with id 300"],
    ),
    "another image token under today's key": (
        lambda d: edit(d / "config.json", image_token_index=None, image_token_id=299),
        "MM737",
        ["`image_token_id` in config.json is 299", "`<image>` with id 300"],
    ),
    "another image token in the processor": (
        lambda d: edit(d / PROCESSOR, image_token="[7]"),
        "MM737",
        ["`[7]`"],
    ),
    "an image token of the tokenizer's own": (
        lambda d: edit(d / "tokenizer_config.json", image_token="</s>"),
        "MM737",
        ["is 300, the tokenizer's `<image>`", "`</s>` with id 2"],
    ),
    "pictures of another size": (
        lambda d: set_images(d, crop_size={"height": 224, "width": 224}),
        "MM739",
        [PROCESSOR, "224 x 224", "28 x 28", "`vision_config.image_size`"],
    ),
    "pictures of another size in the older file": (
        lambda d: as_before_2025(d, crop_size=224, size=224),
        "MM739",
        ["preprocessor_config.json", "224 x 224", "28 x 28"],
    ),
    "pictures that are not cropped": (
        lambda d: set_images(d, do_center_crop=False),
        "MM739",
        ["shortest_edge 28 and nothing is cropped"],
    ),
    "pictures as they come": (
        lambda d: set_images(d, do_center_crop=False, do_resize=False),
        "MM739",
        ["`do_resize` is false"],
    ),
    "another patch size": (
        lambda d: edit(d / PROCESSOR, patch_size=14),
        "MM740",
        ["`patch_size` 14", "gives 4 placeholders", "16 features"],
    ),
    "another number of additional tokens": (
        lambda d: edit(d / PROCESSOR, num_additional_image_tokens=0),
        "MM740",
        ["`num_additional_image_tokens` 0", "15 placeholders", "16 features"],
    ),
    "another strategy": (
        lambda d: edit(d / PROCESSOR, vision_feature_select_strategy="full"),
        "MM740",
        ["`vision_feature_select_strategy` full", "17 placeholders"],
    ),
    "a template for texts": (
        lambda d: (d / "chat_template.jinja").write_text("\n{{ raise_exception('texts only') }}"),
        "MM730",
        ["chat_template.jinja:2`", "texts only"],
    ),
    "a template with a mistake": (
        lambda d: edit(d / "tokenizer_config.json", chat_template="{% for m in messages %}"),
        "MM730",
        ["tokenizer_config.json", "line 1 of `chat_template`"],
    ),
    "an end of answers that no token has": (
        lambda d: edit(d / "generation_config.json", eos_token_id=[320, 999]),
        "MM742",
        ["`eos_token_id` in", "generation_config.json` is [320, 999]", "vocab_size` in config.json is 320"],
    ),
    "two image processors": (
        lambda d: (d / "preprocessor_config.json").write_text('{"image_mean": [0.5, 0.5, 0.5]}'),
        "MM743",
        ["`image_mean` is [0.48", PROCESSOR, "[0.5, 0.5, 0.5] in", "preprocessor_config.json"],
    ),
    "two image processors of different sizes": (
        lambda d: (d / "preprocessor_config.json").write_text('{"size": 336}'),
        "MM743",
        ['`size` is {"shortest_edge": 28}', "336 in"],
    ),
    "a processor without an image processor": (
        lambda d: (as_before_2025(d), (d / "preprocessor_config.json").unlink()),
        "MM402",
        [PROCESSOR, "has no `image_processor`", "preprocessor_config.json"],
    ),
    "a class of processors that is not known": (
        lambda d: edit(d / PROCESSOR, processor_class="OwnProcessor"),
        "MM744",
        ["`processor_class` in", "\"OwnProcessor\": transformers has no such class of processors"],
    ),
    "an image processor that is not known": (
        lambda d: set_images(d, image_processor_type="OwnProcessor", size={}),
        "MM744",
        ["`image_processor_type` in", '"OwnProcessor": transformers has no such class'],
    ),
    "a mean that is null": (
        lambda d: (d / PROCESSOR).write_text(without_mean(d)),
        "MM744",
        ["`image_mean` in", "is null"],
    ),
    "an empty tokenizer": (
        lambda d: (d / "tokenizer.json").write_text("{}"),
        "MM731",
        ["tokenizer.json` is not a tokenizer"],
    ),
    "a tokenizer that is a pointer": (
        lambda d: (d / "tokenizer.json").write_text("version https://git-lfs.github.com/spec/v1\n"),
        "MM731",
        ["tokenizer.json` is a git-LFS pointer"],
    ),
    "a processor that is a list": (lambda d: (d / PROCESSOR).write_text("[]"), "MM731", [PROCESSOR]),
    "an empty tokenizer_config.json": (
        lambda d: (d / "tokenizer_config.json").write_text(""),
        "MM731",
        ["tokenizer_config.json` is empty"],
    ),
}  # fmt: skip


def test_shards_are_compared_whatever_they_are_called_after_model(model: Path) -> None:
    (model / "model.safetensors").rename(model / "model-a.safetensors")
    names = load_file(model / "model-a.safetensors")
    (model / INDEX).write_text(json.dumps({"weight_map": dict.fromkeys(names, "model-a.safetensors")}))
    assert messages(check(model)) == ""
    set_text(model, vocab_size=330)
    refused_once(check(model), "MM738", ["`text_config.vocab_size`", "`model-a.safetensors`"])


@pytest.mark.parametrize("weights", [True, False])
@pytest.mark.parametrize("fault", SMALL_FILES)
def test_small_files_that_contradict_are_refused(model: Path, fault: str, weights: bool) -> None:
    spoil, code, words = SMALL_FILES[fault]
    spoil(model)
    refused_once(check(model, weights=weights), code, words)


USUAL: dict[str, Callable[[Path], object]] = {
    "processor files of 2023": lambda d: (
        as_before_2025(d),
        edit(
            d / PROCESSOR,
            patch_size=None,
            num_additional_image_tokens=None,
            vision_feature_select_strategy=None,
        ),
    ),
    "no processor_config.json at all": lambda d: (as_before_2025(d), (d / PROCESSOR).unlink()),
    "processor files of 2024": lambda d: edit(d / PROCESSOR, num_additional_image_tokens=None),
    "sizes as numbers": lambda d: as_before_2025(d, size=28, crop_size=28),
    "exact sizes without a crop": lambda d: set_images(
        d, size={"height": 28, "width": 28}, do_center_crop=False
    ),
    "a class of feature extractors": lambda d: as_before_2025(
        d, image_processor_type=None, feature_extractor_type="CLIPFeatureExtractor"
    ),
    "an image processor of another model": lambda d: set_images(
        d, image_processor_type="ViTImageProcessor", size={}
    ),
    "nothing but config.json and weights": lambda d: [
        file.unlink() for file in d.iterdir() if file.name not in ("config.json", "model.safetensors")
    ],
    "nulls": lambda d: (d / PROCESSOR).write_text(
        json.dumps(json.loads((d / PROCESSOR).read_text()) | {"patch_size": None})
    ),
    "numbers that cancel out": lambda d: edit(
        d / PROCESSOR, num_additional_image_tokens=0, vision_feature_select_strategy="full"
    ),
    "the same image processor twice": lambda d: (d / "preprocessor_config.json").write_text(
        json.dumps(json.loads((d / PROCESSOR).read_text())["image_processor"] | {"size": 28, "crop_size": 28})
    ),
    "an end of answers that is null": lambda d: (d / "generation_config.json").write_text(
        '{"eos_token_id": null}'
    ),
    "other files": lambda d: (d / "training_args.bin").write_bytes(b"x"),
}


@pytest.mark.parametrize("form", USUAL)
def test_usual_forms_of_a_model_are_not_refused(model: Path, form: str) -> None:
    USUAL[form](model)
    assert messages(check(model)) == ""


def test_everything_that_is_wrong_is_reported_at_once(model: Path) -> None:
    add_token(model)
    set_text(model, vocab_size=310)
    edit(model / PROCESSOR, patch_size=14)
    assert {item.error.code for item in check(model)} == {"MM736", "MM738", "MM740"}


def test_a_damaged_file_is_reported_once(model: Path) -> None:
    (model / PROCESSOR).write_text("{")
    assert [item.error.code for item in check(model)] == ["MM731"]


@pytest.mark.parametrize("value", [None, 5, {"content": "<image>", "__type": "AddedToken"}])
def test_an_image_token_of_the_processor_that_is_not_text_is_refused(model: Path, value: object) -> None:
    content = json.loads((model / PROCESSOR).read_text())
    (model / PROCESSOR).write_text(json.dumps(content | {"image_token": value}))
    with pytest.raises(ValueError, match="must be of type `str`"):
        AutoProcessor.from_pretrained(model, backend="pil")
    found = {item.error.code: item.error.message for item in check(model)}
    assert found == {
        "MM744": f"`image_token` in `{model / PROCESSOR}` is {json.dumps(value)}: transformers takes only a text"
    }
    # The tokenizer's goes before the processor's.
    edit(model / "tokenizer_config.json", image_token="<image>")
    assert AutoProcessor.from_pretrained(model, backend="pil").image_token == "<image>"
    assert messages(check(model)) == ""


@pytest.mark.parametrize(
    "change",
    [
        lambda config: config["vision_config"].pop("model_type"),
        lambda config: config["text_config"].pop("model_type"),
    ],
)
def test_sections_without_a_kind_have_the_kind_of_transformers(
    model: Path, change: Callable[[Any], object]
) -> None:
    edit(model / "config.json", change)
    assert LlavaConfig.from_pretrained(model).vision_config.model_type == "clip_vision_model"
    assert messages(check(model)) == ""


@pytest.mark.parametrize("name", ["blip2-opt", "blip2-t5"])
def test_blip2_compares_its_image_token_and_its_queries(name: str, tmp_path: Path) -> None:
    tiny.save_model(name, 1, tmp_path)
    features = tiny.facts(name, {"model": tmp_path}).visual.num_visual_features
    edit(tmp_path / PROCESSOR, num_query_tokens=features + 1)
    words = [f"`num_query_tokens` {features + 1}", f"{features} features"]
    refused_once(check(tmp_path, name), "MM740", words)
    edit(tmp_path / PROCESSOR, num_query_tokens=features)
    assert messages(check(tmp_path, name)) == ""
    edit(tmp_path / "tokenizer_config.json", image_token="<unk>")
    refused_once(check(tmp_path, name), "MM737", ["`image_token_index` in config.json is 299", "`<unk>`"])


def test_the_second_source_is_blamed_for_its_own_files(tmp_path: Path) -> None:
    sources = tiny.save_in_two("blip2-opt", 1, tmp_path)
    images = "preprocessor_config.json"
    edit(sources["vision"] / images, size={"height": 99, "width": 99})
    refused_once(findings(model_of("blip2-opt", sources)), "MM739", [images, "99 x 99"], source="vision")


def test_pages_of_another_size_are_refused(tmp_path: Path) -> None:
    tiny.save_model("nougat", 1, tmp_path)
    as_before_2025(tmp_path, size=[9, 7])
    refused_once(check(tmp_path, "nougat"), "MM739", ["9 x 7", "`encoder.image_size`"])


def test_what_was_found_depends_on_every_file_and_on_the_directory(model: Path) -> None:
    names = {path.name for path in inspected_paths(model_of("llava", {"model": model}))}
    assert {"m", "config.json", "model.safetensors", "tokenizer.json", PROCESSOR} <= names


@pytest.mark.parametrize("name", ["tokenizer.json", "model.safetensors"])
def test_a_file_that_may_not_be_read_is_named(
    model: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = os.open

    def refuse(path: Any, *args: Any, **options: Any) -> int:
        if os.path.basename(path) == name:
            raise PermissionError(13, "Permission denied", os.fspath(path))
        return opened(path, *args, **options)

    monkeypatch.setattr(os, "open", refuse)
    found = check(model)
    assert [item.error.code for item in found] == ["MM731" if name == "tokenizer.json" else "MM401"]
    assert f"{name}` cannot be read: Permission denied" in found[0].error.message


JSON = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(-2, 400), st.floats(allow_nan=False), st.text(max_size=4)
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=4), inner, max_size=3)
    ),
    max_leaves=4,
)
FILES = [
    "tokenizer.json",
    "tokenizer_config.json",
    PROCESSOR,
    "generation_config.json",
    INDEX,
    "added_tokens.json",
]
KEYS = [
    "model", "vocab", "added_tokens", "added_tokens_decoder", "content", "id", "chat_template", "bos_token",
    "image_token", "extra_special_tokens", "tokenizer_class", "image_processor", "size", "crop_size", "patch_size",
    "image_processor_type", "num_additional_image_tokens", "eos_token_id", "weight_map", "do_resize",
]  # fmt: skip


@pytest.mark.slow
@settings(max_examples=examples(300), deadline=None)
@given(name=st.sampled_from(FILES), keys=st.lists(st.sampled_from(KEYS), min_size=1, max_size=3), value=JSON)
def test_whatever_a_file_holds_is_at_most_a_finding(
    whole: Path, tmp_path_factory: pytest.TempPathFactory, name: str, keys: list[str], value: Any
) -> None:
    directory = tmp_path_factory.mktemp("odd")
    for file in whole.iterdir():
        (directory / file.name).symlink_to(file)
    content = json.loads((directory / name).read_text()) if (directory / name).exists() else {}
    place = content
    for key in keys[:-1]:
        place = place[key] if isinstance(place.get(key), dict) else place.setdefault(f"{key} ", {})
    place[keys[-1]] = value
    (directory / name).unlink(missing_ok=True)
    (directory / name).write_text(json.dumps(content))
    for item in check(directory):
        assert lookup(item.error.code) is not None


@settings(max_examples=examples(150), deadline=None)
@given(name=st.sampled_from(FILES), value=JSON)
def test_a_file_of_any_json_is_at_most_a_finding(
    whole: Path, tmp_path_factory: pytest.TempPathFactory, name: str, value: Any
) -> None:
    directory = tmp_path_factory.mktemp("odd")
    for file in whole.iterdir():
        if file.name != name:
            (directory / file.name).symlink_to(file)
    (directory / name).write_text(json.dumps(value))
    for item in check(directory):
        assert lookup(item.error.code) is not None


@pytest.mark.parametrize(
    "entry", [{"shape": None}, {"shape": ["a"]}, {"shape": 3}, {"dtype": 7}, {"shape": [2, 2]}]
)
def test_a_header_of_any_kind_is_at_most_a_finding(model: Path, entry: dict[str, Any]) -> None:
    header = json.dumps({EMBEDDING: {"data_offsets": [0, 0], **entry}}).encode()
    (model / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    assert next(item.error.code for item in check(model)) in ("MM403", "MM430", "MM431", "MM738")


def test_a_large_tokenizer_is_read_in_a_fraction_of_a_second(model: Path) -> None:
    def grow(tokenizer: dict[str, Any]) -> None:
        tokenizer["model"]["vocab"] |= {f"token {n}": n for n in range(320, 130_000)}

    edit(model / "tokenizer.json", grow)
    began = time.process_time()
    refused_once(check(model), "MM736", ["129679 more"])
    assert time.process_time() - began < 2


@pytest.mark.parametrize(
    ("name", "content", "code", "words"),
    [
        ("pytorch_model.bin", b"", "MM406", "is empty"),
        ("pytorch_model.bin", b"<html>", "MM406", "begins with b'<html>'"),
        ("pytorch_model.bin", None, "MM406", "is a safetensors file"),
        ("model.safetensors", b"PK\x03\x04" + bytes(90), "MM403", "is a file of torch.save"),
    ],
)
def test_weights_with_the_name_of_another_format_are_refused(
    model: Path, name: str, content: bytes | None, code: str, words: str
) -> None:
    weights = (model / "model.safetensors").read_bytes()
    (model / "model.safetensors").unlink()
    (model / name).write_bytes(weights if content is None else content)
    refused_once(check(model), code, [name, words])
