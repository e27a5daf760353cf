"""Graphs are cut at the boundaries of layers: equal layers share a segment, and the segments give the module's
features."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from transformers import LlavaForConditionalGeneration

from mmbuild.backends.torch import graph_cutting, graph_segment
from mmbuild.backends.torch.graph_cutting import Cut
from mmbuild.backends.torch.visual_build import trace
from mmbuild.backends.visual.config import VisualConfig
from mmbuild.models.families.blip2.visual import Blip2Visual
from mmbuild.models.families.nougat.visual import NougatVisual
from support.marks import slow_except
from support.models import tiny_families as tiny
from support.models import tiny_llava

SIDE, WIDTH, MOST = 4, 8, 5


class Plain(nn.Module):
    """A layer: [B, N, WIDTH] -> the same."""

    def __init__(self, hidden: int = 12) -> None:
        super().__init__()
        self.norm, self.up, self.down = (
            nn.LayerNorm(WIDTH),
            nn.Linear(WIDTH, hidden),
            nn.Linear(hidden, WIDTH),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(torch.relu(self.up(self.norm(x))))


class Windows(nn.Module):
    """Computes on windows, whose number is a multiple of the batch; adds a mask that it computes itself."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Linear(SIDE, SIDE)

    def forward(self, x: Tensor) -> Tensor:
        batch, count, width = x.shape
        windows = x.reshape(batch * count // SIDE, SIDE, width).transpose(1, 2)
        mask = torch.arange(SIDE, device=x.device).ge(1).to(x.dtype)
        return x + (self.mix(windows) * mask).transpose(1, 2).reshape(batch, count, width)


class InPlace(nn.Module):
    """Writes to a part of its own intermediate tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.randn(WIDTH))
        self.register_buffer("shift", torch.randn(WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        y = x * self.scale
        y[:, :1] += self.shift
        first, second = y.chunk(2, dim=-1)
        return torch.cat([second, first], dim=-1)


class Turned(nn.Module):
    """Returns a view that is not contiguous."""

    def forward(self, x: Tensor) -> Tensor:
        return (x * 2).transpose(0, 1).contiguous().transpose(0, 1)


KINDS = {
    "plain": Plain,
    "wide": lambda: Plain(16),
    "windows": Windows,
    "in place": InPlace,
    "turned": Turned,
}


class Tower(nn.Module):
    """[B, 3, SIDE, SIDE] -> [B, SIDE * SIDE, 2]: embeddings, layers, and a projection."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.embed = nn.Conv2d(3, WIDTH, 1)
        self.layers = nn.ModuleList(layers)
        self.project = nn.Linear(WIDTH, 2)

    def forward(self, pixels: Tensor) -> Tensor:
        x = self.embed(pixels).flatten(2).transpose(1, 2)
        for layer in self.layers:
            x = layer(x)
        return self.project(x)


class Stage(nn.Module):
    """Blocks, and what is after them."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Plain() for _ in range(count))
        self.last = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return self.last(x)


def cut(
    module: nn.Module, size: tuple[int, int] = (SIDE, SIDE), images: int = MOST, device: str = "cpu"
) -> Cut:
    module = module.eval().requires_grad_(False)
    config = VisualConfig("float32", "float32", images, 1, size)
    return graph_cutting.cut(trace(module, config), module, device)


def packages(found: Cut) -> list[str]:
    return [call.package for call in found.calls.calls]


def run(found: Cut, module: nn.Module, pixels: Tensor) -> Tensor:
    """The calls, one after the other, as an engine makes them."""
    tensors = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    values = [pixels]
    for call in found.calls.calls:
        given = [values[value] for value in call.values] + [tensors[name] for name in call.weights]
        outputs = found.segments[call.package].graph(*given)
        assert len(outputs) == call.outputs
        assert all(output.is_contiguous() for output in outputs)
        values += outputs
    return values[found.calls.result]


def assert_same(found: Cut, module: nn.Module, size: tuple[int, int] = (SIDE, SIDE)) -> None:
    with torch.inference_mode():
        for images in range(1, MOST + 1):
            pixels = torch.randn(images, 3, *size, generator=torch.Generator().manual_seed(images))
            torch.testing.assert_close(run(found, module, pixels), module(pixels), rtol=1e-4, atol=1e-5)


def test_equal_layers_share_a_segment() -> None:
    tower = Tower(*(Plain() for _ in range(6)))
    found = cut(tower)
    assert packages(found) == ["outside", *["layers"] * 6, "outside_2"]
    assert found.calls.calls[3].weights[0] == "layers.2.norm.weight"
    assert_same(found, tower)


def test_layers_of_two_kinds_are_two_segments() -> None:
    tower = Tower(Plain(), Windows(), Plain(), Windows())
    found = cut(tower)
    assert packages(found) == ["outside", "layers", "layers_2", "layers", "layers_2", "outside_2"]
    assert_same(found, tower)


def test_layers_of_other_widths_share_nothing_and_neighbours_that_run_once_are_one() -> None:
    tower = Tower(Plain(10), Plain(11), Plain(12), Plain(13), Plain(12))
    found = cut(tower)
    assert packages(found) == ["outside", "layers", "layers_2", "layers", "outside_2"]
    assert len(found.segments) == 4
    assert_same(found, tower)


def test_a_module_without_layers_is_one_segment() -> None:
    tower = Tower()
    assert packages(cut(tower)) == ["outside"]
    assert_same(cut(tower), tower)


def test_blocks_in_stages_are_cut_as_blocks() -> None:
    tower = Tower(Stage(2), Stage(3))
    found = cut(tower)
    assert packages(found) == ["outside", *["blocks"] * 2, "layers", *["blocks"] * 3, "layers", "outside_2"]
    assert_same(found, tower)


def test_a_layer_that_is_called_twice_is_one_segment() -> None:
    shared = Plain()
    tower = Tower(shared, shared)
    found = cut(tower)
    assert packages(found) == ["outside", "layers", "layers", "outside_2"]
    assert found.calls.calls[1].weights == found.calls.calls[2].weights
    assert_same(found, tower)


def test_an_engine_for_one_image_has_no_dynamic_size() -> None:
    tower = Tower(Windows(), Windows())
    found = cut(tower, images=1)
    assert not any(value.batched for segment in found.segments.values() for value in segment.inputs)
    pixels = torch.randn(1, 3, SIDE, SIDE)
    torch.testing.assert_close(run(found, tower, pixels), tower(pixels))


def test_segments_are_for_the_engine_s_device() -> None:
    found = cut(Tower(Windows(), Windows()), device="meta")
    segment = found.segments["layers"]
    outputs = segment.graph(*(torch.empty(value.shape, device="meta") for value in segment.inputs))
    assert outputs[0].device.type == "meta"


class Longer(nn.Module):
    """Adds an image to the batch: what layers exchange is no multiple of it."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, x[:1]])


def test_layers_that_exchange_something_else_than_images_are_refused() -> None:
    with pytest.raises(ValueError, match="not a multiple of the batch"):
        cut(Tower(Longer(), Plain(), Plain()))


class Constant(nn.Module):
    """Adds a tensor that its code holds."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.value = value

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.tensor([self.value] * WIDTH)


def test_layers_with_other_constants_are_not_equal() -> None:
    tower = Tower(Constant(0.5), Constant(0.5), Constant(0.25), Constant(0.5), Constant(0.25))
    found = cut(tower)
    assert packages(found)[1:-1] == ["layers", "layers", "layers_2", "layers", "layers_2"]
    assert_same(found, tower)


@pytest.mark.parametrize("seed", slow_except(range(8), 0, 1))
def test_random_towers(seed: int) -> None:
    generator = random.Random(seed)
    torch.manual_seed(seed)
    kinds = generator.choices(list(KINDS), k=generator.randint(2, 8))
    tower = Tower(*(KINDS[kind]() for kind in kinds))
    found = cut(tower)
    several = {kind for kind in kinds if kinds.count(kind) > 1}
    # torch leaves out copies of what is contiguous, so that the graphs of these kinds depend on the layer before.
    if not {"in place", "turned"} & set(kinds):
        assert sum(packages(found).count(name) > 1 for name in found.segments) == len(several)
    assert_same(found, tower)


def test_a_segment_is_traced_for_every_batch() -> None:
    tower = Tower(Windows(), Windows())
    segment = cut(tower).segments["layers"]
    program = graph_segment.export_segment(segment, "cpu", MOST).module()
    weights = [tower.layers[0].mix.weight, tower.layers[0].mix.bias]
    for images in range(1, MOST + 1):
        x = torch.randn(images, SIDE * SIDE, WIDTH)
        (y,) = program(x, *weights)
        torch.testing.assert_close(y, tower.layers[0](x))


def saved(name: str, seed: int, out: Path) -> dict[str, Path]:
    """A random model of a family."""
    if name == "vila":
        return tiny.save_vila(seed, out)
    if name == "llava":
        LlavaForConditionalGeneration(tiny_llava.random_config(seed)).save_pretrained(out)
    else:
        tiny.save_model(name, seed, out)
    return {"model": out}


@pytest.mark.parametrize("seed", slow_except(range(2), 0))
@pytest.mark.parametrize("name", slow_except(("llava", "vila", "blip2-opt", "blip2-t5", "nougat"), "llava"))
def test_every_family_is_cut_without_a_change_of_its_features(name: str, seed: int, tmp_path: Path) -> None:
    sources = saved(name, seed, tmp_path)
    size = tuple(tiny.facts(name, sources).visual.image_size)
    module = tiny.filled(name, sources)
    found = cut(module, size)
    assert_same(found, module, size)
    read = {weight for call in found.calls.calls for weight in call.weights}
    assert {weight for weight, _ in [*module.named_parameters(), *module.named_buffers()]} == read


@pytest.mark.slow
def test_shifted_and_unshifted_windows_are_two_packages() -> None:
    tower = {"depths": [6], "num_heads": [2], "embed_dim": 8, "window_size": 2, "image_size": 16}
    module = NougatVisual({"tower": tower, "hidden_size": 6}, torch.float32)
    found = cut(module, (16, 16))
    assert packages(found) == ["outside", *["blocks", "blocks_2"] * 3, "outside_2"]
    assert_same(found, module, (16, 16))


@pytest.mark.slow
def test_q_former_layers_with_and_without_cross_attention_are_two_packages() -> None:
    tower = {
        "hidden_size": 8,
        "intermediate_size": 12,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "image_size": 8,
        "patch_size": 4,
    }
    former = {
        "hidden_size": 8,
        "intermediate_size": 12,
        "num_hidden_layers": 4,
        "num_attention_heads": 2,
        "cross_attention_frequency": 2,
        "encoder_hidden_size": 8,
    }
    shape = {"tower": tower, "qformer": former, "num_query_tokens": 3, "hidden_size": 6}
    module = Blip2Visual(shape, torch.float32)
    found = cut(module, (8, 8))
    assert packages(found) == [
        "outside", *["layers"] * 3, "outside_2", *["layer", "layer_2"] * 2, "outside_3",
    ]  # fmt: skip
    assert_same(found, module, (8, 8))
