"""Single rows of a few thousand numbers are reduced in one pass, all others as Inductor chooses."""

import pytest
import sympy
from torch._inductor.choices import InductorChoices
from torch._inductor.runtime.hints import ReductionHint
from torch._inductor.virtualized import V

from mmbuild.backends.torch.inductor_reductions import in_one_pass


class Features:
    """Of a reduction."""

    def __init__(self, rows, size, hint=ReductionHint.INNER):
        self.numel, self.reduction_numel, self.hint = sympy.sympify(rows), sympy.sympify(size), hint

    def get_reduction_hint(self):
        return self.hint


@pytest.fixture
def chosen(monkeypatch):
    def chosen(features, *, cooperative=False, by_inductor=False, wanted=True):
        monkeypatch.setattr(
            InductorChoices, "should_use_persistent_reduction", staticmethod(lambda *_: by_inductor)
        )
        with in_one_pass(wanted=wanted):
            return V.choices.should_use_persistent_reduction(features, cooperative)

    return chosen


def test_a_row_of_up_to_8192_numbers_is(chosen):
    assert [chosen(Features(1, size)) for size in (2048, 4096, 8192, 8193)] == [True, True, True, False]


def test_several_rows_or_any_number_of_them_are_not(chosen):
    assert not chosen(Features(2, 4096))
    assert not chosen(Features("s0", 4096))


def test_rows_of_unknown_length_or_along_another_dimension_are_not(chosen):
    assert not chosen(Features(1, "s0"))
    assert not chosen(Features(1, 4096, ReductionHint.OUTER))


def test_reductions_by_several_programs_are_not(chosen):
    assert not chosen(Features(1, 4096), cooperative=True)


def test_what_inductor_does_in_one_pass_it_does(chosen):
    assert chosen(Features(5, 100), by_inductor=True)


def test_nothing_changes_where_it_is_not_wanted(chosen):
    assert not chosen(Features(1, 4096), wanted=False)
