"""Filling a visual module from a model directory, whatever the release of transformers that wrote it."""

import json

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from mmbuild.backends.visual.tensors import fill
from mmbuild.models.errors import CheckpointError, EngineError
from mmbuild.models.families.llava.visual import canonical
from support.errors import refused


class Tiny(nn.Module):
    """Two parameters under the names of a tower and a projector."""

    def __init__(self):
        super().__init__()
        self.vision_tower = nn.Linear(3, 5, bias=False)
        self.multi_modal_projector = nn.Linear(5, 2, bias=False)


@pytest.fixture
def module():
    torch.manual_seed(0)
    return Tiny()


def tensors(seed=1):
    generator = torch.Generator().manual_seed(seed)
    return {
        "vision_tower.weight": torch.randn(5, 3, generator=generator),
        "multi_modal_projector.weight": torch.randn(2, 5, generator=generator),
        "language_model.weight": torch.randn(4, generator=generator),
    }


def assert_filled(module, expected):
    assert torch.equal(module.vision_tower.weight, expected["vision_tower.weight"])
    assert torch.equal(module.multi_modal_projector.weight, expected["multi_modal_projector.weight"])


@pytest.mark.parametrize(
    "name",
    [
        "vision_tower.vision_model.encoder.layers.0.mlp.fc1.weight",
        "model.vision_tower.vision_model.encoder.layers.0.mlp.fc1.weight",
        "model.vision_tower.encoder.layers.0.mlp.fc1.weight",
        "vision_tower.encoder.layers.0.mlp.fc1.weight",
    ],
)
def test_names_of_every_release_are_one(name):
    assert canonical("model", name) == "vision_tower.encoder.layers.0.mlp.fc1.weight"


@pytest.mark.parametrize("prefix", ["", "model."])
def test_one_safetensors_file(module, tmp_path, prefix):
    save_file({prefix + name: tensor for name, tensor in tensors().items()}, tmp_path / "model.safetensors")
    fill(module, {"model": tmp_path}, canonical)
    assert_filled(module, tensors())


@pytest.mark.parametrize("shards", [False, True])
@pytest.mark.parametrize(
    "other",
    [
        "model.vision_tower.weight",
        "vision_tower.vision_model.weight",
        "model.vision_tower.vision_model.weight",
    ],
)
def test_a_tensor_under_the_names_of_two_releases_is_refused(module, tmp_path, other, shards):
    # transformers takes the last of the two, whichever that is.
    content = {**tensors(), other: torch.ones(5, 3)}
    if shards:
        save_file({other: content.pop(other)}, tmp_path / "model-b.safetensors")
        save_file(content, tmp_path / "model-a.safetensors")
        placed = dict.fromkeys(content, "model-a.safetensors") | {other: "model-b.safetensors"}
        (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": placed}))
    else:
        save_file(content, tmp_path / "model.safetensors")
    error = refused(CheckpointError, "MM434", fill, module, {"model": tmp_path}, canonical)
    assert f"`{other}`" in error.message
    assert "`vision_tower.weight`" in error.message


def test_what_the_module_does_not_need_may_be_there_twice(module, tmp_path):
    more = {
        "vision_tower.post_layernorm.weight": torch.ones(3),
        "model.vision_tower.post_layernorm.weight": torch.zeros(3),
    }
    save_file({**tensors(), **more}, tmp_path / "model.safetensors")
    fill(module, {"model": tmp_path}, canonical)
    assert_filled(module, tensors())


def test_of_two_sources_the_first_one_counts(module, tmp_path):
    for number, source in enumerate(("model", "vision")):
        (tmp_path / source).mkdir()
        save_file(tensors(number), tmp_path / source / "model.safetensors")
    fill(module, {source: tmp_path / source for source in ("model", "vision")}, canonical)
    assert_filled(module, tensors(0))


def test_shards_of_an_index(module, tmp_path):
    shards = {}
    for number, (name, tensor) in enumerate(tensors().items()):
        save_file({name: tensor}, tmp_path / f"model-{number}.safetensors")
        shards[name] = f"model-{number}.safetensors"
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": shards}))
    fill(module, {"model": tmp_path}, canonical)
    assert_filled(module, tensors())


def test_an_older_pickle(module, tmp_path):
    torch.save(tensors(), tmp_path / "pytorch_model.bin")
    fill(module, {"model": tmp_path}, canonical)
    assert_filled(module, tensors())


def test_another_dtype_is_converted(module, tmp_path):
    save_file({name: tensor.half() for name, tensor in tensors().items()}, tmp_path / "model.safetensors")
    fill(module, {"model": tmp_path}, canonical)
    assert module.vision_tower.weight.dtype == torch.float32
    assert torch.equal(module.vision_tower.weight, tensors()["vision_tower.weight"].half().float())


def test_a_directory_without_weights(module, tmp_path):
    refused(CheckpointError, "MM402", fill, module, {"model": tmp_path}, canonical)


def test_a_tensor_of_another_shape_is_named_with_both_shapes(module, tmp_path):
    wrong = tensors() | {"vision_tower.weight": torch.zeros(5, 4)}
    save_file(wrong, tmp_path / "model.safetensors")
    error = refused(EngineError, "MM531", fill, module, {"model": tmp_path}, canonical)
    assert "`vision_tower.weight`" in error.message
    assert "[5, 4]" in error.message
    assert "[5, 3]" in error.message


@pytest.mark.parametrize("missing", ["vision_tower.weight", "multi_modal_projector.weight"])
def test_a_missing_tensor_is_named(module, tmp_path, missing):
    rest = {name: tensor for name, tensor in tensors().items() if name != missing}
    save_file(rest, tmp_path / "model.safetensors")
    assert missing in refused(EngineError, "MM532", fill, module, {"model": tmp_path}, canonical).message
