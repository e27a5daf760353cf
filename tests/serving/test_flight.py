"""The inputs of a step whose predecessor is still under way."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from mmbuild.backends.torch.host_copy import HostCopy
from mmbuild.serving.flight import Flight, next_inputs

KEYS = st.lists(st.integers(0, 20), unique=True, max_size=8)


@given(KEYS, KEYS)
def test_tokens_under_way_replace_those_that_the_host_knows(flying, wanted):
    flight = Flight(tuple(flying), HostCopy(torch.tensor([100 + key for key in flying], dtype=torch.int64)))
    found = next_inputs([(key, 50 + key) for key in wanted], flight, "cpu")
    assert found.tolist() == [(100 if key in flying else 50) + key for key in wanted]


@given(KEYS)
def test_without_a_step_under_way_the_host_knows_all(wanted):
    assert next_inputs([(key, 50 + key) for key in wanted], None, "cpu").tolist() == [
        50 + key for key in wanted
    ]
