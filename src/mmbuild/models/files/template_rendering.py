"""Runs chat templates in the Jinja environment of transformers, without importing transformers.

This follows ``render_jinja_template`` in transformers (5.10 to 5.17). Templates are untrusted programs, so callers
run them in a process with limits (:mod:`mmbuild.base.sandbox`, :mod:`mmbuild.models.files.template_worker`).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from functools import cache, lru_cache
from typing import Any, Literal

from jinja2 import Template, TemplateSyntaxError, nodes
from jinja2 import TemplateError as JinjaError
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

Form = Literal["parts", "text"]
Message = Mapping[str, Any]

# Digits are not affected by templates that change letter case. No template contains this number.
_PROBE = "27182818284590"
_PARTS: tuple[Message, ...] = (
    {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": _PROBE}]},
)


class FailingError(Exception):
    """A template fails.

    Attributes:
        message: Its message in :mod:`mmbuild.models.files.chat_template`: ``fails``, or ``form`` if it renders a
            question wrongly.
        detail: What goes wrong.
        line: The line of the template, from 1; None if unknown.
    """

    def __init__(self, message: str, detail: str, line: int | None) -> None:
        super().__init__(message, detail, line)
        self.message, self.detail, self.line = message, detail, line


def rendered(
    text: str,
    messages: Sequence[Message],
    special_tokens: Mapping[str, str],
    add_generation_prompt: bool = True,
) -> str:
    """The prompt; arguments as for :func:`mmbuild.models.files.chat_template.render`.

    Raises:
        FailingError: The template is not valid Jinja, or fails on these messages.
    """
    try:
        return _compiled(text).render(
            messages=list(messages),
            tools=None,
            documents=None,
            add_generation_prompt=add_generation_prompt,
            **special_tokens,
        )
    except Exception as error:
        # A template is a program, so it can raise any exception.
        raise FailingError("fails", _first_line(error), _line(error)) from error


def prepare() -> None:
    """Import and make what rendering needs, before memory is limited."""
    _compiled("{{ messages }}").render(messages=[])


def render_reported(
    text: str, messages: Sequence[Message], special_tokens: Mapping[str, str]
) -> tuple[str | None, str | None]:
    """The prompt and None, or None and what goes wrong; without bounds, for a process that has them."""
    try:
        return rendered(text, messages, special_tokens), None
    except FailingError as error:
        if isinstance(error.__cause__, MemoryError | RecursionError):
            raise error.__cause__ from None
        return None, error.detail if error.line is None else f"line {error.line}: {error.detail}"


def detected_form(text: str, special_tokens: Mapping[str, str], image_token: str) -> Form:
    """The form of content with which a prompt contains one image token and the question.

    Raises:
        FailingError: Neither form gives such a prompt, or the template is not valid Jinja.
    """
    as_text = ({"role": "user", "content": f"{image_token}\n{_PROBE}"},)
    attempts: tuple[tuple[Form, Sequence[Message]], ...] = (("parts", _PARTS), ("text", as_text))
    failures: list[str] = []
    lines: list[int] = []
    for form, messages in attempts:
        try:
            problem = _problem(rendered(text, messages, special_tokens), image_token)
        except FailingError as error:
            if isinstance(error.__cause__, TemplateSyntaxError):
                raise
            lines += [] if error.line is None else [error.line]
            problem = f"line {error.line} fails: {error.detail}"
        if problem is None:
            return form
        failures.append(problem)
    raise FailingError("form", _both(*failures), lines[0] if lines else None)


def _both(parts: str, text: str) -> str:
    if parts == text:
        return parts
    return f"with content as a list, {parts}; with content as text, {text}"


def _problem(prompt: str, image_token: str) -> str | None:
    """The problem with a probe's prompt; None if it is correct."""
    if f"'text': '{_PROBE}'" in prompt or f'"text": "{_PROBE}"' in prompt:
        return "the prompt shows the list itself"
    if _PROBE not in prompt:
        return "the prompt leaves out the question"
    count = prompt.count(image_token)
    return None if count == 1 else f"the prompt holds `{image_token}` {count} times for one picture"


def _first_line(error: BaseException, most: int = 200) -> str:
    """The first line of a message of Jinja or Python."""
    line = str(error).strip().partition("\n")[0].rstrip(".") or type(error).__name__
    line = line if isinstance(error, JinjaError) else f"{type(error).__name__}: {line}"
    return line if len(line) <= most else line[: most - 4] + " ..."


def _line(error: BaseException) -> int | None:
    """The template line that raised an exception: the innermost frame that belongs to a template."""
    if isinstance(error, TemplateSyntaxError):
        return error.lineno
    line, trace = None, error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == "<template>":
            line = trace.tb_lineno
        trace = trace.tb_next
    return line


class _Generation(Extension):
    """``{% generation %}`` marks the assistant's output. It does not change the text."""

    tags = {"generation"}  # noqa: RUF012 (as Jinja declares it)

    def parse(self, parser: Parser) -> nodes.Node:
        """Parse the block as a call that returns its content, so that it has its own scope."""
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        call = self.call_method("content", [])
        return nodes.CallBlock(call, [], [], body).set_lineno(line)

    def content(self, caller: Callable[[], str]) -> str:
        """The rendered block."""
        return caller()


@cache
def _environment() -> ImmutableSandboxedEnvironment:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=[_Generation, loopcontrols],
        # Jinja would compute constants while it compiles: 'x' * 3000000000 in a branch that is never taken.
        optimized=False,
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = _strftime_now
    return environment


@lru_cache(maxsize=16)
def _compiled(text: str) -> Template:
    return _environment().from_string(text)


def _to_json(
    value: object,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    # Jinja's filter escapes HTML characters.
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


def _raise_exception(message: str) -> None:
    raise JinjaError(message)


def _strftime_now(form: str) -> str:
    return datetime.now().strftime(form)
