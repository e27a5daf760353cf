"""What a change of recipes costs: variants that differ, by which line or version, and the actions to build for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmbuild.base.yaml_nodes import Span, YamlNode
from mmbuild.core.graph.action import Action, RecipeGraph
from mmbuild.core.graph.differences import ABSENT, Change, changes, different
from mmbuild.core.graph.rebuild_reasons import definition_of
from mmbuild.core.store.layout import Store
from mmbuild.inspect.diff.blame import MOST, Reach, explains, leaves, reach, step_of
from mmbuild.schema.explicit_values import explicit_values, span_of
from mmbuild.schema.resolved import ResolvedRecipe
from mmbuild.team.ci.jobs import union_of
from mmbuild.team.ci.variants import Variant, VariantOptions, Variants
from mmbuild.team.ci.worktrees import Pair, State, pairs


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


def changed_lines(
    before: Side, after: Side, store: Store, options: VariantOptions
) -> tuple[ChangedValue, ...]:
    """Values that the two say differently, by key."""
    changed = different(explicit_values(before.node), explicit_values(after.node))
    now = leaves(after.variant.graph.actions)

    def lower(recipe: ResolvedRecipe) -> RecipeGraph:
        return _lower(recipe, store, options)

    lines = []
    for key, (old, new) in changed.items():
        side = before if new is ABSENT else after
        span = span_of(side.node, key) or side.node.span
        known = len(changed) <= MOST
        reaches = (
            reach(after.variant.recipe, key, old, now, lower, offline=options.offline) if known else None
        )
        lines.append(ChangedValue(side.where(span), span.line, key, old, new, reaches))
    return tuple(lines)


def _lower(recipe: ResolvedRecipe, store: Store, options: VariantOptions) -> RecipeGraph:
    """As it was planned: under its lock, where that is so."""
    from mmbuild.base.pins import Pins, use_pins
    from mmbuild.pipeline.planning import lower_all
    from mmbuild.team.lockfile.model import lock_path, read_lock

    path = lock_path(recipe.path)
    lock = read_lock(path) if options.locked and path.exists() else None
    pins = use_pins(Pins(lock.commits, lock.packages)) if lock is not None else nullcontext()
    with pins:
        target = lock.target if lock is not None else None
        return lower_all((recipe,), store, target=target, offline=options.offline)[0]


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One of the two states.

    Attributes:
        name: What it is called.
        tree: The directory that files are seen from.
        variants: What its recipes are.
    """

    name: str
    tree: Path
    variants: Variants


@dataclass(frozen=True, slots=True)
class VariantDifference:
    """A variant that is not the same, or whose files are not.

    Attributes:
        name: Of the variant.
        state: ``same`` where only what is written changed, which costs nothing.
        file: Its recipe.
        lines: Values that are written differently.
        reasons: What else its actions' definitions have differently: versions, targets, sources.
        build: Actions that the earlier state did not have, in any of its variants.
        keep: Actions that it had.
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
    """Everything.

    Attributes:
        before: Name of the earlier state.
        after: Name of the later one.
        variants: Of both states, those that differ in anything.
        unchanged: How many differ in nothing.
        build: Distinct actions to build for all of them.
        keep: Distinct actions that both states have.
        only_text: Files with other comments, other order of keys or the like, and nothing else.
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


def differences(before: Snapshot, after: Snapshot, store: Store, options: VariantOptions) -> Differences:
    """Compare two states of the same recipes."""
    known = {action.definition_key for variant in before.variants.planned for action in variant.graph.actions}
    found = [
        _difference(pair, before.tree, after.tree, known, store, options)
        for pair in pairs(before.variants, after.variants)
    ]
    union = union_of([variant.graph for variant in after.variants.planned])
    reported = tuple(one for one in found if one.state != "same" or one.lines)
    cited = {line.file for one in found for line in one.lines}
    return Differences(
        before.name,
        after.name,
        reported,
        len(found) - len(reported),
        tuple(action for key, action in union.actions.items() if key not in known),
        tuple(action for key, action in union.actions.items() if key in known),
        tuple(file for file in _changed_files(before, after) if file not in cited),
        {_seen(Path(name), before.tree): why for name, why in before.variants.faults.items()},
    )


def _difference(
    pair: Pair, before: Path, after: Path, known: set[str], store: Store, options: VariantOptions
) -> VariantDifference:
    if pair.after is None:
        assert pair.before is not None
        return VariantDifference(pair.name, pair.state, _seen(pair.before.file, before))
    actions = pair.after.graph.actions
    lines: tuple[ChangedValue, ...] = ()
    reasons: tuple[str, ...] = ()
    if pair.before is not None:
        lines = changed_lines(Side(pair.before, before), Side(pair.after, after), store, options)
        reasons = _reasons(pair, lines)
    return VariantDifference(
        pair.name,
        pair.state,
        _seen(pair.after.file, after),
        lines,
        reasons,
        tuple(action for action in actions if action.definition_key not in known),
        tuple(action for action in actions if action.definition_key in known),
    )


def _reasons(pair: Pair, lines: Sequence[ChangedValue]) -> tuple[str, ...]:
    """Changes of definitions that come from no line, each once."""
    assert pair.before is not None
    assert pair.after is not None
    earlier = {step_of(action.label): action for action in pair.before.graph.actions}
    found: dict[str, None] = {}
    for action in pair.after.graph.actions:
        step = step_of(action.label)
        if step not in earlier or earlier[step].definition_key == action.definition_key:
            continue
        for change in changes(definition_of(earlier[step]), definition_of(action)):
            # A line that could not be put back alone may be behind everything.
            behind = (line.reaches is None or explains(line.reaches, step, change) for line in lines)
            if change.part != "inputs" and not any(behind):
                found[_describe(change, action)] = None
    return tuple(found)


def _describe(change: Change, action: Action) -> str:
    place = action.locators.get(change.path) if change.part == "sources" else None
    return f"{change.text} ({Path(place).name})" if place else change.text


def _changed_files(before: Snapshot, after: Snapshot) -> list[str]:
    then = {_seen(path, before.tree): path for path in before.variants.files}
    now = {_seen(path, after.tree): path for path in after.variants.files}
    return sorted(
        name
        for name in then.keys() & now.keys()
        if name.endswith((".yaml", ".yml")) and then[name].read_bytes() != now[name].read_bytes()
    )


def _seen(path: Path, tree: Path) -> str:
    absolute = path.absolute()
    return absolute.relative_to(tree).as_posix() if absolute.is_relative_to(tree) else str(path)
