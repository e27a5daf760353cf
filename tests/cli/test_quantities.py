"""Numbers of options are finite."""

from __future__ import annotations

import click
import pytest

from mmbuild.cli import VERBS, command_group
from mmbuild.cli.quantities import AGE, SIZE, FiniteRange


@pytest.mark.parametrize("value", ["nan", "inf", "-inf", "1e999", "NaN"])
@pytest.mark.parametrize("kind", [FiniteRange(), FiniteRange(0, 1), FiniteRange(min=0.1)])
def test_nan_and_infinity_are_in_no_range(kind, value) -> None:
    with pytest.raises(click.BadParameter):
        kind.convert(value, None, None)


@pytest.mark.parametrize(("kind", "unit"), [(SIZE, "GB"), (AGE, "d")])
def test_a_quantity_of_too_many_digits_is_refused(kind, unit) -> None:
    with pytest.raises(click.BadParameter, match="not a finite number") as error:
        kind.convert("9" * 400 + unit, None, None)
    assert len(error.value.message) < 100
    assert kind.convert(f"2{unit}", None, None) > 0


def test_no_option_takes_nan() -> None:
    group = command_group()
    context = click.Context(group)
    for name in VERBS:
        command = group.get_command(context, name)
        assert command is not None
        for option in command.params:
            assert type(option.type) is not click.FloatRange, f"{name} {option.opts}"
