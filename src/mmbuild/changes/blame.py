"""Which lines of a recipe a change comes from.

Nothing is guessed from names: each value that the recipe's files say differently now is put back to what it was,
alone, and the recipe is lowered again. What of an action's definition is then not as it is now comes from that line.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mmbuild.changes.trace import Trace, Traced
from mmbuild.graph.action import RecipeGraph
from mmbuild.graph.differences import ABSENT, Change, different, flat
from mmbuild.graph.reasons import definition_of
from mmbuild.schema import written
from mmbuild.schema.load import with_node
from mmbuild.schema.nodes import Node, Span, drop, find
from mmbuild.schema.resolved import ResolvedRecipe

Lower = Callable[[ResolvedRecipe], RecipeGraph]
"""Lowers a variant as the plan did: for its target, with its pins."""

_MOST = 40
"""Changed values that are tried; a recipe that was written anew is not one change."""


@dataclass(frozen=True, slots=True)
class Edit:
    """A value that the recipe's files say differently now.

    Attributes:
        key: Dotted key.
        old: What they said, plain data, or :data:`~mmbuild.graph.differences.ABSENT`.
        new: What they say, or ``ABSENT``.
        span: Where; of a value that is gone, the place of what is nearest. None where nothing is left of it.
        valid: Whether the recipe can be had with the old value put back.
        reaches: Label of an action -> paths of its definition, ``part.path``, that come from this value.
    """

    key: str
    old: Any
    new: Any
    span: Span | None
    valid: bool
    reaches: Mapping[str, frozenset[str]]


def edits(variant: ResolvedRecipe, found: Trace, lower: Lower, *, offline: bool = False) -> list[Edit]:
    """What the files of ``variant`` say differently from ``found.settings``, and what follows from each of it.

    Empty where the settings of the earlier build were not kept.
    """
    if variant.node is None or not found.settings:
        return []
    node, now = variant.node, _leaves(found)
    changed = different(found.settings, written.settings(node))
    tried = list(changed.items())[:_MOST]
    return [_edit(variant, node, key, pair, now, lower, offline) for key, pair in tried]


def causes(one: Traced, change: Change, found: Sequence[Edit]) -> list[Edit]:
    """Edits that ``change`` of an action comes from."""
    name = _path(change)
    return [
        edit
        for edit in found
        if any(path == name or path.startswith(f"{name}.") for path in edit.reaches.get(one.label, ()))
    ]


def _edit(
    variant: ResolvedRecipe,
    node: Node,
    key: str,
    pair: tuple[Any, Any],
    now: Mapping[str, Mapping[str, Any]],
    lower: Lower,
    offline: bool,
) -> Edit:
    old, new = pair
    back = drop(node, key.split(".")) if old is ABSENT else written.as_if(node, key, old)
    other = with_node(variant, back, offline=offline)
    reaches: dict[str, frozenset[str]] = {}
    if other is not None:
        for action in lower(other).actions:
            paths = different(flat(_own(definition_of(action))), now.get(action.label, {}))
            reaches[action.label] = frozenset(paths)
    return Edit(key, old, new, _place(node, key), bool(reaches), reaches)


def _leaves(found: Trace) -> dict[str, dict[str, Any]]:
    return {one.label: flat(_own(definition_of(one.planned.action))) for one in found.actions}


def _own(definition: Mapping[str, Any]) -> dict[str, Any]:
    """A definition without its inputs, whose changes have causes of their own."""
    return {part: value for part, value in definition.items() if part != "inputs"}


def _path(change: Change) -> str:
    return change.part if change.part in ("step", "version") else f"{change.part}.{change.path}"


def _place(node: Node, key: str) -> Span | None:
    """Of the value; of one that is gone, of the mapping that it stood in."""
    exact = written.place(node, key)
    if exact is not None:
        return exact
    nearest, reached = find(node, key.split("."))
    return nearest.key or nearest.span if reached else None
