"""Strides are those that Inductor computes, and so is the code that it generates with them."""

import sympy
from hypothesis import given
from hypothesis import strategies as st
from torch._inductor.codegen import cpp
from torch.utils._sympy.functions import FloorDiv, ModularIndexing

from mmbuild.backends.torch.inductor_strides import computed_directly, linear_stride

X, Y = sympy.symbols("x0 x1", integer=True, nonnegative=True)
SIZES = sympy.symbols("ks0 ks1", integer=True, positive=True)
_numbers = st.sampled_from([-3, -1, 1, 2, 5, 8, 16, 48])
_factors = st.lists(st.sampled_from([X, Y, *SIZES]), max_size=3)


@st.composite
def terms(draw):
    """A term of an index: a product, or a quotient or remainder of a variable."""
    base = sympy.Integer(draw(_numbers)) * sympy.Mul(*draw(_factors))
    variable, size = draw(st.sampled_from([X, Y])), draw(st.sampled_from([1, 2, 3, 16, 32]))
    kind = draw(st.sampled_from(["product", "product", "quotient", "remainder", "sum"]))
    if kind == "quotient":
        return base * FloorDiv(variable, size)
    if kind == "remainder":
        return base + ModularIndexing(variable, size, draw(st.sampled_from([2, 7, 16, 64])))
    return base * (variable + SIZES[0]) if kind == "sum" else base


indexes = st.lists(terms(), max_size=4).map(lambda found: sympy.Add(*found))


@given(indexes, st.sampled_from([None, 8, 16]))
def test_strides_are_those_of_inductor(index, length):
    for variable in (X, Y):
        found = linear_stride(index, variable)
        assert found is None or sympy.srepr(found) == sympy.srepr(
            cpp.stride_at_vec_range(index, variable, length)
        )


def test_sums_with_one_factor_are_linear():
    assert linear_stride(48 * X + 3 * Y + FloorDiv(Y, 2), X) == 48
    assert linear_stride(SIZES[0] * X + Y, X) == SIZES[0]
    assert linear_stride(Y + 7, X) == 0
    assert linear_stride(X * X, X) is None
    assert linear_stride(FloorDiv(X, 2) + X, X) is None


def test_the_rest_is_left_to_inductor():
    of_torch, index = cpp.stride_at_vec_range, FloorDiv(X, 16) + X
    with computed_directly():
        assert cpp.stride_at_vec_range is not of_torch
        assert cpp.stride_at_vec_range(index, X, 16) == of_torch(index, X, 16) == 1
        assert cpp.stride_at_vec_range(index, X) == of_torch(index, X)
    assert cpp.stride_at_vec_range is of_torch
