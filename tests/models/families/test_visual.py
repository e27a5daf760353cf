"""Visual sides against transformers' own models, weights found by their stored names."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from mmbuild.models.families.vila.visual import DownSample
from support.marks import slow_except
from support.models import tiny_families as tiny


def pictures(size: tuple[int, int], count: int = 2) -> Tensor:
    return torch.randn(count, 3, *size, generator=torch.Generator().manual_seed(count))


@pytest.mark.parametrize("seed", slow_except(range(3), 0))
@pytest.mark.parametrize("family", ["blip2-opt", "blip2-t5"])
@torch.inference_mode()
def test_blip2_features_are_those_of_transformers(family: str, seed: int, tmp_path: Path) -> None:
    model = tiny.save_model(family, seed, tmp_path)
    side = model.config.vision_config.image_size
    module = tiny.filled(family, {"model": tmp_path})
    pixels = pictures((side, side))
    torch.testing.assert_close(
        module(pixels), model.get_image_features(pixels).pooler_output, rtol=1e-4, atol=1e-5
    )


@torch.inference_mode()
def test_a_second_source_gives_blip2_its_eyes(tmp_path: Path) -> None:
    from transformers import Blip2ForConditionalGeneration

    sources = tiny.save_in_two("blip2-t5", 1, tmp_path)
    model = Blip2ForConditionalGeneration.from_pretrained(sources["vision"]).eval()
    side = model.config.vision_config.image_size
    module = tiny.filled("blip2-t5", sources)
    pixels = pictures((side, side))
    torch.testing.assert_close(
        module(pixels), model.get_image_features(pixels).pooler_output, rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("seed", slow_except(range(4), 0))
@torch.inference_mode()
def test_nougat_features_are_what_its_decoder_looks_at(seed: int, tmp_path: Path) -> None:
    model = tiny.save_model("nougat", seed, tmp_path)
    module = tiny.filled("nougat", {"model": tmp_path})
    pixels = pictures(tuple(model.config.encoder.image_size))
    hidden = model.encoder(pixels).last_hidden_state
    expected = model.enc_to_dec_proj(hidden) if hasattr(model, "enc_to_dec_proj") else hidden
    torch.testing.assert_close(module(pixels), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("projector", ["linear", "mlp2x_gelu", "mlp_downsample"])
@torch.inference_mode()
def test_vila_features_are_tower_then_projector(projector: str, tmp_path: Path) -> None:
    sources = tiny.save_vila(3, tmp_path, projector)
    eyes = tiny.tower(3, "siglip")
    module = tiny.filled("vila", sources)
    pixels = pictures((eyes.config.image_size,) * 2)
    patches = eyes(pixels, output_hidden_states=True).hidden_states[-2]
    torch.testing.assert_close(module(pixels), projected(projector, patches, tmp_path), rtol=1e-4, atol=1e-4)


def projected(kind: str, patches: Tensor, model: Path) -> Tensor:
    """VILA's projector written out, by the names of its files."""
    weights = load_file(model / "mm_projector" / "model.safetensors")

    def linear(x: Tensor, name: str) -> Tensor:
        return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

    if kind == "linear":
        return linear(patches, "layers")
    if kind == "mlp2x_gelu":
        return linear(nn.functional.gelu(linear(patches, "layers.0")), "layers.2")
    joined = torch.stack([flat_square(picture) for picture in patches])
    scale, shift = weights["layers.1.weight"], weights["layers.1.bias"]
    normed = nn.functional.layer_norm(joined, joined.shape[-1:], scale, shift)
    return linear(nn.functional.gelu(linear(normed, "layers.2")), "layers.4")


def flat_square(patches: Tensor) -> Tensor:
    """One picture's patches [side^2, C], 2 x 2 joined as VILA joins them, neighbour by neighbour."""
    side = int(len(patches) ** 0.5)
    half = -(-side // 2)
    zero = torch.zeros(patches.shape[1])

    def at(row: int, column: int) -> Tensor:
        return patches[row * side + column] if row < side and column < side else zero

    cells = []
    for column in range(half):  # the second axis runs slowest
        for row in range(half):
            corners = ((0, 0), (0, 1), (1, 0), (1, 1))
            cells.append(torch.cat([at(2 * row + down, 2 * column + right) for down, right in corners]))
    return torch.stack(cells)


@pytest.mark.parametrize("side", [2, 3, 4, 7])
def test_down_sampling_joins_neighbours_and_pads_odd_sides(side: int) -> None:
    patches = torch.randn(2, side * side, 3)
    expected = torch.stack([flat_square(picture) for picture in patches])
    torch.testing.assert_close(DownSample()(patches), expected)


@pytest.mark.parametrize("trained_tower", [False, True])
@torch.inference_mode()
def test_a_tower_that_was_trained_along_goes_before_the_second_source(
    trained_tower: bool, tmp_path: Path
) -> None:
    sources = tiny.save_flat_vila(2, tmp_path, trained_tower=trained_tower)
    eyes = tiny.tower(2, "clip")
    if trained_tower:
        tiny.randomize(eyes, 2 + 5)
    module = tiny.filled("vila", sources)
    pixels = pictures((eyes.config.image_size,) * 2)
    patches = eyes(pixels, output_hidden_states=True).hidden_states[-2][:, 1:]
    weights = load_file(sources["model"] / "model.safetensors")
    first, second = (weights[f"model.mm_projector.{i}.weight"] for i in (0, 2))
    hidden = nn.functional.gelu(patches @ first.T + weights["model.mm_projector.0.bias"])
    expected = hidden @ second.T + weights["model.mm_projector.2.bias"]
    torch.testing.assert_close(module(pixels), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("family", slow_except(("blip2-opt", "nougat", "vila"), "vila"))
@torch.inference_mode()
def test_a_visual_side_exports_with_any_number_of_pictures(family: str, tmp_path: Path) -> None:
    sources = tiny.save_vila(1, tmp_path) if family == "vila" else {"model": tmp_path}
    if family != "vila":
        tiny.save_model(family, 1, tmp_path)
    module = tiny.filled(family, sources)
    size = tiny.facts(family, sources).visual.image_size
    batch = torch.export.Dim("batch", min=1, max=4)
    program = torch.export.export(module, (pictures(size),), dynamic_shapes=({0: batch},)).module()
    for count in (1, 3):
        pixels = pictures(size, count)
        torch.testing.assert_close(program(pixels), module(pixels), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("family", ["blip2-opt", "blip2-t5", "nougat", "vila"])
@torch.inference_mode()
def test_the_planned_number_of_features_is_the_one_that_comes_out(family: str, tmp_path: Path) -> None:
    for seed in range(4):
        out = tmp_path / str(seed)
        if family == "vila":
            tiny.save_vila(seed, out)
        else:
            tiny.save_model(family, seed, out)
        facts = tiny.facts(family, {"model": out})
        module = tiny.visual_module(family, {"model": out})
        features = module(torch.zeros(1, 3, *facts.visual.image_size))
        assert features.shape[1:] == (facts.visual.num_visual_features, facts.llm.hidden_size)
        assert facts.visual.derivation.arithmetic.endswith(f"= {facts.visual.num_visual_features}")
