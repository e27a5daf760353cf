import json
from pathlib import Path

import numpy as np
import pytest

from mmbuild.backends.lowering import step_params
from mmbuild.core.steps.context import StepContext
from mmbuild.models.checkpoint.quantize import quantize_checkpoint, scale_name
from mmbuild.models.checkpoint.reader import load_config, open_tensors
from mmbuild.models.checkpoint.weight_only import ALGORITHMS, quantize
from mmbuild.models.errors import CheckpointError
from mmbuild.steps import convert
from support.engines.build import facts_of
from support.models import weights_on_disk as disk
from support.models.weight_only import dequantize

LINEARS = ("qkv.weight", "dense.weight", "fc.weight", "gate.weight", "proj.weight")


@pytest.fixture
def checkpoint(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """An unquantized checkpoint; the parameter is its ranks and sizes."""
    ways, sizes = getattr(request, "param", (1, {}))
    content = disk.config(**sizes)
    model = disk.write_model(tmp_path / "model", content, disk.decoder(content, np.random.default_rng(ways)))
    out = tmp_path / "checkpoint"
    out.mkdir()
    params = step_params.convert(facts_of("llava", {"model": model}), "float16", ways)
    convert.run(StepContext(params=params, inputs={"model": model}, out=out))
    return out


# Rows of 30 values: some scales are better aligned than their weights and come first in the file.
UNALIGNED = {"intermediate_size": 24, "hidden_size": 30, "num_attention_heads": 6, "head_dim": 10}


@pytest.mark.parametrize("checkpoint", [(1, {}), (2, {}), (2, UNALIGNED)], indirect=True)
@pytest.mark.parametrize("name", ["int8", "int4"])
def test_every_linear_layer_of_each_rank_is_quantized_after_the_split(
    checkpoint: Path, tmp_path: Path, name: str
) -> None:
    out = tmp_path / "quantized"
    out.mkdir()
    quantize_checkpoint(checkpoint, out, name)
    algorithm = ALGORITHMS[name]
    for rank in range(load_config(checkpoint).tensor_parallel):
        before, after = open_tensors(checkpoint, rank), open_tensors(out, rank)
        linears = [tensor for tensor in before if tensor.endswith(LINEARS)]
        assert set(after) == set(before) | {scale_name(linear) for linear in linears}
        for tensor, value in before.items():
            if tensor in linears:
                values, scales = quantize(value, algorithm)
                assert after[tensor].equal(values)
                assert after[scale_name(tensor)].equal(scales)
                restored = dequantize(values, scales, algorithm)
                assert (restored - value.float()).abs().max() <= 1.02 * scales.float().max()
            else:
                assert after[tensor].equal(value)


def test_the_config_names_algorithm_producer_and_layout(checkpoint: Path, tmp_path: Path) -> None:
    for name, algo in (("int8", "W8A16"), ("int4", "W4A16")):
        out = tmp_path / name
        out.mkdir()
        quantize_checkpoint(checkpoint, out, name)
        content = json.loads((out / "config.json").read_text())
        assert content["quantization"]["quant_algo"] == algo
        assert (content["producer"], content["layout"]) == ("mmbuild", "plain")
        assert load_config(out).quant_algo == algo


def test_a_quantized_checkpoint_is_not_quantized_again(checkpoint: Path, tmp_path: Path) -> None:
    out = tmp_path / "quantized"
    out.mkdir()
    quantize_checkpoint(checkpoint, out, "int8")
    with pytest.raises(CheckpointError, match="already quantized") as caught:
        quantize_checkpoint(out, tmp_path, "int4")
    assert caught.value.code == "MM438"


@pytest.mark.parametrize("checkpoint", [(4, {"intermediate_size": 60})], indirect=True)
def test_int4_of_an_odd_number_of_outputs_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    out = tmp_path / "quantized"
    out.mkdir()
    with pytest.raises(CheckpointError, match=r"mlp\.fc\.weight` has 15 outputs"):
        quantize_checkpoint(checkpoint, out, "int4")
