"""Which lines of a variant's files are not what they were, and which actions each of them reaches.

As ``mmbuild why`` finds them for a build (:mod:`mmbuild.inspect.diff.blame`). A line that changes no definition is
free, also where others of the same recipe are not.
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmbuild.base.yaml_nodes import Span, YamlNode
from mmbuild.core.graph.action import RecipeGraph
from mmbuild.core.graph.differences import ABSENT, different
from mmbuild.core.store.layout import Store
from mmbuild.inspect.diff.blame import MOST, Reach, leaves, reach
from mmbuild.schema.explicit_values import explicit_values, span_of
from mmbuild.schema.resolved import ResolvedRecipe
from mmbuild.team.ci.variants import Variant, VariantOptions


@dataclass(frozen=True, slots=True)
class ChangedValue:
    """A value that is written differently.

    Attributes:
        file: As seen from the project; of a value that is gone, the file that had it.
        line: From 1.
        key: Dotted key of the recipe.
        old: What was written, plain data, or :data:`~mmbuild.core.graph.differences.ABSENT`.
        new: What is written, or ``ABSENT``.
        reaches: Own definitions that it changes: step -> paths, ``part.path``. None where that is not known.
    """

    file: str
    line: int
    key: str
    old: Any
    new: Any
    reaches: Reach | None

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
    def node(self) -> YamlNode:
        assert self.variant.recipe.node is not None  # every recipe that was read from files has one
        return self.variant.recipe.node

    def where(self, span: Span) -> str:
        """The file of ``span`` as seen from the tree; as it is told where it lies elsewhere (``--set``)."""
        path = Path.cwd() / span.source.label
        return path.relative_to(self.tree).as_posix() if path.is_relative_to(self.tree) else span.source.label


def changed_lines(before: Side, after: Side, store: Store, asked: VariantOptions) -> tuple[ChangedValue, ...]:
    """Values that the two say differently, by key."""
    changed = different(explicit_values(before.node), explicit_values(after.node))
    now = leaves(after.variant.graph.actions)

    def lower(recipe: ResolvedRecipe) -> RecipeGraph:
        return _lower(recipe, store, asked)

    lines = []
    for key, (old, new) in changed.items():
        side = before if new is ABSENT else after
        span = span_of(side.node, key) or side.node.span
        known = len(changed) <= MOST
        reaches = reach(after.variant.recipe, key, old, now, lower, offline=asked.offline) if known else None
        lines.append(ChangedValue(side.where(span), span.line, key, old, new, reaches))
    return tuple(lines)


def _lower(recipe: ResolvedRecipe, store: Store, asked: VariantOptions) -> RecipeGraph:
    """As it was planned: under its lock, where that is so."""
    from mmbuild.base.pins import Pins, use_pins
    from mmbuild.pipeline.planning import lower_all
    from mmbuild.team.lockfile.model import lock_path, read_lock

    path = lock_path(recipe.path)
    lock = read_lock(path) if asked.locked and path.exists() else None
    pins = use_pins(Pins(lock.commits, lock.packages)) if lock is not None else nullcontext()
    with pins:
        target = lock.target if lock is not None else None
        return lower_all((recipe,), store, target=target, offline=asked.offline)[0]
