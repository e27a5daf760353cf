"""Explains why actions run, or last ran: what changed in their definitions or in those of their producers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from mmbuild.core.graph.definition_diff import Change, changes
from mmbuild.core.graph.plan import Build, PlannedAction
from mmbuild.core.graph.rebuild_reasons import definition_of, read_definition
from mmbuild.core.store.layout import Store
from mmbuild.core.store.named_builds import Root


@dataclass(frozen=True, slots=True)
class ActionTrace:
    """One action of a build, and what changed in it.

    Attributes:
        planned: The action with its verdict and the plan's reason.
        own: Changes in its definition, apart from inputs.
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
    """All actions of one build, compared with the previous content of its directory.

    Attributes:
        recipe: Name of the variant.
        actions: The actions, producers first.
        settings: Earlier values in the recipe files, by dotted key; empty if they were not recorded.
        at: When the engine was last installed, in seconds since the epoch; 0 if unknown.
        since: The same for the build it is compared with.
        past: Whether this explains the last rebuild, because there is nothing to do now.
    """

    recipe: str
    actions: tuple[ActionTrace, ...]
    settings: Mapping[str, Any]
    at: float
    since: float
    past: bool

    def causes(self) -> list[ActionTrace]:
        """Actions that changed by themselves, not only because of their inputs."""
        return [item for item in self.actions if item.own or not item.known]

    def led_to(self, label: str) -> list[str]:
        """Labels of the changed actions that follow ``label``, directly or not, producers first."""
        reached = {label}
        for item in self.actions:
            if reached & set(item.follows.values()):
                reached.add(item.label)
        return [item.label for item in self.actions if item.label in reached and item.label != label]


def trace(build: Build, planned: Mapping[str, PlannedAction], root: Root | None, store: Store) -> Trace:
    """Compare ``build`` with the content of its directory or, if that is up to date, with the previous content.

    Args:
        build: A build of a plan.
        planned: The actions of the plan by definition key.
        root: The store's record of the directory.
        store: Contains the earlier definitions.
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
        if earlier or not past  # nothing to compare the first build with
    )
    at = root.at if root is not None else 0.0
    return Trace(build.recipe, actions, before.get("settings", {}), at, before.get("at", 0.0), past)


def _as_before(root: Root) -> Mapping[str, Any]:
    return {"definitions": root.definitions, "settings": root.settings, "at": root.at}


def _traced(
    planned: PlannedAction, label: str, last: str | None, labels: Mapping[str, str], store: Store
) -> ActionTrace:
    # A shared action is reported under its label in this variant.
    action = replace(planned.action, label=label)
    planned = replace(planned, action=action)
    if last == action.definition_key:
        return ActionTrace(planned)
    old = read_definition(store, last) if last is not None else None
    if old is None:
        return ActionTrace(planned, known=False)
    differences = changes(old, definition_of(action))
    follows = {
        change.path: labels[action.inputs[change.path]]
        for change in differences
        if change.part == "inputs" and change.path in action.inputs
    }
    own = tuple(
        change for change in differences if change.part != "inputs" or change.path not in action.inputs
    )
    return ActionTrace(planned, own, follows)
