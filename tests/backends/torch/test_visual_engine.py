"""Visual engines give the features of transformers' LLaVA."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import LlavaForConditionalGeneration

from mmbuild.backends.torch.visual_build import build
from mmbuild.backends.torch.visual_engine import VisualEngine
from mmbuild.backends.visual.config import VisualConfig
from mmbuild.models.errors import EngineError
from mmbuild.models.families.reference import load_reference
from support.engines import build as build_engine
from support.engines.loaded import DEMO, demo_engine, demo_reference, random_model, random_visual
from support.errors import refused
from support.models import tiny_families, tiny_llava

pytestmark = pytest.mark.slow

# Engines that the tests of the LLM compile anyway: other image sizes, layers and strategies.
SEEDS = (2, 3, *(pytest.param(seed, marks=pytest.mark.extended) for seed in (5, 11)))


def features_of(reference, pixels):
    """What transformers puts in the place of the image tokens: [images, features, hidden]."""
    with torch.inference_mode():
        found = reference.model.get_image_features(pixel_values=pixels)
    return torch.stack(list(getattr(found, "pooler_output", found)))


@pytest.mark.parametrize("seed", SEEDS)
def test_features_of_random_shapes(seed):
    visual = random_visual(seed)
    reference = load_reference("llava", {"model": random_model(seed)}, "float32", "cpu")
    for images in (1, 3):
        pixels = torch.randn(images, 3, *visual.config.image_size)
        expected = features_of(reference, pixels)
        assert expected.shape[1] == visual.config.num_visual_features
        torch.testing.assert_close(visual(pixels), expected, rtol=1e-4, atol=1e-4)


def test_an_image_s_features_do_not_depend_on_the_others():
    visual = demo_engine().visual
    pixels = torch.randn(4, 3, 64, 64)
    together = visual(pixels)
    for image in range(4):
        torch.testing.assert_close(
            visual(pixels[image : image + 1])[0], together[image], rtol=1e-4, atol=1e-5
        )


@pytest.mark.parametrize("dtype", ["float16", pytest.param("bfloat16", marks=pytest.mark.extended)])
def test_half_precision_features_are_near_those_of_transformers(dtype):
    visual = demo_engine(dtype).visual
    pixels = torch.randn(2, 3, 64, 64)
    mine = visual(pixels)
    assert str(mine.dtype) == f"torch.{dtype}"
    exact = features_of(demo_reference(), pixels)
    theirs = features_of(demo_reference(dtype), pixels.to(mine.dtype)).float()
    error, allowed = ((x - exact).norm() / exact.norm() for x in (mine.float(), theirs))
    assert error <= 2 * allowed + 1e-3


@pytest.mark.parametrize("count", [0, 5])
def test_more_images_than_the_engine_takes_are_refused(count):
    error = refused(EngineError, "MM534", demo_engine().visual, torch.zeros(count, 3, 64, 64))
    assert f"{count} images" in error.message
    assert "1 to 4" in error.message


def test_pictures_of_another_size_are_refused():
    assert (
        "[3, 32, 64]"
        in refused(EngineError, "MM535", demo_engine().visual, torch.zeros(1, 3, 32, 64)).message
    )


@pytest.mark.parametrize("layers", [-1, -2, 1, [-2, -1], [1, -2]])
@pytest.mark.parametrize("strategy", ["default", "full"])
def test_every_choice_of_layers_before_it_is_compiled(tmp_path, layers, strategy):
    torch.manual_seed(5)
    config = tiny_llava.random_config(3, vision_feature_layer=layers, vision_feature_select_strategy=strategy)
    reference = LlavaForConditionalGeneration(config).float().eval()
    reference.save_pretrained(tmp_path)
    module = tiny_families.filled("llava", {"model": tmp_path})
    size = config.vision_config.image_size
    pixels = torch.randn(2, 3, size, size)
    with torch.inference_mode():
        torch.testing.assert_close(module(pixels), features_of(reference, pixels), rtol=1e-4, atol=1e-4)


def test_another_number_of_features_than_planned_is_refused_before_compiling(tmp_path):
    tiny_llava.random_config(3).save_pretrained(tmp_path / "model")
    module = tiny_families.visual_module("llava", {"model": tmp_path / "model"})
    planned = VisualConfig("float32", "float32", 2, 99, (42, 42))
    out = tmp_path / "out"
    out.mkdir()
    error = refused(EngineError, "MM533", build, module, planned, out, build_engine.TARGET, str)
    assert "99" in error.message
    assert not list(out.iterdir())


@pytest.fixture
def visual(tmp_path):
    """A copy of the demo engine's visual directory, to damage."""
    return Path(shutil.copytree(demo_engine().directory / "visual", tmp_path / "visual"))


def load(directory):
    return VisualEngine(directory, build_engine.TARGET)


def rewrite(directory, **tensors):
    """Replace tensors of the weights, or remove them (None)."""
    path = directory / "visual.safetensors"
    content = {**load_file(path), **{name.replace("__", "."): value for name, value in tensors.items()}}
    path.unlink()
    save_file({name: value for name, value in content.items() if value is not None}, path)


def rewire(directory, number, **fields):
    """Change fields of a call, by its number."""
    path = directory / "calls.json"
    content = json.loads(path.read_text())
    content["calls"][number].update(fields)
    path.unlink()
    path.write_text(json.dumps(content))


BIAS = "vision_tower__encoder__layers__0__mlp__fc2__bias"


def test_weights_of_another_shape_are_refused(visual):
    rewrite(visual, **{BIAS: torch.zeros(3)})
    error = refused(EngineError, "MM786", load, visual)
    assert BIAS.replace("__", ".") in error.message
    assert "layers.pt2" in error.message


def test_a_missing_weight_is_named(visual):
    rewrite(visual, **{BIAS: None})
    assert BIAS.replace("__", ".") in refused(EngineError, "MM505", load, visual).message


def test_weights_of_another_dtype_are_refused(visual):
    tensors = load_file(visual / "visual.safetensors")
    name = BIAS.replace("__", ".")
    rewrite(visual, **{BIAS: tensors[name].half()})
    error = refused(EngineError, "MM505", load, visual)
    assert name in error.message
    assert "torch.float16" in error.message


@pytest.mark.parametrize(
    ("number", "fields", "code"),
    [
        (1, {"values": [0]}, "MM786"),
        (1, {"values": []}, "MM786"),
        (1, {"values": [1, 1]}, "MM786"),
        (0, {"weights": []}, "MM786"),
        (0, {"weights": ["vision_tower.embeddings.class_embedding"] * 6}, "MM786"),
        (1, {"package": "outside"}, "MM786"),
        (1, {"package": "nothing"}, "MM504"),
        (1, {"weights": ["no.such.weight"]}, "MM505"),
    ],
)
def test_calls_that_do_not_fit_the_packages_are_refused(visual, number, fields, code):
    rewire(visual, number, **fields)
    refused(EngineError, code, load, visual)


def test_packages_that_do_not_fit_together_are_refused_before_they_run(visual):
    rewire(visual, 0, outputs=2)
    pixels = torch.zeros(1, 3, 64, 64)
    assert "1 outputs" in refused(EngineError, "MM786", load(visual), pixels).message
    rewire(visual, 0, outputs=1)
    content = json.loads((visual / "calls.json").read_text())
    projector = len(content["calls"]) - 1
    features = load(visual)(pixels)
    content["calls"].append({**content["calls"][projector], "values": [projector + 1]})
    content["result"] = projector + 2
    (visual / "calls.json").write_text(json.dumps(content))
    assert features.shape[-1] != 0
    error = refused(EngineError, "MM786", load(visual), pixels)
    assert f"value {projector + 1}" in error.message


def test_pixels_need_not_be_contiguous():
    pixels = torch.randn(2, 64, 64, 3).permute(0, 3, 1, 2)
    visual = demo_engine().visual
    assert torch.equal(visual(pixels), visual(pixels.contiguous()))


def test_a_visual_engine_holds_only_the_tower_and_the_projector():
    weights = sum(path.stat().st_size for path in demo_engine().directory.glob("visual/*.safetensors"))
    whole = (DEMO / "model.safetensors").stat().st_size * 2  # stored as float16
    assert 0 < weights < whole
