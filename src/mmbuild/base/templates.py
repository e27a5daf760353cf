"""Pages from Jinja templates that are files of this package; every value is escaped by construction.

jinja2 is imported when a page is rendered, never for starting a verb.
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
    """The template ``templates/<name>`` of ``package``, filled.

    Values are escaped for HTML (``*.html.j2``) or Markdown (``*.md.j2``). In Markdown there is a filter ``code``.
    """
    environment = _environment(package, ".md." in name).overlay()
    environment.filters = environment.filters | filters
    return environment.get_template(name).render(values)


def code(value: Any) -> str:
    """A code span of Markdown."""
    return "`{}`".format(str(value).replace("`", "'"))


@cache
def _environment(package: str, markdown: bool) -> Environment:
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
    return environment


def _in_html(value: Any) -> Any:
    """Jinja escapes what this returns; control characters, which HTML forbids, become a mark."""
    if hasattr(value, "__html__"):
        return value
    return "".join(char if char >= " " or char in "\n\t" else "\ufffd" for char in str(value))


def _in_markdown(value: Any) -> Any:
    """Text that stays in its line and its cell of a table; code spans stay, tags and links become text."""
    from markupsafe import Markup

    if hasattr(value, "__html__"):
        return value
    line = one_line(" ".join(str(value).split())).replace("|", "\\|")
    parts = _CODE.split(line)
    parts[::2] = [part.replace("`", "'").replace("<", "&lt;").replace("[", "\\[") for part in parts[::2]]
    return Markup("".join(parts))
