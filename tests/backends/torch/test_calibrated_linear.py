"""Layers of calibrated checkpoints multiply by the weights their tensors encode, computed here in float64."""

import dataclasses

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mmbuild.backends.torch import linear, weights
from mmbuild.backends.torch.calibrated_linear import check_target, group_words, linear_maker
from mmbuild.backends.torch.config import from_json
from mmbuild.models.checkpoint import weight_only
from mmbuild.models.checkpoint.calibrated_layout import BY_QUANT_ALGO, stored_tensors
from mmbuild.models.errors import EngineError
from support.errors import refused
from support.models.engine_config import CONFIG

AWQ, SMOOTH, FP8 = BY_QUANT_ALGO
GROUP = 16
SHAPES = [(1, 1), (1, 7), (3, 1), (2, 5)]
# Of the compared products: sums of float32 in another order.
CLOSE = {"rtol": 1e-5, "atol": 1e-5}


def layer(quant_algo, inputs, outputs, layout="plain", *, dtype="float32", reduce=False):
    """A layer with random weights and scales."""
    config = dataclasses.replace(
        CONFIG, quant_algo=quant_algo, dtype=dtype, group_size=GROUP if quant_algo == AWQ else None
    )
    made = linear_maker(config, layout)(inputs, outputs, reduce=reduce)
    random = torch.Generator().manual_seed(inputs * 1000 + outputs)
    for name, parameter in made.named_parameters():
        if parameter.dtype == torch.int8:
            parameter.data.random_(-128, 128, generator=random)
        elif parameter.dtype == torch.float8_e4m3fn:
            parameter.data = torch.randn(outputs, inputs, generator=random).mul(100).to(parameter.dtype)
        elif name in ("prequant_scaling_factor", "smoother"):
            parameter.data.uniform_(0.25, 4, generator=random)
        elif len(parameter) == 1 and quant_algo == FP8:
            parameter.data.fill_(0.01)
        else:
            parameter.data.uniform_(0.001, 0.01, generator=random)
    return made


def awq_matrix(made):
    """[out, in], prescaling included, from the nibbles one by one."""
    nibbles = torch.stack([made.weight & 15, (made.weight >> 4) & 15], dim=1).flatten(0, 1).double()
    signed = torch.where(nibbles > 7, nibbles - 16, nibbles)
    scale = made.weights_scaling_factor.double().repeat_interleave(GROUP, dim=1)
    return signed * scale * made.prequant_scaling_factor.double()


def tokens(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("layout", ["plain", "rows"])
@pytest.mark.parametrize(("inputs", "outputs"), [(16, 2), (32, 6), (192, 48)])
def test_awq_multiplies_by_nibbles_times_the_scale_of_their_group(shape, layout, inputs, outputs):
    made, x = layer(AWQ, inputs, outputs, layout), tokens(*shape, inputs)
    expected = x.double() @ awq_matrix(made).t()
    if layout == "rows":
        made.weight.data = group_words(made.weight, inputs // GROUP)
    torch.testing.assert_close(made(x).double(), expected, **CLOSE)


@pytest.mark.parametrize(("group", "groups"), [(4, 3), (16, 2), (128, 1)])
def test_byte_i_of_word_j_of_a_group_is_input_i_times_a_quarter_of_it_plus_j(group, groups):
    weight = torch.randint(-128, 128, (3, group * groups), dtype=torch.int8)
    words = group_words(weight, groups).reshape(3, groups, group // 4, 4)
    for byte in range(4):
        inputs = weight.reshape(3, groups, group)[:, :, byte * group // 4 : (byte + 1) * group // 4]
        assert torch.equal(words[..., byte], inputs)


@pytest.mark.parametrize(
    ("device", "group", "turned"), [("cuda", 16, True), ("cuda", 6, False), ("cpu", 16, False)]
)
def test_weights_of_an_awq_checkpoint_are_arranged_for_the_kernel_where_it_reads_them(device, group, turned):
    config = dataclasses.replace(CONFIG, quant_algo=AWQ, group_size=group)
    weight = torch.randint(-128, 128, (2, 2 * group), dtype=torch.int8)
    scale = torch.rand(4, 2).half() + 0.1
    stored = {
        "layers.0.fc.weight": weight,
        "layers.0.fc.weights_scaling_factor": scale,
        "layers.0.fc.prequant_scaling_factor": torch.ones(2 * group).half(),
        "ln_f.weight": torch.ones(3).half(),
    }
    arranged = weights.arrange(stored, config, device)
    assert arranged.keys() == stored.keys()
    for name, tensor in stored.items():
        expected = group_words(weight, 2) if turned and tensor is weight else tensor
        assert torch.equal(arranged[name], expected), name


@pytest.mark.parametrize("quant_algo", [None, AWQ, SMOOTH, FP8])
def test_two_layers_at_once_give_what_each_gives(quant_algo):
    first, second = layer(quant_algo, 32, 6), layer(quant_algo, 32, 6)
    for name, parameter in second.named_parameters():
        if parameter.dtype == torch.float32:
            parameter.data = dict(first.named_parameters())[name] * 1.5
    x = tokens(2, 3, 32)
    assert all(map(torch.equal, linear.both(first, second, x), (first(x), second(x))))


@pytest.mark.parametrize("sequences", [2, 3, 8])
@pytest.mark.parametrize(("inputs", "outputs"), [(32, 6), (192, 48), (64, 34)])
def test_tiles_of_awq_and_fp8_are_the_whole_product(monkeypatch, sequences, inputs, outputs):
    monkeypatch.setattr(linear, "_TILE_BYTES", 1000)
    x = tokens(sequences, 1, inputs)
    awq, fp8 = layer(AWQ, inputs, outputs), layer(FP8, inputs, outputs)
    torch.testing.assert_close(awq(x).double(), x.double() @ awq_matrix(awq).t(), **CLOSE)
    matrix = fp8.weight.to(torch.float64) * fp8.weights_scaling_factor.double()[0]
    torch.testing.assert_close(fp8(x).double(), x.double() @ matrix.t(), **CLOSE)
    assert len(linear.tiles(len(awq.weight), 4 * inputs)) > 1 or inputs == 32


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_one_row_of_awq_is_summed_in_float32(dtype):
    made = layer(AWQ, 4096, 8, dtype=dtype)
    x = tokens(1, 1, 4096).to(getattr(torch, dtype))
    scaled = (x * made.prequant_scaling_factor).double() / made.prequant_scaling_factor.double()
    exact = scaled @ awq_matrix(made).t()
    unit = {"float16": 2**-10, "bfloat16": 2**-7}[dtype]
    assert ((made(x).double() - exact).abs() <= exact.abs() * unit + 1e-6).all()


@given(st.integers(1, 6), st.integers(1, 4), st.integers(0, 2**31))
def test_the_engine_unpacks_what_the_checkpoint_packs(pairs, groups, seed):
    made = layer(AWQ, groups * GROUP, 2 * pairs)
    random = torch.Generator().manual_seed(seed)
    values = torch.randint(-8, 8, (2 * pairs, groups * GROUP), dtype=torch.int8, generator=random)
    made.weight.data = weight_only.pack(values)
    made.weights_scaling_factor.data.fill_(1)
    made.prequant_scaling_factor.data.fill_(1)
    one_hot = torch.eye(groups * GROUP)[None]
    assert torch.equal(made(one_hot)[0].t(), values.float())
    assert torch.equal(made(one_hot[:, :1])[0, 0], values[:, 0].float())


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("layout", ["plain", "rows"])
@pytest.mark.parametrize("reduce", [False, True])
@pytest.mark.parametrize(("inputs", "outputs"), [(32, 8), (130, 10), (2048, 16)])
def test_smoothquant_multiplies_rounded_tokens(shape, layout, reduce, inputs, outputs):
    made, x = layer(SMOOTH, inputs, outputs, layout, reduce=reduce), tokens(*shape, inputs)
    smooth = x.double() / (made.smoother.double() if reduce else 1)
    unit = smooth.abs().amax(dim=-1, keepdim=True) / 127
    rounded = (smooth / unit).round()
    # Division in float32 may fall on the other side of a half: never more than one unit, on few inputs.
    exact = (rounded @ made.weight.double().t()) * unit * made.per_channel_scale.double()[0]
    off = 130 * unit * made.per_channel_scale.double()[0]
    got = made(x).double()
    assert ((got - exact).abs() <= off + 1e-5 * exact.abs()).all()
    assert torch.isclose(got, exact, rtol=1e-5, atol=1e-6).float().mean() > 0.8
    # And rounding costs what half a unit on every input can cost.
    whole = smooth @ (made.weight.double() * made.per_channel_scale.double().t()).t()
    cost = made.weight.double().abs().sum(dim=1) * made.per_channel_scale.double()[0] * unit / 2
    assert ((got - whole).abs() <= cost + off).all()


def test_smoothquant_sums_exactly_where_float32_would_not():
    made = layer(SMOOTH, 4096, 8)
    made.weight.data.fill_(127)
    made.weight.data[:, -1] = 126
    made.per_channel_scale.data.fill_(1)
    x = torch.full((1, 1, 4096), 127.0)
    exact = 127 * (127 * 4095 + 126)
    assert exact > 2**24
    assert made._integer_sums(x.to(torch.int8)).unique().tolist() == [exact]
    assert made._integer_sums(x.expand(2, 3, 4096).to(torch.int8)).unique().tolist() == [exact]


def test_a_token_of_zeros_stays_zero_in_smoothquant():
    made = layer(SMOOTH, 32, 8)
    x = torch.stack([torch.zeros(32), tokens(32)])[None]
    assert torch.equal(made(x)[0, 0], torch.zeros(8))
    assert torch.equal(made(torch.zeros(1, 1, 32)), torch.zeros(1, 1, 8))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("inputs", "outputs"), [(32, 16), (130, 10), (192, 48)])
def test_fp8_on_a_cpu_leaves_inputs_as_they_are(shape, inputs, outputs):
    made, x = layer(FP8, inputs, outputs), tokens(*shape, inputs)
    matrix = made.weight.to(torch.float64) * made.weights_scaling_factor.double()[0]
    torch.testing.assert_close(made(x).double(), x.double() @ matrix.t(), **CLOSE)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("inputs", "outputs"), [(32, 16), (130, 10), (192, 48)])
def test_fp8_for_cuda_rounds_inputs_to_float8_and_clips_them(shape, inputs, outputs):
    made, x = layer(FP8, inputs, outputs, "rows"), tokens(*shape, inputs) * 2
    ours, theirs = made.weights_scaling_factor.double()[0], made.activation_scaling_factor.double()[0]
    assert x.abs().max() / theirs > 448 or shape == (1, 1)
    rounded = (x / theirs.float()).clamp(-448, 448).to(torch.float8_e4m3fn).double()
    exact = rounded @ made.weight.double().t() * ours * theirs
    torch.testing.assert_close(made(x).double(), exact, rtol=1e-4, atol=1e-3)


def test_fp8_in_float16_does_not_overflow_before_it_is_scaled():
    made = layer(FP8, 2048, 8, dtype="float16")
    made.weight.data = torch.full((8, 2048), 448.0).to(torch.float8_e4m3fn)
    x = torch.ones(1, 3, 2048).half()
    torch.testing.assert_close(
        made(x).double(), torch.full((1, 3, 8), 2048 * 4.48).double(), rtol=2e-3, atol=0
    )


@pytest.mark.parametrize("reduce", [False, True])
@pytest.mark.parametrize("quant_algo", [AWQ, SMOOTH, FP8])
def test_layers_ask_for_what_the_checkpoints_tables_say(quant_algo, reduce):
    made = layer(quant_algo, 64, 24, dtype="float16", reduce=reduce)
    request = {
        name: (str(value.dtype).removeprefix("torch."), tuple(value.shape))
        for name, value in made.named_parameters()
    }
    assert request == stored_tensors(
        BY_QUANT_ALGO[quant_algo],
        "any",
        24,
        64,
        dtype="float16",
        group_size=GROUP,
        inputs_split=reduce,
    )


@pytest.mark.parametrize("group_size", [None, 48])
def test_groups_that_do_not_divide_a_ranks_inputs_are_refused(group_size):
    config = dataclasses.replace(CONFIG, quant_algo=AWQ, group_size=group_size)
    assert "64 inputs" in refused(EngineError, "MM543", linear_maker(config, "plain"), 64, 8).message
    odd = dataclasses.replace(CONFIG, quant_algo=AWQ, group_size=32)
    refused(EngineError, "MM437", linear_maker(odd, "plain"), 64, 7)


@pytest.mark.parametrize(
    ("quant_algo", "target", "fits"),
    [
        (FP8, {"device": "cuda", "sm": 80}, False),
        (FP8, {"device": "cuda", "sm": 89}, True),
        (FP8, {"device": "cuda", "sm": None}, True),
        (FP8, {"device": "cpu", "sm": None}, True),
        (AWQ, {"device": "cuda", "sm": 80}, True),
    ],
)
def test_fp8_needs_a_gpu_that_multiplies_it(quant_algo, target, fits):
    config = dataclasses.replace(CONFIG, quant_algo=quant_algo)
    if fits:
        check_target(config, target)
    else:
        assert "SM 80" in refused(EngineError, "MM545", check_target, config, target).message


def test_engine_configs_speak_of_groups_only_where_there_are_some():
    grouped = dataclasses.replace(CONFIG, quant_algo=AWQ, group_size=64)
    assert grouped.to_json()["group_size"] == 64
    assert from_json(grouped.to_json()) == grouped
    assert "group_size" not in CONFIG.to_json()
    assert from_json(CONFIG.to_json()) == CONFIG
