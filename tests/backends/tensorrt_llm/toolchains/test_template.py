"""Templates produce one argument each and cannot access Python."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jinja2 import UndefinedError
from jinja2.exceptions import SecurityError

from mmbuild.backends.tensorrt_llm.toolchains.template import fill, holds


@given(st.text())
def test_values_are_inserted_unchanged(value: str) -> None:
    assert fill("--x={{ value }}", {"value": value}) == f"--x={value}"


def test_a_value_is_not_a_template() -> None:
    assert fill("{{ value }}", {"value": "{{ 1 + 1 }}"}) == "{{ 1 + 1 }}"


@pytest.mark.parametrize("text", ["{{ absent }}", "{{ present.absent }}", "{% if absent %}x{% endif %}"])
def test_an_unknown_name_is_an_error(text: str) -> None:
    with pytest.raises(UndefinedError):
        fill(text, {"present": "x"})


def test_an_unknown_name_in_a_condition_is_an_error() -> None:
    with pytest.raises(UndefinedError):
        holds("absent", {})
    assert holds("a > 1 and b is none", {"a": 2, "b": None})
    assert not holds("a > 1", {"a": 1})


@pytest.mark.parametrize("text", ["{{ x.__class__ }}", "{{ ''.__class__.__mro__ }}", "{{ x.append(1) }}"])
def test_templates_cannot_access_python(text: str) -> None:
    with pytest.raises(SecurityError):
        fill(f"{text}{{{{ x.__class__.__init__ }}}}", {"x": []})
