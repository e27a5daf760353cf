import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from mmbuild.models.checkpoint.convert import require_finite
from mmbuild.models.errors import CheckpointError


@settings(deadline=None)
@given(
    hnp.arrays(np.float32, hnp.array_shapes(max_dims=2), elements=st.floats(width=32)),
    st.sampled_from(["float32", "float16", "bfloat16"]),
)
def test_refuses_exactly_what_torch_calls_not_finite(array: np.ndarray, dtype: str) -> None:
    tensor = torch.from_numpy(array).to(getattr(torch, dtype))
    if torch.isfinite(tensor).all():
        require_finite(tensor, "w", "f", dtype)
    else:
        with pytest.raises(CheckpointError, match=r"tensor `w` in `f`"):
            require_finite(tensor, "w", "f", dtype)


@pytest.mark.parametrize("place", [0, (1 << 18) - 1, 1 << 18, 300_000 - 1])
def test_finds_one_bad_value_anywhere(place: int) -> None:
    tensor = torch.zeros(300_000, dtype=torch.float16)
    tensor[place] = -torch.inf
    with pytest.raises(CheckpointError):
        require_finite(tensor, "w", "f", "float16")
