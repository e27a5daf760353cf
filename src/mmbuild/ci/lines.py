"""Which lines of a variant's files are not what they were, and which actions each of them reaches.

As :mod:`mmbuild.changes.blame` does it for a build: each value is put back to what it was, alone, and the recipe is
lowered again. A line that changes no definition is free, also where others of the same recipe are not.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmbuild.ci.variants import Asked, Variant
from mmbuild.graph.action import Action, RecipeGraph
from mmbuild.graph.differences import ABSENT, different, flat
from mmbuild.graph.reasons import definition_of
from mmbuild.schema.load import with_node
from mmbuild.schema.nodes import Node, Span, drop
from mmbuild.schema.resolved import ResolvedRecipe
from mmbuild.schema.written import as_if, place, settings
from mmbuild.store.layout import Store

_MOST = 40
"""Values that are put back; of a recipe that was written anew each line is told and none tried."""


@dataclass(frozen=True, slots=True)
class Line:
    """A value that is written differently.

    Attributes:
        file: As seen from the project; of a value that is gone, the file that had it.
        line: From 1.
        key: Dotted key of the recipe.
        old: What was written, plain data, or :data:`~mmbuild.graph.differences.ABSENT`.
        new: What is written, or ``ABSENT``.
        reaches: Own definitions that it changes: step -> paths, ``part.path``. None where that is not known.
    """

    file: str
    line: int
    key: str
    old: Any
    new: Any
    reaches: Mapping[str, frozenset[str]] | None

    @property
    def free(self) -> bool:
        """Whether it is known to change no definition."""
        return self.reaches is not None and not self.reaches


@dataclass(frozen=True, slots=True)
class Side:
    """A variant with the directory that its files are seen from."""

    variant: Variant
    tree: Path

    @property
    def node(self) -> Node:
        assert self.variant.recipe.node is not None  # every recipe that was read from files has one
        return self.variant.recipe.node

    def where(self, span: Span) -> str:
        """The file of ``span`` as seen from the tree; as it is told where it lies elsewhere (``--set``)."""
        path = Path.cwd() / span.source.label
        return path.relative_to(self.tree).as_posix() if path.is_relative_to(self.tree) else span.source.label


def changed_lines(before: Side, after: Side, store: Store, asked: Asked) -> tuple[Line, ...]:
    """Values that the two say differently, by key."""
    changed = different(settings(before.node), settings(after.node))
    now = _own(after.variant.graph)
    return tuple(
        _line(key, pair, before, after, now if len(changed) <= _MOST else None, store, asked)
        for key, pair in changed.items()
    )


def _line(
    key: str,
    pair: tuple[Any, Any],
    before: Side,
    after: Side,
    now: Mapping[str, Mapping[str, Any]] | None,
    store: Store,
    asked: Asked,
) -> Line:
    old, new = pair
    side = before if new is ABSENT else after
    span = place(side.node, key) or side.node.span
    reaches = None
    if now is not None:
        back = drop(after.node, key.split(".")) if old is ABSENT else as_if(after.node, key, old)
        other = with_node(after.variant.recipe, back, offline=asked.offline)
        if other is not None:
            reaches = _reached(now, _own(_lower(other, store, asked)))
    return Line(side.where(span), span.line, key, old, new, reaches)


def _reached(
    now: Mapping[str, Mapping[str, Any]], other: Mapping[str, Mapping[str, Any]]
) -> dict[str, frozenset[str]]:
    paths = {step: frozenset(different(other.get(step, {}), leaves)) for step, leaves in now.items()}
    gone = {step: frozenset(leaves) for step, leaves in other.items() if step not in now}
    return {step: found for step, found in {**paths, **gone}.items() if found}


def _lower(recipe: ResolvedRecipe, store: Store, asked: Asked) -> RecipeGraph:
    """As it was planned: under its lock, where that is so."""
    from mmbuild.execute.prepare import lower_all
    from mmbuild.lock.model import lock_path, read_lock
    from mmbuild.pins import Pins, pinned

    path = lock_path(recipe.path)
    lock = read_lock(path) if asked.locked and path.exists() else None
    pins = pinned(Pins(lock.commits, lock.packages)) if lock is not None else nullcontext()
    with pins:
        target = lock.target if lock is not None else None
        return lower_all((recipe,), store, target=target, offline=asked.offline)[0]


def step_of(action: Action) -> str:
    """What an action is called within its variant."""
    return action.label.rpartition("/")[2]


def own(action: Action) -> dict[str, Any]:
    """A definition without its inputs, whose changes have causes of their own."""
    return {part: value for part, value in definition_of(action).items() if part != "inputs"}


def _own(graph: RecipeGraph) -> dict[str, dict[str, Any]]:
    return {step_of(action): flat(own(action)) for action in graph.actions}
