import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from mmbuild.models.checkpoint.weight_only import ALGORITHMS, pack, quantize, quantized_shape, unpack
from mmbuild.models.errors import CheckpointError
from support.models.weight_only import dequantize

floats = st.floats(-8, 8, width=16)
even = st.integers(1, 6).map(lambda n: 2 * n)
even_matrices = hnp.arrays(np.float16, st.tuples(even, st.integers(1, 9)), elements=floats)


def reference(weight: np.ndarray, levels: int) -> tuple[np.ndarray, np.ndarray]:
    """One weight at a time, as the C++ loop does it: float32 division, C's round, clip."""
    weight = weight.astype(np.float32)
    values = np.zeros(weight.shape, np.int8)
    scales = np.abs(weight).max(axis=1) * np.float32(1 / levels)
    for (row, column), value in np.ndenumerate(weight):
        if scales[row]:
            ratio = float(np.float32(value / scales[row]))
            nearest = int(np.floor(abs(ratio) + 0.5)) * (1 if ratio >= 0 else -1)
            values[row, column] = max(-levels, min(levels - 1, nearest))
    return values, scales.astype(np.float16)


@settings(deadline=None)
@given(even_matrices, st.sampled_from(["int8", "int4"]))
def test_values_and_scales_are_those_of_the_scalar_loop(weight: np.ndarray, name: str) -> None:
    algorithm = ALGORITHMS[name]
    values, scales = quantize(torch.from_numpy(weight), algorithm)
    whole = unpack(values) if algorithm.packed == 2 else values
    expected, expected_scales = reference(weight, algorithm.levels)
    assert np.array_equal(whole.numpy().T, expected)
    assert np.array_equal(scales.numpy(), expected_scales)


def test_halves_round_away_from_zero_and_the_largest_value_is_clipped() -> None:
    # absmax 8 gives scale 1 for int4.
    weight = torch.tensor([[8.0, 0.5, -0.5, 2.5, -2.5, 0.49999997, -8.0]] * 2)
    values, scales = quantize(weight, ALGORITHMS["int4"])
    assert unpack(values)[:, 0].tolist() == [7, 1, -1, 3, -3, 0, -8]
    assert scales.tolist() == [1.0, 1.0]


def test_no_half_and_no_neighbour_of_a_half_is_rounded_wrongly() -> None:
    halves = np.arange(-127.5, 127, 1, dtype=np.float32)
    near = np.concatenate(
        (halves, np.nextafter(halves, np.float32(0)), np.nextafter(halves, np.float32(np.inf)))
    )
    # A largest value of 128 makes the scale 1, so that values are their own ratios.
    values, scales = quantize(
        torch.from_numpy(np.append(near, np.float32(128))).view(1, -1), ALGORITHMS["int8"]
    )
    assert scales.item() == 1.0
    exact = np.copysign(np.floor(np.abs(near.astype(np.float64)) + 0.5), near)
    assert np.array_equal(values[:-1, 0].numpy(), exact.clip(-128, 127))


def test_an_output_of_zeros_gives_zeros_and_no_nan() -> None:
    weight = torch.tensor([[0.0, 0.0], [1.0, -1.0]], dtype=torch.float16)
    for algorithm in ALGORITHMS.values():
        values, scales = quantize(weight, algorithm)
        assert scales[0] == 0
        assert torch.equal(dequantize(values, scales, algorithm)[0], torch.zeros(2))


@given(
    hnp.arrays(
        np.int8,
        st.tuples(even, st.integers(1, 7)),
        elements=st.integers(-8, 7),
    )
)
def test_packing_comes_undone(values: np.ndarray) -> None:
    tensor = torch.from_numpy(values)
    assert torch.equal(unpack(pack(tensor).t().contiguous()), tensor.t())


def test_the_even_output_is_in_the_low_nibble() -> None:
    values = torch.tensor([[3], [-1]], dtype=torch.int8)
    assert pack(values).view(torch.uint8).item() == 0xF3


def test_large_weights_are_quantized_in_pieces_with_the_same_result(monkeypatch: pytest.MonkeyPatch) -> None:
    weight = torch.randn(202, 40, generator=torch.Generator().manual_seed(1)).half()
    for algorithm in ALGORITHMS.values():
        whole = quantize(weight, algorithm)
        monkeypatch.setattr("mmbuild.models.checkpoint.weight_only._CHUNK", 100)
        pieces = quantize(weight, algorithm)
        monkeypatch.undo()
        assert torch.equal(whole[0], pieces[0])
        assert torch.equal(whole[1], pieces[1])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_scales_have_the_dtype_of_the_model_and_the_error_is_half_a_step(dtype: torch.dtype) -> None:
    weight = torch.randn(32, 64, generator=torch.Generator().manual_seed(2)).to(dtype)
    for algorithm in ALGORITHMS.values():
        values, scales = quantize(weight, algorithm)
        assert scales.dtype is dtype
        step = weight.float().abs().amax(1, keepdim=True) / algorithm.levels
        error = (dequantize(values, scales, algorithm) - weight.float()).abs()
        # A full step at the clipped end, the scale's own rounding on top.
        assert (error <= step * 1.01 + algorithm.levels * step * torch.finfo(dtype).eps).all()
        assert (error <= step * 0.51 + algorithm.levels * step * torch.finfo(dtype).eps).float().mean() > 0.9


def test_an_odd_number_of_outputs_does_not_pack() -> None:
    assert quantized_shape((3, 5), ALGORITHMS["int8"], "w") == (5, 3)
    with pytest.raises(CheckpointError, match=r"tensor `w` has 3 outputs") as caught:
        quantized_shape((3, 5), ALGORITHMS["int4"], "w")
    assert caught.value.code == "MM437"
