"""Templates of toolchain files: sandboxed Jinja2, in which an unknown name is an error.

A template produces exactly one argument; it is not split, and no shell interprets it.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

from jinja2 import StrictUndefined, Template
from jinja2.environment import TemplateExpression
from jinja2.sandbox import ImmutableSandboxedEnvironment

_ENVIRONMENT = ImmutableSandboxedEnvironment(undefined=StrictUndefined, keep_trailing_newline=True)


@cache
def _template(text: str) -> Template:
    return _ENVIRONMENT.from_string(text)


@cache
def _expression(text: str) -> TemplateExpression:
    return _ENVIRONMENT.compile_expression(text, undefined_to_none=False)


def fill(text: str, variables: Mapping[str, Any]) -> str:
    """``text`` with its placeholders filled in.

    Raises:
        jinja2.UndefinedError: It uses a name that is not in ``variables`` (a bug in mmbuild, caught by tests).
    """
    return _template(text).render(variables) if "{" in text else text  # most arguments are constant


def holds(condition: str, variables: Mapping[str, Any]) -> bool:
    """Whether ``condition`` is true.

    Raises:
        jinja2.UndefinedError: As in :func:`fill`.
    """
    return condition == "true" or bool(_expression(condition)(variables))


def evaluate(expression: str, variables: Mapping[str, Any]) -> Any:
    """The value of ``expression``; using a name that is not in ``variables`` fails as in :func:`fill`."""
    return _expression(expression)(variables)
