"""Why actions run, or last ran: what changed in their definitions, and whose change they follow."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from mmbuild.core.graph.differences import Change, changes
from mmbuild.core.graph.plan import Build, PlannedAction
from mmbuild.core.graph.rebuild_reasons import definition_of, read_definition
from mmbuild.core.store.layout import Store
from mmbuild.core.store.roots import Root


@dataclass(frozen=True, slots=True)
class ActionTrace:
    """One action of a build, and what became different in it.

    Attributes:
        planned: The action with its verdict and the plan's reason.
        own: What changed in its definition, apart from inputs.
        follows: Labels of the producers whose definitions changed, by input.
        known: Whether there was an earlier definition to compare with.
    """

    planned: PlannedAction
    own: tuple[Change, ...] = ()
    follows: Mapping[str, str] = field(default_factory=dict)
    known: bool = True

    @property
    def label(self) -> str:
        return self.planned.action.label

    @property
    def changed(self) -> bool:
        return bool(self.own or self.follows) or not self.known


@dataclass(frozen=True, slots=True)
class Trace:
    """All actions of one build, held against what its directory held before.

    Attributes:
        recipe: Name of the variant.
        actions: Producers first.
        settings: What the recipe's files said then, by dotted key; empty where that was not kept.
        at: Seconds since the epoch when the directory was last laid out; 0 where unknown.
        since: The same of what is compared with.
        past: Whether that is the last rebuild, and nothing is to be done now.
    """

    recipe: str
    actions: tuple[ActionTrace, ...]
    settings: Mapping[str, Any]
    at: float
    since: float
    past: bool

    def causes(self) -> list[ActionTrace]:
        """Actions that changed by themselves, not only by what they are fed."""
        return [one for one in self.actions if one.own or not one.known]

    def led_to(self, label: str) -> list[str]:
        """Labels of the changed actions that follow ``label``, directly or not, producers first."""
        reached = {label}
        for one in self.actions:
            if reached & set(one.follows.values()):
                reached.add(one.label)
        return [one.label for one in self.actions if one.label in reached and one.label != label]


def trace(build: Build, planned: Mapping[str, PlannedAction], root: Root | None, store: Store) -> Trace:
    """Compare ``build`` with what its directory holds, or, where that is the same, with what it held before.

    Args:
        build: Of a plan.
        planned: The plan's actions by definition key.
        root: What the store knows of the directory.
        store: Has the earlier definitions.
    """
    before: Mapping[str, Any] = {}
    past = False
    if root is not None:
        past = root.definitions == build.actions
        before = root.previous if past else _as_before(root)
    labels = {key: label for label, key in build.actions.items()}
    earlier: Mapping[str, str] = before.get("definitions", {})
    actions = tuple(
        _traced(planned[key], label, earlier.get(label), labels, store)
        for label, key in build.actions.items()
        if earlier or not past  # nothing was there before the last build: nothing to tell
    )
    at = root.at if root is not None else 0.0
    return Trace(build.recipe, actions, before.get("settings", {}), at, before.get("at", 0.0), past)


def _as_before(root: Root) -> Mapping[str, Any]:
    return {"definitions": root.definitions, "settings": root.settings, "at": root.at}


def _traced(
    planned: PlannedAction, label: str, last: str | None, labels: Mapping[str, str], store: Store
) -> ActionTrace:
    # One that several recipes share is told under the name that it has in this one.
    action = replace(planned.action, label=label)
    planned = replace(planned, action=action)
    if last == action.definition_key:
        return ActionTrace(planned)
    old = read_definition(store, last) if last is not None else None
    if old is None:
        return ActionTrace(planned, known=False)
    found = changes(old, definition_of(action))
    follows = {
        change.path: labels[action.inputs[change.path]]
        for change in found
        if change.part == "inputs" and change.path in action.inputs
    }
    own = tuple(change for change in found if change.part != "inputs" or change.path not in action.inputs)
    return ActionTrace(planned, own, follows)
