"""All variants as one graph: each action once, with the variants that need it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mmbuild.core.graph.action import Action, RecipeGraph


@dataclass(frozen=True, slots=True)
class MergedGraph:
    """Attributes by definition key.

    Attributes:
        actions: Producers before consumers; of those that several variants share, the first's.
        users: Names of the variants that need it.
    """

    actions: Mapping[str, Action]
    users: Mapping[str, tuple[str, ...]]


def union_of(graphs: Sequence[RecipeGraph]) -> MergedGraph:
    """Merge ``graphs``, in their order."""
    actions: dict[str, Action] = {}
    users: dict[str, dict[str, None]] = {}
    for graph in graphs:
        for action in graph.actions:
            actions.setdefault(action.definition_key, action)
            users.setdefault(action.definition_key, {})[graph.recipe] = None
    return MergedGraph(actions, {key: tuple(names) for key, names in users.items()})


def closure(actions: Mapping[str, Action], wanted: Sequence[str]) -> tuple[Action, ...]:
    """``wanted`` with everything it is made from, in the order of ``actions``."""
    needed: set[str] = set()
    pending = list(wanted)
    while pending:
        key = pending.pop()
        if key not in needed:
            needed.add(key)
            pending += actions[key].inputs.values()
    return tuple(action for key, action in actions.items() if key in needed)


def only_named(action: Action) -> bool:
    """Whether the result is the user's own files under a name: made on every machine in no time, carried to none."""
    return action.step == "download" and action.params.get("kind") == "path"
