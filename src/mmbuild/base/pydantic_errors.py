"""Translates pydantic errors of any closed model into findings with source locations and the user's terms."""

from __future__ import annotations

import json
import re
import types
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel, ValidationError

from mmbuild.base.diagnostics import Diagnostic, nearest
from mmbuild.base.value_hints import comment_hint, foreign_hint, percent_hint, wrong_type_hint
from mmbuild.base.yaml_nodes import Span, YamlNode, diagnostic_at, dotted, find, plain

Path = tuple[str | int, ...]

_MADE_OF = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "string_type": "text",
    "path_type": "text",
    "bool_type": "true or false",
    "tuple_type": "a list",
    "dict_type": "a mapping",
    "model_type": "a mapping",
    "model_attributes_type": "a mapping",
}
_RANGE = {
    "greater_than_equal": ("at least", "ge"),
    "less_than_equal": ("at most", "le"),
    "too_short": ("a list of at least", "min_length"),
}
_FORM = ("string_pattern_mismatch", "string_too_short", "string_too_long")


@dataclass(frozen=True, slots=True)
class DocumentKind:
    """A kind of file.

    Attributes:
        model: Its pydantic model.
        name: Its name in messages: ``recipe``.
        rule: Code for errors from the model's validators, whose messages are predicates ("needs ...").
        short: Keys that accept a word in place of a mapping, with the words.
        other_keys: Names of keys in other programs -> the dotted key of this one.
        other_values: Values of other programs, in lower case -> the value of this one.
        key_hints: Keys that are unknown, with what to do.
        value_hint: What to do about a wrong value, given its dotted key; None if nothing is known about it.
    """

    model: type[BaseModel]
    name: str
    rule: str = "MM114"
    short: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    other_keys: Mapping[str, str] = field(default_factory=dict)
    other_values: Mapping[str, str] = field(default_factory=dict)
    key_hints: Mapping[str, str] = field(default_factory=dict)
    value_hint: Callable[[str, Any], str | None] = lambda _key, _value: None


def validate(root: YamlNode, form: DocumentKind) -> tuple[Any | None, Sequence[Any]]:
    """Return ``root`` as an instance of the form's model, or None and pydantic's errors."""
    try:
        # JSON mode is strict about types, but accepts words for enums and lists for tuples.
        return form.model.model_validate_json(json.dumps(plain(root))), ()
    except ValidationError as error:
        return None, error.errors(include_url=False)


def by_path(root: YamlNode, errors: Sequence[Any]) -> dict[Path, list[Any]]:
    """Group errors by the path that exists in the data; a missing key has its own path."""
    groups: dict[Path, list[Any]] = {}
    for error in errors:
        _, reached = find(root, error["loc"])
        if error["type"] == "missing":
            reached = (*reached, error["loc"][-1])
        groups.setdefault(reached, []).append(error)
    return groups


def diagnose(root: YamlNode, path: Path, group: Sequence[Any], form: DocumentKind) -> Diagnostic:
    """Return one finding for the errors at a path."""
    node, _ = find(root, path)
    kinds = [error["type"] for error in group]
    if kinds[0] == "missing":
        return _missing(root, path, form)
    if kinds[0] == "extra_forbidden":
        return unknown_key(path, node.key or node.span, form)
    if kinds[0] == "value_error":
        return _broken_rule(path, node, group[0], form)
    allowed = _allowed(group)
    if allowed:
        return _not_allowed(path, node, allowed, form)
    if kinds[0] in _MADE_OF:
        return _wrong_type(path, node, _MADE_OF[kinds[0]], form)
    return _out_of_bounds(path, node, group[0], form)


def _missing(root: YamlNode, path: Path, form: DocumentKind) -> Diagnostic:
    parent, reached = find(root, path[:-1])
    where = f"`{dotted(reached)}`" if reached else f"the {form.name}"
    return diagnostic_at(
        "MM111",
        f"{where} is missing `{path[-1]}`",
        parent.key or _head(parent),
        path=dotted(path),
        hint=f"add `{path[-1]}`: {description(path, form)}",
    )


def _head(node: YamlNode) -> Span:
    return Span(node.span.source, node.span.line, node.span.column)


def unknown_key(path: Path, span: Span, form: DocumentKind) -> Diagnostic:
    """Return the finding for an unknown key."""
    section = section_at(path[:-1], form)
    known = tuple(section.model_fields) if section is not None else ()
    key = str(path[-1])
    near = nearest(key, known)
    in_other_sections = [item for item in every_key(form.model) if item.rpartition(".")[2] == key]
    meant = form.other_keys.get(key) or next(iter(in_other_sections), near)
    if meant is not None and meant.rpartition(".")[0] == dotted(path[:-1]):
        meant = meant.rpartition(".")[2]
    hint = form.key_hints.get(key) or foreign_hint(key)
    if meant == key and len(path) > 1:  # right, at the wrong depth
        meant, hint = None, f"`{key}` is a key of the {form.name} itself: write it without indentation"
    where = f"`{dotted(path[:-1])}`" if len(path) > 1 else f"a {form.name}"
    return diagnostic_at(
        "MM103",
        f"{where} has no key `{key}`",
        span,
        path=dotted(path),
        allowed=known,
        suggestion=meant,
        hint=hint,
    )


def _broken_rule(path: Path, node: YamlNode, error: Any, form: DocumentKind) -> Diagnostic:
    where = f"`{dotted(path)}`" if path else f"the {form.name}"
    at = node.span if not isinstance(node.value, Mapping) else node.key or _head(node)
    return diagnostic_at(form.rule, f"{where} {error['ctx']['error']}", at, path=dotted(path))


def _not_allowed(path: Path, node: YamlNode, allowed: tuple[str, ...], form: DocumentKind) -> Diagnostic:
    value = plain(node)
    meant = form.other_values.get(str(value).lower())
    if meant not in allowed:
        meant = nearest(value, allowed) if isinstance(value, str) else None
    return diagnostic_at(
        "MM112",
        f"`{dotted(path)}` cannot be {_show(value)}",
        node.span,
        path=dotted(path),
        allowed=allowed,
        suggestion=meant,
        hint=form.value_hint(dotted(path), value) or comment_hint(value) or foreign_hint(value),
    )


def _wrong_type(path: Path, node: YamlNode, expected: str, form: DocumentKind) -> Diagnostic:
    value = plain(node)
    allowed: tuple[str, ...] = ()
    suggestion: str | None = None
    if path and path[-1] in form.short:
        expected, allowed = "a word or a mapping", form.short[str(path[-1])]
        suggestion = form.other_values.get(f"{value}bit") if isinstance(value, int) else None
    return diagnostic_at(
        "MM114",
        f"`{dotted(path) or f'the {form.name}'}` must be {expected}, not {_kind(value, expected)}{_show(value)}",
        node.span,
        path=dotted(path),
        allowed=allowed,
        suggestion=suggestion if suggestion in allowed else None,
        hint=form.value_hint(dotted(path), value) or wrong_type_hint(value, expected, _written(node)),
    )


def _out_of_bounds(path: Path, node: YamlNode, error: Any, form: DocumentKind) -> Diagnostic:
    kind, context = error["type"], error.get("ctx", {})
    if kind in _RANGE:
        words, bound = _RANGE[kind]
        message = f"`{dotted(path)}` must be {words} {_short(context[bound])}, not {_show(plain(node))}"
        hint = form.value_hint(dotted(path), plain(node)) or percent_hint(plain(node), context[bound])
        return diagnostic_at("MM113", message, node.span, path=dotted(path), hint=hint)
    code = "MM116" if kind in _FORM else "MM114"
    message = f"`{dotted(path)}` cannot be {_show(plain(node))}"
    hint = form.value_hint(dotted(path), plain(node)) or _expected(description(path, form))
    return diagnostic_at(code, message, node.span, path=dotted(path), hint=hint)


def _expected(text: str | None) -> str | None:
    """A key's description as a hint; hints begin in lower case, but for abbreviations."""
    if text is None:
        return None
    lower = text[:1].lower() + text[1:] if text[1:2].islower() else text
    return f"expected: {lower}"


def _written(node: YamlNode) -> str:
    """The value as it is in its line."""
    return node.span.excerpt[node.span.column - 1 :][: node.span.width]


def _allowed(group: Sequence[Any]) -> tuple[str, ...]:
    words: list[str] = []
    for error in group:
        if error["type"] in ("enum", "literal_error"):
            expected = error["ctx"]["expected"]
            words += [quoted or bare for quoted, bare in re.findall(r"'([^']*)'|(\d+)", expected)]
        elif error["type"] == "bool_type" and len(group) > 1:
            words += ["true", "false"]
    return tuple(words)


def _kind(value: Any, expected: str) -> str:
    """Words before a value that looks like what is expected, but is text."""
    return "the text " if expected.endswith("number") and isinstance(value, str) and value.isdigit() else ""


def _short(number: float) -> str:
    """A bound as people write it: ``1``, also where pydantic has 1.0."""
    return str(int(number) if number == int(number) else number)


def _show(value: Any) -> str:
    if isinstance(value, Mapping):
        return "a mapping"
    if isinstance(value, list):
        return "a list"
    text = json.dumps(value, ensure_ascii=False) if not isinstance(value, str) else value
    return f"`{text[:60]}`" if value is not None else "empty"


def section_at(path: Path, form: DocumentKind) -> type[BaseModel] | None:
    """Return the model of the mapping at ``path``, or None if there is none."""
    section: Any = form.model
    for part in path:
        section = _below(section, str(part))
    return _section_of(section)


def _below(annotation: Any, key: str) -> Any:
    """Return the annotation of ``key`` in the type ``annotation``."""
    section = _section_of(annotation)
    if section is not None:
        entry = section.model_fields.get(key)
        return entry.annotation if entry is not None else None
    return typing.get_args(annotation)[1] if typing.get_origin(annotation) is dict else None


def _section_of(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    if typing.get_origin(annotation) in (typing.Union, types.UnionType, typing.Annotated):
        sections = (_section_of(argument) for argument in typing.get_args(annotation))
        return next((section for section in sections if section is not None), None)
    return None


def description(path: Path, form: DocumentKind) -> str | None:
    """Return the form's description of the key at ``path``."""
    section = section_at(path[:-1], form) if path else None
    entry = section.model_fields.get(str(path[-1])) if section is not None else None
    return entry.description if entry is not None else None


def every_key(section: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """Yield the dotted paths of all keys of a model, without user-defined keys."""
    for name, entry in section.model_fields.items():
        yield f"{prefix}{name}"
        below = _section_of(entry.annotation)
        if below is not None:
            yield from every_key(below, f"{prefix}{name}.")
