"""The cost of a recipe change: variants that differ, the line or version responsible, and the actions to build."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmbuild.base.yaml_nodes import Span, YamlNode
from mmbuild.core.graph.action import Action, RecipeGraph
from mmbuild.core.graph.definition_diff import ABSENT, Change, changes, different
from mmbuild.core.graph.rebuild_reasons import definition_of
from mmbuild.core.store.layout import Store
from mmbuild.inspect.diff.blame import MOST, Reach, explains, leaves, reach, step_of
from mmbuild.pipeline.options import PlanOptions
from mmbuild.schema.explicit_values import explicit_values, span_of
from mmbuild.schema.resolved import ResolvedRecipe
from mmbuild.team.ci.jobs import union_of
from mmbuild.team.ci.variants import Variant, Variants
from mmbuild.team.ci.worktrees import Pair, State, pairs


@dataclass(frozen=True, slots=True)
class ChangedValue:
    """A recipe value that changed.

    Attributes:
        file: Path relative to the project; for a removed value, the file that had it.
        line: From 1.
        key: Dotted key of the recipe.
        old: Earlier value, plain data, or :data:`~mmbuild.core.graph.definition_diff.ABSENT`.
        new: Later value, or ``ABSENT``.
        reaches: Definitions of the variant that it changes: step -> paths, ``part.path``. None if unknown.
    """

    file: str
    line: int
    key: str
    old: Any
    new: Any
    reaches: Reach | None

    @property
    def free(self) -> bool:
        """Whether the value is known to change no definition."""
        return self.reaches is not None and not self.reaches


@dataclass(frozen=True, slots=True)
class Side:
    """A variant with the root directory of its files."""

    variant: Variant
    tree: Path

    @property
    def node(self) -> YamlNode:
        assert self.variant.recipe.node is not None  # every recipe read from a file has one
        return self.variant.recipe.node

    def where(self, span: Span) -> str:
        """Return the file of ``span`` relative to the tree; its label if it is not in the tree (``--set``)."""
        path = Path.cwd() / span.source.label
        return path.relative_to(self.tree).as_posix() if path.is_relative_to(self.tree) else span.source.label


def _changed_lines(before: Side, after: Side, store: Store, request: PlanOptions) -> tuple[ChangedValue, ...]:
    """Return the values that differ between the two sides, by key."""
    changed = different(explicit_values(before.node), explicit_values(after.node))
    now = leaves(after.variant.graph.actions)

    def lower(recipe: ResolvedRecipe) -> RecipeGraph:
        return _lower(recipe, store, request)

    lines = []
    for key, (old, new) in changed.items():
        side = before if new is ABSENT else after
        span = span_of(side.node, key) or side.node.span
        known = len(changed) <= MOST
        reaches = (
            reach(after.variant.recipe, key, old, now, lower, offline=request.offline) if known else None
        )
        lines.append(ChangedValue(side.where(span), span.line, key, old, new, reaches))
    return tuple(lines)


def _lower(recipe: ResolvedRecipe, store: Store, request: PlanOptions) -> RecipeGraph:
    """Lower a recipe in the way it was planned: with its lock, if it was locked."""
    from mmbuild.team.lockfile.apply import lower_locked
    from mmbuild.team.lockfile.model import lock_path, read_lock

    path = lock_path(recipe.path)
    lock = read_lock(path) if request.locked and path.exists() else None
    return lower_locked(recipe, store, lock, offline=request.offline)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A state of the recipes.

    Attributes:
        name: Name for display.
        tree: Root directory of its files.
        variants: Its planned variants.
    """

    name: str
    tree: Path
    variants: Variants


@dataclass(frozen=True, slots=True)
class VariantDifference:
    """A variant whose actions or files differ.

    Attributes:
        name: Name of the variant.
        state: ``same`` if only the recipe text changed, which costs nothing.
        file: Its recipe.
        lines: Changed values.
        reasons: Other changes in its actions' definitions: versions, targets, sources.
        build: Actions that no variant of the earlier state has.
        keep: Actions that some variant of the earlier state has.
    """

    name: str
    state: State
    file: str
    lines: tuple[ChangedValue, ...] = ()
    reasons: tuple[str, ...] = ()
    build: tuple[Action, ...] = ()
    keep: tuple[Action, ...] = ()


@dataclass(frozen=True, slots=True)
class Differences:
    """All differences between two states.

    Attributes:
        before: Name of the earlier state.
        after: Name of the later state.
        variants: Variants of both states with any difference.
        unchanged: Number of variants without a difference.
        build: Distinct actions to build for all of them.
        keep: Distinct actions that both states have.
        only_text: Files in which only comments, the order of keys or similar changed.
        faults: Why recipes of the earlier state could not be planned, by file.
    """

    before: str
    after: str
    variants: tuple[VariantDifference, ...]
    unchanged: int
    build: tuple[Action, ...]
    keep: tuple[Action, ...]
    only_text: tuple[str, ...]
    faults: Mapping[str, str]


def differences(before: Snapshot, after: Snapshot, store: Store, request: PlanOptions) -> Differences:
    """Compare two states of the same recipes."""
    known = {action.definition_key for variant in before.variants.planned for action in variant.graph.actions}
    compared = [
        _difference(pair, before.tree, after.tree, known, store, request)
        for pair in pairs(before.variants, after.variants)
    ]
    union = union_of([variant.graph for variant in after.variants.planned])
    reported = tuple(variant for variant in compared if variant.state != "same" or variant.lines)
    cited = {line.file for variant in compared for line in variant.lines}
    return Differences(
        before.name,
        after.name,
        reported,
        len(compared) - len(reported),
        tuple(action for key, action in union.actions.items() if key not in known),
        tuple(action for key, action in union.actions.items() if key in known),
        tuple(file for file in _changed_files(before, after) if file not in cited),
        {_relative(Path(name), before.tree): reason for name, reason in before.variants.faults.items()},
    )


def _difference(
    pair: Pair, before: Path, after: Path, known: set[str], store: Store, request: PlanOptions
) -> VariantDifference:
    if pair.after is None:
        assert pair.before is not None
        return VariantDifference(pair.name, pair.state, _relative(pair.before.file, before))
    actions = pair.after.graph.actions
    lines: tuple[ChangedValue, ...] = ()
    reasons: tuple[str, ...] = ()
    if pair.before is not None:
        lines = _changed_lines(Side(pair.before, before), Side(pair.after, after), store, request)
        reasons = _reasons(pair, lines)
    return VariantDifference(
        pair.name,
        pair.state,
        _relative(pair.after.file, after),
        lines,
        reasons,
        tuple(action for action in actions if action.definition_key not in known),
        tuple(action for action in actions if action.definition_key in known),
    )


def _reasons(pair: Pair, lines: Sequence[ChangedValue]) -> tuple[str, ...]:
    """Return the distinct changes of definitions that no changed line explains."""
    assert pair.before is not None
    assert pair.after is not None
    earlier = {step_of(action.label): action for action in pair.before.graph.actions}
    reasons: dict[str, None] = {}
    for action in pair.after.graph.actions:
        step = step_of(action.label)
        if step not in earlier or earlier[step].definition_key == action.definition_key:
            continue
        for change in changes(definition_of(earlier[step]), definition_of(action)):
            # A line whose effect is not known may explain any change.
            explained = (line.reaches is None or explains(line.reaches, step, change) for line in lines)
            if change.part != "inputs" and not any(explained):
                reasons[_describe(change, action)] = None
    return tuple(reasons)


def _describe(change: Change, action: Action) -> str:
    locator = action.locators.get(change.path) if change.part == "sources" else None
    return f"{change.text} ({Path(locator).name})" if locator else change.text


def _changed_files(before: Snapshot, after: Snapshot) -> list[str]:
    then = {_relative(path, before.tree): path for path in before.variants.files}
    now = {_relative(path, after.tree): path for path in after.variants.files}
    return sorted(
        name
        for name in then.keys() & now.keys()
        if name.endswith((".yaml", ".yml")) and then[name].read_bytes() != now[name].read_bytes()
    )


def _relative(path: Path, tree: Path) -> str:
    absolute = path.absolute()
    return absolute.relative_to(tree).as_posix() if absolute.is_relative_to(tree) else str(path)
