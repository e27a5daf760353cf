"""Integers survive every layout they are kept in."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mmbuild.backends.torch import linear
from mmbuild.models.checkpoint import weight_only

LIMITS = {"W8A16": (-128, 128), "W4A16": (-8, 8)}


def integers(quant_algo, inputs, outputs, seed):
    low, high = LIMITS[quant_algo]
    return torch.from_numpy(np.random.default_rng(seed).integers(low, high, (inputs, outputs), dtype=np.int8))


@given(st.sampled_from(sorted(LIMITS)), st.integers(1, 6), st.integers(1, 9), st.integers(0, 2**32))
def test_rows_give_back_what_was_packed(quant_algo, words, outputs, seed):
    values = integers(quant_algo, 8 * words, outputs, seed)
    rows = linear.pack_rows(values, quant_algo)
    assert rows.shape == (outputs, linear.words_per_row(8 * words, quant_algo))
    assert torch.equal(linear.widen_rows(rows, quant_algo, torch.int8), values.t())


@pytest.mark.parametrize(("quant_algo", "parts"), [("W8A16", 4), ("W4A16", 8)])
def test_part_i_of_word_j_is_input_i_times_words_plus_j(quant_algo, parts):
    values = integers(quant_algo, 5 * parts, 3, seed=0)
    rows = linear.pack_rows(values, quant_algo).numpy().astype(np.int64)
    bits = 32 // parts
    for part in range(parts):
        stored = (rows >> (bits * part)) & (2**bits - 1)
        signed = np.where(stored >= 2 ** (bits - 1), stored - 2**bits, stored)
        np.testing.assert_array_equal(signed, values.numpy()[5 * part : 5 * part + 5].T)


@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 2**32))
def test_plain_int4_is_unpacked_as_the_checkpoint_packs_it(inputs, half, seed):
    values = integers("W4A16", inputs, 2 * half, seed)
    packed = weight_only.pack(values.t()).t()  # the writer packs rows of [out, in] and transposes
    even, odd = linear.unpack_int4(packed)
    assert torch.equal(even, values[:, 0::2].int())
    assert torch.equal(odd, values[:, 1::2].int())
    assert torch.equal(linear.widen_plain(packed, "W4A16"), values)


def test_rows_that_do_not_fill_words_have_none():
    assert linear.words_per_row(12, "W4A16") == 0
    assert linear.words_per_row(12, "W8A16") == 3


def test_only_cuda_reads_rows():
    assert [linear.layout_of(device) for device in ("cpu", "cuda")] == ["plain", "rows"]
