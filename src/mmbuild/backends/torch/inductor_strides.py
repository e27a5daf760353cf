"""Computes strides for Inductor without sympy's ``simplify``, which takes a third of the time of a large graph.

Inductor asks by how much an index grows with a loop variable in order to choose what to vectorize, and simplifies the
whole index and then a difference of two. Nearly all indexes are sums in which the variable has one factor, where the
answer is that factor. Others are left to Inductor, so its code stays the same.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import sympy
from torch._inductor.codegen import cpp

_NAME = "stride_at_vec_range"


def linear_stride(index: Any, variable: sympy.Symbol) -> sympy.Expr | None:
    """The factor of ``variable`` in ``index``, as Inductor would write it; None if it is not as simple."""
    if not isinstance(index, sympy.Expr):
        return None
    terms = [term for term in sympy.Add.make_args(index) if term.has(variable)]
    factors: list[Any] = [_factor(term, variable) for term in terms]
    if None in factors:
        return None
    # simplify() has its own way to write sums of symbols.
    one_way = len(factors) <= 1 or all(factor.is_Integer for factor in factors)
    return sympy.Add(*factors) if one_way else None


def _factor(term: sympy.Expr, variable: sympy.Symbol) -> sympy.Expr | None:
    """The other factors of a product that holds ``variable`` once; None if they are not numbers and symbols."""
    number, rest = term.as_coeff_Mul()
    factors = list(sympy.Mul.make_args(rest))
    if not number.is_Integer or not all(factor.is_Symbol for factor in factors):
        return None
    factors.remove(variable)
    return number * sympy.Mul(*factors)


@contextmanager
def computed_directly() -> Iterator[None]:
    """Inductor, where it has this function, takes linear strides from here meanwhile."""
    of_torch = getattr(cpp, _NAME, None)
    if of_torch is None:
        yield
        return

    def stride(index: Any, variable: sympy.Symbol, *rest: Any) -> Any:
        found = linear_stride(index, variable)
        return of_torch(index, variable, *rest) if found is None else found

    with mock.patch.object(cpp, _NAME, stride):
        yield
