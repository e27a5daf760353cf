"""Quantized linear layers multiply by the weights that the stored integers and scales encode."""

import dataclasses

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mmbuild.backends.torch import linear
from mmbuild.backends.torch.calibrated_linear import linear_maker
from mmbuild.backends.torch.linear import block_rows
from mmbuild.models.errors import EngineError
from support.errors import refused
from support.models.engine_config import CONFIG


def layer(quant_algo, layout, inputs, outputs, dtype="float32"):
    """A layer with random weights, and the matrix [out, in] it encodes, float64."""
    config = dataclasses.replace(CONFIG, quant_algo=quant_algo, dtype=dtype)
    made = linear_maker(config, layout)(inputs, outputs)
    generator = torch.Generator().manual_seed(inputs * 1000 + outputs)
    if quant_algo is None:
        made.weight.data.normal_(generator=generator)
        return made, made.weight.double()
    integer = torch.iinfo(made.weight.dtype)
    made.weight.data.random_(integer.min, integer.max, generator=generator)
    made.per_channel_scale.data.uniform_(0.001, 0.01, generator=generator)
    if layout == "rows":
        values = linear.widen_rows(made.weight.data, quant_algo, torch.int8)
    else:
        values = linear.widen_plain(made.weight.data, quant_algo).t()
    return made, values.double() * made.per_channel_scale.double()[:, None]


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (3, 1), (2, 5)])
@pytest.mark.parametrize("quant_algo", [None, "W8A16", "W4A16"])
@pytest.mark.parametrize(("inputs", "outputs"), [(32, 6), (192, 48), (130, 10)])
def test_a_layer_multiplies_by_what_its_weights_stand_for(quant_algo, shape, inputs, outputs):
    made, matrix = layer(quant_algo, "plain", inputs, outputs)
    x = torch.randn(*shape, inputs, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(made(x).double(), x.double() @ matrix.t(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("quant_algo", ["W8A16", "W4A16"])
def test_rows_widened_for_many_tokens_give_the_same(quant_algo):
    made, matrix = layer(quant_algo, "rows", 64, 10)
    x = torch.randn(2, 5, 64, generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(made(x).double(), x.double() @ matrix.t(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("quant_algo", ["W8A16", "W4A16"])
def test_one_row_in_half_precision_is_summed_in_single(quant_algo):
    made, matrix = layer(quant_algo, "plain", 4096, 8, dtype="float16")
    x = torch.randn(1, 1, 4096, generator=torch.Generator().manual_seed(3)).half()
    exact = x.double() @ matrix.t()
    # Half a unit of the result's last place, and nothing that 4096 additions in half precision would add.
    assert ((made(x).double() - exact).abs() <= exact.abs() * 2**-10).all()


@pytest.fixture
def small_tiles(monkeypatch):
    """Tiles that layers of tests have several of."""
    monkeypatch.setattr(linear, "_TILE_BYTES", 1000)


@pytest.mark.usefixtures("small_tiles")
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("quant_algo", ["W8A16", "W4A16"])
@pytest.mark.parametrize(("sequences", "inputs", "outputs"), [(2, 32, 6), (3, 192, 48), (8, 130, 10)])
def test_tiles_add_up_to_the_product(quant_algo, sequences, inputs, outputs, dtype):
    made, matrix = layer(quant_algo, "plain", inputs, outputs, dtype)
    assert len(linear.tiles(inputs, 4 * made.weight.shape[1])) > 1 or inputs == 32
    x = torch.randn(sequences, 1, inputs, generator=torch.Generator().manual_seed(4)).to(
        getattr(torch, dtype)
    )
    exact = x.double() @ matrix.t()
    # Sums are of float32 whatever the dtype is, so that one rounding is all that is lost.
    unit = {"float32": 1e-5, "float16": 2**-10, "bfloat16": 2**-7}[dtype]
    assert ((made(x).double() - exact).abs() <= exact.abs() * unit + 1e-5).all()


@given(st.integers(1, 20_000), st.integers(1, 200_000))
def test_tiles_are_all_rows_in_order_and_small(rows, row_bytes):
    parts = linear.tiles(rows, row_bytes)
    assert [part.start for part in parts] == [0, *(part.stop for part in parts[:-1])]
    assert parts[-1].stop == rows
    assert all((part.stop - part.start) * row_bytes <= max(5_000_000, row_bytes) for part in parts)


@pytest.mark.usefixtures("small_tiles")
def test_prompts_and_small_layers_are_multiplied_as_a_whole():
    """Additions of tiles cost more than they save where there are many tokens."""
    calls = []
    for shape in ((3, 1, 192), (3, 5, 192), (1, 1, 192)):
        made, _ = layer("W8A16", "plain", 192, 48)
        with torch.profiler.profile() as profile:
            made(torch.zeros(shape))
        calls.append(sum(event.count for event in profile.key_averages() if event.key == "aten::addmm"))
    assert calls == [len(linear.tiles(192, 4 * 48)) - 1, 0, 0]


@given(st.integers(1, 20_000))
def test_blocks_divide_the_inputs_and_are_64_or_more(inputs):
    rows = block_rows(inputs)
    assert inputs % rows == 0
    assert rows >= 64 or rows == inputs


def test_an_algorithm_without_a_layer_is_refused():
    error = refused(
        EngineError, "MM502", linear_maker, dataclasses.replace(CONFIG, quant_algo="W4A8_AWQ"), "plain"
    )
    assert "`W4A8_AWQ`" in error.message


def test_rows_that_do_not_fill_words_are_refused():
    make = linear_maker(dataclasses.replace(CONFIG, quant_algo="W4A16"), "rows")
    assert "12 inputs" in refused(EngineError, "MM537", make, 12, 4).message
