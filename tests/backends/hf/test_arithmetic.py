"""Stored values: against plain Python, and to the bit against compressed-tensors."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mmbuild.backends.hf import arithmetic
from mmbuild.backends.hf.forms import FORMS
from support.hf.checkpoints import unpack

BITS = (4, 8)
EPSILON = torch.finfo(torch.float32).eps
SHAPES = ((6, 64), (3, 128), (5, 21))


def values_of(shape, bits, seed=0):
    levels = 2 ** (bits - 1)
    return torch.randint(
        -levels, levels, shape, dtype=torch.int8, generator=torch.Generator().manual_seed(seed)
    )


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("shape", SHAPES)
def test_words_hold_the_lowest_input_in_their_lowest_bits(shape, bits):
    values = values_of(shape, bits)
    words = arithmetic.pack(values, bits)
    each, rows = 32 // bits, values.numpy().astype(np.int64) + 2 ** (bits - 1)
    assert words.shape == (shape[0], arithmetic.packed_columns(shape[1], bits))
    for row, word in zip(rows, words.numpy().view(np.uint32), strict=True):
        padded = np.concatenate([row, np.zeros(-len(row) % each, dtype=np.int64)]).reshape(-1, each)
        assert [sum(int(part) << (bits * place) for place, part in enumerate(group)) for group in padded] == (
            word.tolist()
        )
    assert torch.equal(unpack(words, bits, shape[1]), values)


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("shape", SHAPES)
def test_compressed_tensors_packs_and_unpacks_the_same_words(shape, bits):
    helpers = pytest.importorskip("compressed_tensors.compressors.pack_quantized.helpers")
    values = values_of(shape, bits)
    words = arithmetic.pack(values, bits)
    assert torch.equal(helpers.pack_to_int32(values, bits), words)
    assert torch.equal(helpers.unpack_from_int32(words, bits, torch.Size(shape)), values)


def weight_of(dtype=torch.float32, seed=3):
    weight = torch.randn(6, 128, generator=torch.Generator().manual_seed(seed))
    weight[1] = 0
    return weight.to(dtype).float()


CASES = [("int8", None), ("int4", None), ("int4", 64), ("int4_awq", 64), ("smoothquant", None), ("fp8", None)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize(("algorithm", "group"), CASES)
def test_rounding_is_that_of_compressed_tensors_and_widening_is_it_to_the_bit(algorithm, group, dtype):
    quantization = pytest.importorskip("compressed_tensors.quantization")
    forward = pytest.importorskip("compressed_tensors.quantization.lifecycle.forward")
    helpers = pytest.importorskip("compressed_tensors.quantization.utils.helpers")
    form, weight = FORMS[algorithm], weight_of()
    strategy = "tensor" if form.per_tensor else "group" if group else "channel"
    args = quantization.QuantizationArgs(
        num_bits=form.bits, type=form.kind, strategy=strategy, symmetric=True, group_size=group
    )
    scales = arithmetic.weight_scales(weight, form, group, dtype)
    groups = weight.unflatten(-1, (-1, group or 128))
    low, high = groups.amin(dim=-1), groups.amax(dim=-1)
    if form.per_tensor:
        low, high = low.amin().reshape(1), high.amax().reshape(1)
    theirs, _ = helpers.calculate_qparams(low, high, args)
    if strategy == "channel":  # compressed-tensors divides by half of the range there too
        theirs = torch.where(theirs == EPSILON, EPSILON, high.maximum(-low) / {4: 7, 8: 127}[form.bits])
    used = theirs != EPSILON  # a row of zeros has any scale
    assert torch.equal(scales[used], theirs[used].to(dtype))
    values = arithmetic.rounded(weight, scales, form)
    kind = torch.float8_e4m3fn if form.kind == "float" else torch.int8
    # In float32: compressed-tensors divides in the weight's number format, mmbuild always in float32.
    rounded = forward.quantize(weight, scales.float(), None, args, dtype=kind)
    assert torch.equal(values.float(), rounded.float())
    assert torch.equal(arithmetic.widened(values, scales), forward.dequantize(values, scales, args=args))
    assert arithmetic.widened(values, scales).dtype == dtype


@pytest.mark.parametrize(("algorithm", "group"), CASES)
def test_no_value_is_more_than_half_a_step_away(algorithm, group):
    form, weight = FORMS[algorithm], weight_of()
    scales = arithmetic.weight_scales(weight, form, group, torch.float32)
    values = arithmetic.rounded(weight, scales, form)
    error = (arithmetic.widened(values, scales) - weight).abs().unflatten(-1, (-1, group or 128))
    step = scales[..., None] if scales.dim() == 2 else scales
    if form.kind == "float":  # three bits of mantissa; the steps around 448 are 32
        assert bool((error <= 16.01 * step).all())
    else:
        assert bool((error <= 0.5001 * step).all())


@pytest.mark.parametrize(("algorithm", "bits"), [("int8", 8), ("int4", 4), ("smoothquant", 8)])
def test_the_largest_weight_of_a_row_with_one_scale_is_kept_whatever_its_sign(algorithm, bits):
    weight = weight_of()
    scales = arithmetic.weight_scales(weight, FORMS[algorithm], None, torch.float32)
    values = arithmetic.rounded(weight, scales, FORMS[algorithm])
    places, rows = weight.abs().argmax(dim=1), [row for row in range(len(weight)) if weight[row].any()]
    for row in rows:
        assert abs(int(values[row, places[row]])) == 2 ** (bits - 1) - 1
    assert torch.allclose(arithmetic.widened(values, scales)[rows, places[rows]], weight[rows, places[rows]])


def test_what_is_too_small_for_the_number_format_becomes_zero_and_no_scale_does():
    scales = arithmetic.weight_scales(torch.full((1, 8), 1e-9), FORMS["int4"], None, torch.float16)
    assert float(scales) > 0
    values = arithmetic.rounded(torch.full((1, 8), 1e-9), scales, FORMS["int4"])
    assert not values.any()
