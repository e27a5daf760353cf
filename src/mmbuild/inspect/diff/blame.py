"""Which lines of a recipe a change comes from.

Nothing is guessed from names: each value that the recipe's files say differently now is put back to what it was,
alone, and the recipe is lowered again. What of an action's definition is then not as it is now comes from that line.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mmbuild.base.yaml_nodes import Span, YamlNode, drop, find
from mmbuild.core.graph.action import Action, RecipeGraph
from mmbuild.core.graph.differences import ABSENT, Change, different, flat
from mmbuild.core.graph.rebuild_reasons import definition_of
from mmbuild.inspect.diff.trace import ActionTrace, Trace
from mmbuild.pipeline.load import with_node
from mmbuild.schema import explicit_values
from mmbuild.schema.resolved import ResolvedRecipe

Lower = Callable[[ResolvedRecipe], RecipeGraph]
"""Lowers a variant as the plan did: for its target, with its pins."""

Reach = Mapping[str, frozenset[str]]
"""Step -> paths of its definition, ``part.path``, that come from a value of the recipe."""

MOST = 40
"""Of more changed values none is put back: a recipe that was written anew is not one change."""


@dataclass(frozen=True, slots=True)
class Edit:
    """A value that the recipe's files say differently now.

    Attributes:
        key: Dotted key.
        old: What they said, plain data, or :data:`~mmbuild.core.graph.differences.ABSENT`.
        new: What they say, or ``ABSENT``.
        span: Where; of a value that is gone, the place of what is nearest. None where nothing is left of it.
        reaches: What follows from it; None where that is not known, because the recipe is not valid with the old
            value alone, or too many values changed.
    """

    key: str
    old: Any
    new: Any
    span: Span | None
    reaches: Reach | None


def edits(variant: ResolvedRecipe, found: Trace, lower: Lower, *, offline: bool = False) -> list[Edit]:
    """What the files of ``variant`` say differently from ``found.settings``, and what follows from each of it.

    Empty where the settings of the earlier build were not kept.
    """
    if variant.node is None or not found.settings:
        return []
    now = leaves(one.planned.action for one in found.actions)
    changed = different(found.settings, explicit_values.explicit_values(variant.node))
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


def causes(one: ActionTrace, change: Change, found: Sequence[Edit]) -> list[Edit]:
    """Edits that ``change`` of an action comes from."""
    return [edit for edit in found if edit.reaches and explains(edit.reaches, step_of(one.label), change)]


def explains(reaches: Reach, step: str, change: Change) -> bool:
    """Whether ``change`` of the action called ``step`` comes from a value that reaches so far."""
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
    """What of ``now``, the :func:`leaves` of the variant's actions, comes from a value being what it is.

    Args:
        variant: As it is.
        key: Dotted key of the value.
        old: What it was, plain data, or :data:`~mmbuild.core.graph.differences.ABSENT`.
        now: Of the variant as it is.
        lower: How it was lowered.
        offline: Ask no hub.

    Returns:
        None where the recipe is not valid with the old value alone.
    """
    assert variant.node is not None  # of every recipe that was read from files
    back = (
        drop(variant.node, key.split("."))
        if old is ABSENT
        else explicit_values.with_value(variant.node, key, old)
    )
    other = with_node(variant, back, offline=offline)
    if other is None:
        return None
    then = leaves(lower(other).actions)
    changed = {step: frozenset(different(then.get(step, {}), own)) for step, own in now.items()}
    gone = {step: frozenset(own) for step, own in then.items() if step not in now}
    return {step: paths for step, paths in {**changed, **gone}.items() if paths}


def leaves(actions: Iterable[Action]) -> dict[str, dict[str, Any]]:
    """Definitions without inputs, whose changes have causes of their own: step -> values by path, ``part.path``."""
    return {
        step_of(action.label): flat(
            {part: value for part, value in definition_of(action).items() if part != "inputs"}
        )
        for action in actions
    }


def step_of(label: str) -> str:
    """What an action is called within its variant."""
    return label.rpartition("/")[2]


def _span(node: YamlNode, key: str) -> Span | None:
    """Of the value; of one that is gone, of the mapping that it stood in."""
    exact = explicit_values.span_of(node, key)
    if exact is not None:
        return exact
    nearest, reached = find(node, key.split("."))
    return nearest.key or nearest.span if reached else None
