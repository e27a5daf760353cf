"""Weight files: names of the model, shards, and what cannot be written."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from mmbuild.backends.hf.consumers.load import consumer
from mmbuild.backends.hf.write import INDEX, write
from mmbuild.models.errors import CheckpointError
from support.errors import refused
from support.hf.checkpoints import FAMILIES, facts, how, tensors, weights

SUFFIXES = (".weight_packed", ".weight_scale", ".weight_shape")
TOWER, FULL_TOWER = "vision_tower.", "vision_tower.vision_model."
"""How a LLaVA's tower is called by transformers 5, which wrote the demo model, and by versions before it."""
# What transformers called the parts of a LLaVA until 4.51, from 4.52 on, and from 5 on.
SPELLINGS = {
    "4.51": {},
    "4.52": {"language_model.model.": "model.language_model.", "language_model.lm_head.": "lm_head."},
    "5": {
        "language_model.model.": "model.language_model.",
        "language_model.lm_head.": "lm_head.",
        FULL_TOWER: TOWER,
    },
}


def original_tensors(family: str) -> dict[str, torch.Tensor]:
    """Tensors of a demo model, by the names of the first checkpoints of its family."""
    stored = load_file(FAMILIES[family] / "model.safetensors")
    if family != "llava":
        return stored
    return {name.replace(TOWER, FULL_TOWER): tensor for name, tensor in stored.items()}


@pytest.mark.parametrize("family", FAMILIES)
def test_an_unquantized_checkpoint_holds_the_model_s_tensors(tmp_path, family):
    original = original_tensors(family)
    written = tensors(weights(tmp_path, family, "none", "float16"))
    assert written.keys() == original.keys()
    assert all(torch.equal(written[name], tensor.half()) for name, tensor in original.items())


def test_an_embedding_under_the_name_of_its_tied_head_is_written_under_its_own(tmp_path):
    model = tmp_path / "model"
    shutil.copytree(FAMILIES["blip2-opt"], model)
    assert facts("blip2-opt").llm.tie_word_embeddings
    stored = load_file(model / "model.safetensors")
    table = stored.pop("language_model.model.decoder.embed_tokens.weight")
    save_file({**stored, "language_model.lm_head.weight": table}, model / "model.safetensors")
    out = tmp_path / "out"
    out.mkdir()
    write(model, out, "blip2-opt", facts("blip2-opt").llm, "float16", how("blip2-opt", "int4", "float16"), {})
    written = tensors(out)
    names = ("language_model.model.decoder.embed_tokens.weight", "language_model.lm_head.weight")
    assert all(torch.equal(written[name], table.half()) for name in names)


@pytest.mark.parametrize("family", FAMILIES)
def test_only_linear_layers_of_the_decoder_are_quantized(tmp_path, family):
    original = original_tensors(family)
    written = tensors(weights(tmp_path, family, "int4", "float16"))
    quantized = {name.removesuffix(".weight_packed") for name in written if name.endswith(".weight_packed")}
    llm = facts(family).llm
    assert len(quantized) == llm.num_hidden_layers * (7 if llm.mlp_type == "GatedMLP" else 6)
    assert all(".layers." in name and "language_model" in name for name in quantized)
    kept = {name for name in original if name.removesuffix(".weight") not in quantized}
    assert {name for name in written if not name.endswith(SUFFIXES)} == kept
    assert all(torch.equal(written[name], original[name].half()) for name in kept)


def test_shards_hold_the_same_tensors_and_the_index_names_each(tmp_path):
    known = facts("llava")
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    for out, size in ((whole, 1 << 30), (parts, 400_000)):
        out.mkdir()
        write(
            FAMILIES["llava"],
            out,
            "llava",
            known.llm,
            "float16",
            how("llava", "int8", "float16"),
            {},
            shard=size,
        )
    assert [path.name for path in whole.iterdir()] == ["model.safetensors"]
    index = json.loads((parts / INDEX).read_text())
    files = sorted(path.name for path in parts.glob("*.safetensors"))
    assert files == [
        f"model-{number:05d}-of-{len(files):05d}.safetensors" for number in range(1, len(files) + 1)
    ]
    assert len(files) > 2
    read = {}
    for name in files:
        with safe_open(parts / name, "pt") as file:
            read |= {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
            assert all(index["weight_map"][key] == name for key in file.keys())  # noqa: SIM118
            assert file.metadata() == {"format": "pt"}
    expected = load_file(whole / "model.safetensors")
    assert read.keys() == expected.keys() == index["weight_map"].keys()
    assert all(torch.equal(read[name], tensor) for name, tensor in expected.items())
    assert index["metadata"]["total_size"] == sum(tensor.nbytes for tensor in expected.values())
    assert sum((parts / name).stat().st_size > 600_000 for name in files) == 0


def damaged(tmp_path, change):
    model = tmp_path / "model"
    shutil.copytree(FAMILIES["llava"], model)
    content = load_file(model / "model.safetensors")
    change(content)
    save_file(content, model / "model.safetensors", {"format": "pt"})
    return model


@pytest.mark.parametrize("algorithm", ["none", "int8"])
@pytest.mark.parametrize(
    "name", ["language_model.model.layers.1.mlp.up_proj.weight", "multi_modal_projector.linear_1.weight"]
)
def test_weights_that_are_not_numbers_are_refused_by_name(tmp_path, algorithm, name):
    model = damaged(
        tmp_path, lambda content: content[name].flatten().index_fill_(0, torch.tensor([5]), torch.nan)
    )
    content = load_file(model / "model.safetensors")
    content[name] = content[name].clone()
    content[name][0, 0] = torch.nan
    save_file(content, model / "model.safetensors", {"format": "pt"})
    error = refused(CheckpointError, "MM432", weights, tmp_path, "llava", algorithm, model=model)
    assert name in error.message


def test_a_missing_tensor_is_refused_before_anything_is_written(tmp_path):
    name = "language_model.model.layers.1.mlp.up_proj.weight"
    model = damaged(tmp_path, lambda content: content.pop(name))
    out = tmp_path / "out"
    out.mkdir()
    error = refused(CheckpointError, "MM430", weights, out, "llava", "int8", model=model)
    assert name in error.message
    assert not list(out.iterdir())


def test_the_same_model_gives_the_same_bytes(tmp_path):
    written = []
    for number in range(2):
        out = tmp_path / str(number)
        out.mkdir()
        written.append((weights(out, "llava", "int4_awq", "float16", 64) / "model.safetensors").read_bytes())
    assert written[0] == written[1]


def test_older_weight_files_give_the_same_checkpoint(tmp_path):
    model = tmp_path / "model"
    shutil.copytree(FAMILIES["llava"], model)
    torch.save(load_file(model / "model.safetensors"), model / "pytorch_model.bin")
    (model / "model.safetensors").unlink()
    written = []
    for number, source in enumerate((FAMILIES["llava"], model)):
        out = tmp_path / str(number)
        out.mkdir()
        written.append(tensors(weights(out, "llava", "int8", "float16", model=source)))
    assert written[0].keys() == written[1].keys()
    assert all(torch.equal(tensor, written[1][name]) for name, tensor in written[0].items())


PARTS = {"self_attn.qkv_proj": "self_attn.q_proj", "self_attn.qkv": "self_attn.qkv"}
"""Modules of a tower that vLLM runs as one: a part that the files have."""


@pytest.mark.parametrize("family", FAMILIES)
def test_each_module_that_vllm_leaves_alone_has_its_weight_in_the_files(tmp_path, family):
    """vLLM loads a tensor by the name of its module; a tower without a prefix is looked up after the first dot."""
    written = tensors(weights(tmp_path, family, "none", "float16"))
    for module in consumer("vllm").families[family].others:
        if module == "language_model.lm_head" and facts(family).llm.tie_word_embeddings:
            continue
        fused = next((name for name in PARTS if module.endswith(name)), "")
        stored = module.format(i=0).removesuffix(fused) + PARTS.get(fused, "") + ".weight"
        assert any(name == stored or (name.endswith(stored) and stored[0] == ".") for name in written), stored


@pytest.mark.parametrize("version", SPELLINGS)
def test_the_names_of_every_transformers_become_those_that_servers_find(tmp_path, version):
    def spelt(name: str) -> str:
        for old, new in SPELLINGS[version].items():
            name = name.replace(old, new) if name.startswith(old) else name
        beside = name.startswith(("vision_tower.", "multi_modal_projector."))
        return f"model.{name}" if version != "4.51" and beside else name

    expected = original_tensors("llava")
    model = tmp_path / "model"
    shutil.copytree(FAMILIES["llava"], model)
    save_file({spelt(name): tensor for name, tensor in expected.items()}, model / "model.safetensors")
    (tmp_path / "out").mkdir()
    written = tensors(weights(tmp_path / "out", "llava", "none", "float16", model=model))
    assert written.keys() == expected.keys()
    assert all(torch.equal(written[name], tensor.half()) for name, tensor in expected.items())


def test_a_tensor_under_an_older_and_a_newer_name_is_refused(tmp_path):
    def doubled(content: dict[str, torch.Tensor]) -> None:
        content["model.multi_modal_projector.linear_1.bias"] = (
            content["multi_modal_projector.linear_1.bias"] + 1
        )

    (tmp_path / "out").mkdir()
    model = damaged(tmp_path, doubled)
    error = refused(CheckpointError, "MM434", weights, tmp_path / "out", "llava", "none", model=model)
    assert "`multi_modal_projector.linear_1.bias` twice" in error.message
    assert list((tmp_path / "out").iterdir()) == []


def test_buffers_keep_their_integers_and_other_number_formats_are_refused(tmp_path):
    (tmp_path / "a").mkdir()
    positions = torch.arange(7)[None]
    model = damaged(tmp_path / "a", lambda content: content.update({"vision_tower.position_ids": positions}))
    out = tmp_path / "out"
    out.mkdir()
    assert torch.equal(
        tensors(weights(out, "llava", "none", "float16", model=model))[f"{FULL_TOWER}position_ids"],
        positions,
    )
    (tmp_path / "b").mkdir()
    odd = torch.zeros(4, dtype=torch.float8_e4m3fn)
    model = damaged(tmp_path / "b", lambda content: content.update({"vision_tower.odd": odd}))
    error = refused(CheckpointError, "MM749", weights, tmp_path / "out", "llava", "none", model=model)
    assert "vision_tower.odd" in error.message
