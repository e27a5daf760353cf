"""Visual sides as ONNX compute what the modules compute, by onnx's own reference evaluator."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx.reference import ReferenceEvaluator
from torch import Tensor, nn
from torch.nn import functional

from mmbuild.backends.tensorrt.export import OPSET, check_opset, export, node_names
from mmbuild.backends.visual.config import VisualConfig
from mmbuild.backends.visual.tensors import fill
from mmbuild.models.errors import EngineError
from mmbuild.models.families import part
from support.errors import refused
from support.marks import slow_except
from support.models import tiny_families as tiny
from support.models import tiny_llava

DTYPES = {"float32": torch.float32, "float16": torch.float16}


def visual_side(family: str, seed: int, dtype: str, room: Path) -> tuple[nn.Module, VisualConfig]:
    """A random small visual side, filled from a random model, and what it is for: up to 5 images."""
    if family == "llava":
        tiny_llava.save_random_model(room, seed)
        sources = {"model": room}
    elif family == "vila":
        sources = tiny.save_vila(seed, room)
    elif family == "vila/down-sampling":
        sources = tiny.save_vila(seed, room, "mlp_downsample")
    else:
        tiny.save_model(family, seed, room)
        sources = {"model": room}
    name = family.partition("/")[0]
    visual = part(name, "visual")
    module = tiny.visual_module(name, sources, DTYPES[dtype])
    fill(module, sources, visual.canonical)
    facts = tiny.facts(name, sources).visual
    config = VisualConfig(dtype, dtype, 5, facts.num_visual_features, tuple(facts.image_size))
    return module.eval().requires_grad_(False).to(DTYPES[dtype]), config


def evaluated(path: Path, pixels: Tensor) -> np.ndarray:
    """What onnx's reference evaluator makes of the model."""
    (features,) = ReferenceEvaluator(onnx.load(str(path))).run(None, {"pixels": pixels.numpy()})
    return features


FAMILIES = ["llava", "vila", "vila/down-sampling", "blip2-opt", "blip2-t5", "nougat"]


@pytest.mark.parametrize("seed", slow_except(range(2), 0))
@pytest.mark.parametrize("family", FAMILIES)
@torch.inference_mode()
def test_a_model_gives_the_module_s_features_for_any_number_of_images(
    family: str, seed: int, tmp_path: Path
) -> None:
    module, config = visual_side(family, seed, "float32", tmp_path)
    with torch.inference_mode(False):
        exported = export(module, config, tmp_path)
    assert exported.hidden_size == module(torch.zeros(1, 3, *config.image_size)).shape[2]
    for images in (1, 2, config.max_batch_size):
        pixels = torch.randn(images, 3, *config.image_size, generator=torch.Generator().manual_seed(images))
        expected = module(pixels)
        torch.testing.assert_close(
            torch.from_numpy(evaluated(exported.path, pixels)), expected, rtol=1e-4, atol=1e-5
        )


@pytest.mark.parametrize("family", slow_except(FAMILIES, "vila", "nougat"))
@torch.inference_mode()
def test_half_precision_is_half_precision_throughout(family: str, tmp_path: Path) -> None:
    module, config = visual_side(family, 1, "float16", tmp_path)
    with torch.inference_mode(False):
        exported = export(module, config, tmp_path)
    pixels = torch.randn(3, 3, *config.image_size).half()
    found, expected = evaluated(exported.path, pixels), module(pixels)
    assert found.dtype == np.float16
    assert np.linalg.norm(found - expected.numpy()) < 0.005 * np.linalg.norm(expected.numpy())
    # Types agree from node to node: a strongly typed network has no other way to know them.
    onnx.shape_inference.infer_shapes(onnx.load(str(exported.path)), check_type=True, strict_mode=True)
    weights = {tensor.data_type for tensor in onnx.load(str(exported.path)).graph.initializer}
    assert weights <= {onnx.TensorProto.FLOAT16, onnx.TensorProto.INT64}


@pytest.mark.parametrize("family", slow_except(FAMILIES, "vila", "nougat"))
def test_it_is_opset_17_and_nothing_but_the_batch_is_computed(family: str, tmp_path: Path) -> None:
    exported = export(*visual_side(family, 0, "float32", tmp_path), tmp_path)
    check_opset(exported.path)
    model = onnx.load(str(exported.path))
    assert [value.name for value in model.graph.input] == ["pixels"]
    assert [value.name for value in model.graph.output] == ["features"]
    operators = {node.op_type for node in model.graph.node}
    assert not operators & {"Range", "Mod", "If", "Loop", "NonZero", "IsNaN"}
    assert len(node_names(exported.path)) == len(model.graph.node)


@pytest.mark.parametrize("opset", [16, 18])
def test_a_model_of_another_opset_is_refused(tmp_path: Path, opset: int) -> None:
    exported = export(*visual_side("llava", 0, "float32", tmp_path), tmp_path)
    model = onnx.load(str(exported.path))
    model.opset_import[0].version = opset
    onnx.save(model, str(exported.path))
    assert f"opset {OPSET}" in refused(EngineError, "MM564", check_opset, exported.path).message


class Tower(nn.Module):
    """One row a picture, made by ``function``."""

    def __init__(self, function: Any) -> None:
        super().__init__()
        self.function = function

    def forward(self, pixels: Tensor) -> Tensor:
        features: Tensor = self.function(pixels.mean(dim=1))[:, :1]
        return features


SMALL = VisualConfig("float32", "float32", 2, 1, (8, 8))


def test_what_onnx_has_no_operator_for_is_refused(tmp_path: Path) -> None:
    module = Tower(torch.linalg.matrix_exp)
    assert "ONNX" in refused(EngineError, "MM564", export, module, SMALL, tmp_path).message


@pytest.mark.parametrize("options", [{"is_causal": True}, {"attn_mask": torch.eye(8) == 1}])
def test_attention_that_hides_something_is_refused(tmp_path: Path, options: dict[str, Any]) -> None:
    def attend(x: Tensor) -> Tensor:
        return functional.scaled_dot_product_attention(x[:, None], x[:, None], x[:, None], **options)[:, 0]

    refused(EngineError, "MM564", export, Tower(attend), SMALL, tmp_path)


@pytest.mark.parametrize("scale", [None, 0.3])
def test_attention_is_written_out_as_it_is(tmp_path: Path, scale: float | None) -> None:
    def attend(x: Tensor) -> Tensor:
        mask = torch.ones(8, 8, dtype=torch.bool)
        keys = x[:, None].flip(-1)
        return functional.scaled_dot_product_attention(
            x[:, None], keys, x[:, None], attn_mask=mask, scale=scale
        )[:, 0]

    module = Tower(attend)
    pixels = 3 * torch.randn(2, 3, 8, 8)
    found = evaluated(export(module, SMALL, tmp_path).path, pixels)
    torch.testing.assert_close(torch.from_numpy(found), module(pixels), rtol=1e-5, atol=1e-6)


def test_another_number_of_features_than_planned_is_refused(tmp_path: Path) -> None:
    planned = VisualConfig("float32", "float32", 2, 7, (8, 8))
    refused(EngineError, "MM533", export, Tower(torch.abs), planned, tmp_path)
