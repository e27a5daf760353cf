"""Finds the lines of a recipe that cause a change.

Nothing is guessed from names: each changed value is reverted by itself and the recipe is lowered again. The parts of
an action's definition that then differ from the current ones are attributed to that value's line.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mmbuild.base.yaml_nodes import Span, YamlNode, drop, find
from mmbuild.core.graph.action import Action, RecipeGraph
from mmbuild.core.graph.definition_diff import ABSENT, Change, different, flat
from mmbuild.core.graph.rebuild_reasons import definition_of
from mmbuild.inspect.diff.trace import ActionTrace, Trace
from mmbuild.pipeline.load import with_node
from mmbuild.schema import explicit_values
from mmbuild.schema.resolved import ResolvedRecipe

Lower = Callable[[ResolvedRecipe], RecipeGraph]
"""Lowers a variant as the plan did, with the same target and pins."""

Reach = Mapping[str, frozenset[str]]
"""Step -> paths in its definition (``part.path``) that depend on a value of the recipe."""

MOST = 40
"""With more changed values than this, none is reverted: the recipe was rewritten."""


@dataclass(frozen=True, slots=True)
class Edit:
    """A value that changed in the recipe's files.

    Attributes:
        key: Dotted key.
        old: Old value, plain data, or :data:`~mmbuild.core.graph.definition_diff.ABSENT`.
        new: New value, or ``ABSENT``.
        span: Its location; for a removed value, that of the nearest enclosing key. None if nothing is left of it.
        reaches: What depends on it; None if unknown, because the recipe is not valid with only this value reverted,
            or too many values changed.
    """

    key: str
    old: Any
    new: Any
    span: Span | None
    reaches: Reach | None


def edits(variant: ResolvedRecipe, trace: Trace, lower: Lower, *, offline: bool = False) -> list[Edit]:
    """Values in the files of ``variant`` that differ from ``trace.settings``, with what depends on each.

    Empty if the settings of the earlier build were not recorded.
    """
    if variant.node is None or not trace.settings:
        return []
    now = leaves(item.planned.action for item in trace.actions)
    changed = different(trace.settings, explicit_values.explicit_values(variant.node))
    return [
        Edit(
            key,
            old,
            new,
            _span(variant.node, key),
            reach(variant, key, old, now, lower, offline=offline) if len(changed) <= MOST else None,
        )
        for key, (old, new) in changed.items()
    ]


def causes(action: ActionTrace, change: Change, edits: Sequence[Edit]) -> list[Edit]:
    """The ``edits`` that cause ``change`` in ``action``."""
    return [edit for edit in edits if edit.reaches and explains(edit.reaches, step_of(action.label), change)]


def explains(reaches: Reach, step: str, change: Change) -> bool:
    """Whether a value with these ``reaches`` causes ``change`` in ``step``."""
    name = change.part if change.part in ("step", "version") else f"{change.part}.{change.path}"
    return any(path == name or path.startswith(f"{name}.") for path in reaches.get(step, ()))


def reach(
    variant: ResolvedRecipe,
    key: str,
    old: Any,
    now: Mapping[str, Mapping[str, Any]],
    lower: Lower,
    *,
    offline: bool,
) -> Reach | None:
    """The parts of the action definitions that depend on one value of the recipe.

    Args:
        variant: The current variant.
        key: Dotted key of the value.
        old: Its old value, plain data, or :data:`~mmbuild.core.graph.definition_diff.ABSENT`.
        now: The :func:`leaves` of the current variant's actions.
        lower: Lowers a variant as the plan did.
        offline: Do not contact the hub.

    Returns:
        None if the recipe is not valid with only this value reverted.
    """
    assert variant.node is not None  # set for every recipe read from files
    reverted = (
        drop(variant.node, key.split("."))
        if old is ABSENT
        else explicit_values.with_value(variant.node, key, old)
    )
    other = with_node(variant, reverted, offline=offline)
    if other is None:
        return None
    then = leaves(lower(other).actions)
    changed = {step: frozenset(different(then.get(step, {}), own)) for step, own in now.items()}
    removed = {step: frozenset(own) for step, own in then.items() if step not in now}
    return {step: paths for step, paths in {**changed, **removed}.items() if paths}


def leaves(actions: Iterable[Action]) -> dict[str, dict[str, Any]]:
    """Step -> values of its definition by ``part.path``, without inputs, whose changes have their own causes."""
    return {
        step_of(action.label): flat(
            {part: value for part, value in definition_of(action).items() if part != "inputs"}
        )
        for action in actions
    }


def step_of(label: str) -> str:
    """Name of an action within its variant."""
    return label.rpartition("/")[2]


def _span(node: YamlNode, key: str) -> Span | None:
    """Location of the value; for a removed value, of the mapping that contained it."""
    exact = explicit_values.span_of(node, key)
    if exact is not None:
        return exact
    nearest, reached = find(node, key.split("."))
    return nearest.key or nearest.span if reached else None
