"""Checks for every error message."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import pytest

from mmbuild.base.codes import lookup
from mmbuild.base.errors import MmbuildError

E = TypeVar("E", bound=MmbuildError)


def refused(kind: type[E], code: str, function: Callable[..., Any], *arguments: Any, **named: Any) -> E:
    """The error of ``function(*arguments)``: of that kind and code, explained, one short line."""
    with pytest.raises(kind) as caught:
        function(*arguments, **named)
    error = caught.value
    assert error.code == code, error.message
    assert lookup(code).cure
    assert "\n" not in error.message
    assert len(error.message) < 400
    assert not error.message.endswith(".") or error.message.endswith(" ...")
    return error
