"""Nodes to a :class:`Recipe`, and what pydantic objects to as findings in the user's own words."""

from __future__ import annotations

import json
import re
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ValidationError

from mmbuild.families import MODULES
from mmbuild.schema.diagnostics import Diagnostic
from mmbuild.schema.model import Algorithm, Recipe
from mmbuild.schema.nodes import SHORT, Node, Span, dotted, drop, find, finding, has, plain, put
from mmbuild.schema.spelling import nearest

Path = tuple[str | int, ...]

_MADE_OF = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "string_type": "text",
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
# Stand for required values that are missing or faulty; no rule that reads one of those speaks.
_STAND_INS = {
    "version": 1,
    "name": "unnamed",
    "model.family": next(iter(MODULES)),
    "model.source": "unknown",
    "engine.backend": "torch",
    "engine.max_input_len": 1,
    "engine.max_output_len": 1,
}
_FORM = ("string_pattern_mismatch", "string_too_short", "string_too_long")


def check(root: Node) -> tuple[Recipe | None, list[Diagnostic], set[str]]:
    """Validate ``root`` as a recipe.

    Returns:
        The recipe (None where it has findings that cannot be set aside), the findings, and the dotted paths
        at fault. Where faulty entries can be left out, the recipe without them is returned, so that rules
        that do not read them can still speak.
    """
    recipe, errors = _validate(root)
    if recipe is not None:
        return recipe, [], set()
    findings, faulty = [], set()
    pruned = root
    for path, group in _by_path(root, errors).items():
        findings.append(_diagnose(root, path, group))
        faulty.add(dotted(path))
        pruned = drop(pruned, path)
    recipe, _ = _validate(_whole(pruned))
    return recipe, findings, faulty


def _whole(root: Node) -> Node:
    for key, value in _STAND_INS.items():
        if not has(root, key):
            root = put(root, key.split("."), Node(value, root.span))
    return root


def _validate(root: Node) -> tuple[Recipe | None, Sequence[Any]]:
    try:
        # JSON mode is strict about types and still takes words for enums and lists for tuples.
        return Recipe.model_validate_json(json.dumps(plain(root))), ()
    except ValidationError as error:
        return None, error.errors(include_url=False)


def _by_path(root: Node, errors: Sequence[Any]) -> dict[Path, list[Any]]:
    """Errors by the path that exists in the data; a missing key counts as a path of its own."""
    groups: dict[Path, list[Any]] = {}
    for error in errors:
        _, reached = find(root, error["loc"])
        if error["type"] == "missing":
            reached = (*reached, error["loc"][-1])
        groups.setdefault(reached, []).append(error)
    return groups


def _diagnose(root: Node, path: Path, group: list[Any]) -> Diagnostic:
    node, _ = find(root, path)
    kinds = [error["type"] for error in group]
    if kinds[0] == "missing":
        return _missing(root, path)
    if kinds[0] == "extra_forbidden":
        return unknown_key(path, node.key or node.span)
    allowed = _allowed(group)
    if path == ("version",):
        return _version(node)
    if allowed:
        return _not_allowed(path, node, allowed)
    if kinds[0] in _MADE_OF:
        return _wrong_type(path, node, _MADE_OF[kinds[0]])
    return _out_of_bounds(path, node, group[0])


def _missing(root: Node, path: Path) -> Diagnostic:
    parent, reached = find(root, path[:-1])
    where = f"`{dotted(reached)}`" if reached else "the recipe"
    return finding(
        "MM111",
        f"{where} lacks `{path[-1]}`",
        parent.key or _head(parent),
        path=dotted(path),
        hint=f"Add `{path[-1]}`: {description(path)}",
    )


def _head(node: Node) -> Span:
    return Span(node.span.source, node.span.line, node.span.column)


def unknown_key(path: Path, span: Span) -> Diagnostic:
    """The finding for a key that no section has."""
    section = section_at(path[:-1])
    known = tuple(section.model_fields) if section is not None else ()
    key = str(path[-1])
    near = nearest(key, known)
    elsewhere = [item for item in every_key() if item.rpartition(".")[2] == key]
    where = f"`{dotted(path[:-1])}`" if len(path) > 1 else "a recipe"
    return finding(
        "MM103",
        f"{where} has no key `{key}`",
        span,
        path=dotted(path),
        allowed=known,
        suggestion=elsewhere[0] if elsewhere else near,
    )


def _version(node: Node) -> Diagnostic:
    return finding(
        "MM115",
        f"recipe version `{plain(node)}` is not known",
        node.span,
        path="version",
        allowed=("1",),
        hint="Write `version: 1`; a newer format needs a newer mmbuild",
    )


def _not_allowed(path: Path, node: Node, allowed: tuple[str, ...]) -> Diagnostic:
    value = plain(node)
    return finding(
        "MM112",
        f"`{dotted(path)}` cannot be {_show(value)}",
        node.span,
        path=dotted(path),
        allowed=allowed,
        suggestion=nearest(value, allowed) if isinstance(value, str) else None,
    )


def _wrong_type(path: Path, node: Node, wanted: str) -> Diagnostic:
    value = plain(node)
    hint: str | None = None
    allowed: tuple[str, ...] = ()
    if path and path[-1] in SHORT:
        wanted, allowed = "a word or a mapping", tuple(item.value for item in Algorithm)
    if value is None:
        hint = "Give a value, or leave the key out"
    elif wanted == "text" and isinstance(value, int | float):
        hint = f"Quote it: `'{node.span.excerpt[node.span.column - 1 :][: node.span.width]}'`"
    elif wanted.endswith("number") and isinstance(value, str) and value.isdigit():
        hint = "Remove the quotes"
    return finding(
        "MM114",
        f"`{dotted(path) or 'the recipe'}` must be {wanted}, not {_show(value)}",
        node.span,
        path=dotted(path),
        allowed=allowed,
        hint=hint,
    )


def _out_of_bounds(path: Path, node: Node, error: Any) -> Diagnostic:
    kind, context = error["type"], error.get("ctx", {})
    if kind in _RANGE:
        words, bound = _RANGE[kind]
        message = f"`{dotted(path)}` must be {words} {context[bound]}, not {_show(plain(node))}"
        return finding("MM113", message, node.span, path=dotted(path))
    code = "MM116" if kind in _FORM else "MM114"
    message = f"`{dotted(path)}` cannot be {_show(plain(node))}"
    return finding(code, message, node.span, path=dotted(path), hint=description(path))


def _allowed(group: list[Any]) -> tuple[str, ...]:
    words: list[str] = []
    for error in group:
        if error["type"] in ("enum", "literal_error"):
            expected = error["ctx"]["expected"]
            words += [quoted or bare for quoted, bare in re.findall(r"'([^']*)'|(\d+)", expected)]
        elif error["type"] == "bool_type" and len(group) > 1:
            words += ["true", "false"]
    return tuple(words)


def _show(value: Any) -> str:
    if isinstance(value, Mapping):
        return "a mapping"
    if isinstance(value, list):
        return "a list"
    text = json.dumps(value, ensure_ascii=False) if not isinstance(value, str) else value
    return f"`{text[:60]}`" if value is not None else "empty"


def section_at(path: Path) -> type[BaseModel] | None:
    """The model that describes the mapping at ``path``, or None where there is none."""
    section: type[BaseModel] | None = Recipe
    for part in path:
        field = section.model_fields.get(str(part)) if section is not None else None
        section = _section_of(field.annotation) if field is not None else None
    return section


def _section_of(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    if typing.get_origin(annotation) in (typing.Union, types.UnionType, typing.Annotated):
        found = (_section_of(argument) for argument in typing.get_args(annotation))
        return next((section for section in found if section is not None), None)
    return None


def description(path: Path) -> str | None:
    """What the schema says about the key at ``path``."""
    section = section_at(path[:-1])
    field = section.model_fields.get(str(path[-1])) if section is not None and path else None
    return field.description if field is not None else None


def every_key(section: type[BaseModel] = Recipe, prefix: str = "") -> Iterator[str]:
    """Dotted paths of all keys of the schema."""
    for name, field in section.model_fields.items():
        yield f"{prefix}{name}"
        below = _section_of(field.annotation)
        if below is not None:
            yield from every_key(below, f"{prefix}{name}.")
