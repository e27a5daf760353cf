"""Renders pages from Jinja templates in this package; every value is escaped automatically.

jinja2 is imported only when a page is rendered.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from mmbuild.base.terminal_text import one_line

if TYPE_CHECKING:
    from jinja2 import Environment

_CODE = re.compile(r"(`[^`]*`)")


def render(package: str, name: str, values: Mapping[str, Any], **filters: Callable[..., Any]) -> str:
    """Render the template ``templates/<name>`` of ``package``.

    Values are escaped for HTML (``*.html.j2``) or Markdown (``*.md.j2``). Markdown templates have a filter ``code``.
    """
    environment = _environment(package, ".md." in name, tuple(filters.items()))
    return environment.get_template(name).render(values)


def code(value: Any) -> str:
    """Return a Markdown code span."""
    return "`{}`".format(str(value).replace("`", "'"))


@cache
def _environment(
    package: str, markdown: bool, filters: tuple[tuple[str, Callable[..., Any]], ...]
) -> Environment:
    from jinja2 import Environment, FunctionLoader, StrictUndefined

    environment = Environment(
        loader=FunctionLoader(lambda name: (files(package) / "templates" / name).read_text("utf-8")),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_in_markdown if markdown else _in_html,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    if markdown:
        environment.filters["code"] = code
    environment.filters.update(filters)
    return environment


def _in_html(value: Any) -> Any:
    """Replace control characters, which HTML forbids. Jinja escapes the result."""
    if hasattr(value, "__html__"):
        return value
    return "".join(char if char >= " " or char in "\n\t" else "\ufffd" for char in str(value))


def _in_markdown(value: Any) -> Any:
    """Escape text to stay in its line and table cell; code spans are kept, tags and links become text."""
    from markupsafe import Markup

    if hasattr(value, "__html__"):
        return value
    line = one_line(" ".join(str(value).split())).replace("|", "\\|")
    parts = _CODE.split(line)
    parts[::2] = [part.replace("`", "'").replace("<", "&lt;").replace("[", "\\[") for part in parts[::2]]
    return Markup("".join(parts))
