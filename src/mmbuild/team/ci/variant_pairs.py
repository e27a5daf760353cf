"""Which variants two states of the recipes do not have in common."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from mmbuild.core.graph.action import RecipeGraph
from mmbuild.core.store.layout import Store
from mmbuild.team.ci.variants import Variant, VariantOptions, Variants, plan_valid_variants
from mmbuild.team.ci.worktrees import existing_files, repository, tree_of

State = Literal["new", "gone", "changed", "same"]


@dataclass(frozen=True, slots=True)
class Pair:
    """A variant in two states.

    Attributes:
        name: Of the variant, in both.
        state: ``same`` where all definition keys are.
        before: None where it is new.
        after: None where it is gone.
    """

    name: str
    state: State
    before: Variant | None
    after: Variant | None


def pairs(before: Variants, after: Variants) -> tuple[Pair, ...]:
    """Variants by name: those that are there now, then those that are gone."""
    then, now = before.by_name(), after.by_name()
    found = [_pair(name, then.get(name), variant) for name, variant in now.items()]
    return (*found, *(Pair(name, "gone", variant, None) for name, variant in then.items() if name not in now))


def changed_since(
    revision: str, paths: Sequence[Path], now: Variants, store: Store, asked: VariantOptions
) -> frozenset[str]:
    """Names of the variants of ``now`` that are new or changed since ``revision``.

    The recipes of that revision are planned by this mmbuild with everything they name, as far as it is in git. One
    that could not be planned counts as changed.

    Raises:
        CiError: MM811, MM812.
    """
    top = repository(paths[0])
    with tree_of(revision, top) as tree:
        before = plan_valid_variants(existing_files(paths, top, tree), store, asked)
    return frozenset(pair.name for pair in pairs(before, now) if pair.state in ("new", "changed"))


def _pair(name: str, before: Variant | None, after: Variant) -> Pair:
    if before is None:
        return Pair(name, "new", None, after)
    return Pair(name, "same" if _keys(before.graph) == _keys(after.graph) else "changed", before, after)


def _keys(graph: RecipeGraph) -> tuple[str, frozenset[str]]:
    return graph.engine, frozenset(action.definition_key for action in graph.actions)
