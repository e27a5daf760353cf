"""The two states that ``mmbuild matrix-diff`` is told to compare: revisions, the working tree, or directories."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

from mmbuild.base.diagnostics import RecipeError
from mmbuild.base.errors import UsageError
from mmbuild.core.store.layout import Store
from mmbuild.team.ci.differences import Snapshot
from mmbuild.team.ci.variants import (
    CiError,
    VariantOptions,
    Variants,
    plan_valid_variants,
    plan_variants,
    recipe_files,
)
from mmbuild.team.ci.worktrees import existing_files, repository, tree_of

WORKING_TREE = "working tree"


@contextmanager
def snapshots(
    given: Sequence[str], recipes: Sequence[Path], store: Store, options: VariantOptions
) -> Iterator[tuple[Snapshot, Snapshot]]:
    """Plan both states; their files are there inside of the context.

    Args:
        given: ``REV`` (against the working tree), ``REV..REV``, ``REV...REV`` (from where they parted), or two
            directories.
        recipes: Recipe files and directories: of revisions as seen from here, of two directories as seen from each.
        store: For the digests of files.
        options: How recipes are planned.

    Raises:
        UsageError: MM817, ``given`` is none of these.
        CiError: MM810 to MM812.
        RecipeError: Recipes of the later state have errors.
    """
    if len(given) == 2:
        with_trees = [Path(name).absolute() for name in given]
        if not all(tree.is_dir() for tree in with_trees):
            raise _unusable(given)
        one, other = with_trees
        yield (
            Snapshot(given[0], one, plan_valid_variants(_files_below(one, recipes), store, options)),
            Snapshot(given[1], other, _strict(_files_below(other, recipes), other, store, options)),
        )
        return
    if len(given) != 1:
        raise _unusable(given)
    top = repository(recipes[0])
    before, after = _revisions(given[0], top)
    with ExitStack() as trees:
        old = trees.enter_context(tree_of(before, top))
        known = plan_valid_variants(existing_files(recipes, top, old), store, options)
        if after is None:
            place, files = top, recipe_files(recipes)
        else:
            place = trees.enter_context(tree_of(after, top))
            files = existing_files(recipes, top, place)
        now = _strict(files, place, store, options)
        yield Snapshot(before, old, known), Snapshot(after or WORKING_TREE, place, now)


def _revisions(text: str, top: Path) -> tuple[str, str | None]:
    """Earlier and later revision; None is the working tree."""
    mark = "..." if "..." in text else ".."
    before, found, after = text.partition(mark)
    if not before:
        raise _unusable([text])
    if found != "...":
        return before, after or None
    done = subprocess.run(
        ["git", "-C", str(top), "merge-base", "--end-of-options", before, after or "HEAD"],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise CiError(
            f"`{text}`: this clone does not have the commit where the two parted",
            code="MM811",
            hint="Fetch the history (`fetch-depth: 0` of actions/checkout), or name two revisions: `REV..REV`",
        )
    return done.stdout.strip(), after or None


def _files_below(tree: Path, recipes: Sequence[Path]) -> tuple[Path, ...]:
    """In a tree that lacks all of ``recipes``, the files right in it: it is a directory of recipes itself."""
    there = [tree / path for path in recipes if (tree / path).exists()]
    return recipe_files(there or [tree])


def _strict(files: Sequence[Path], tree: Path, store: Store, options: VariantOptions) -> Variants:
    """Findings are told as seen from the tree, which may be a temporary directory."""
    try:
        return plan_variants(files, store, options)
    except RecipeError as error:
        raise RecipeError(
            [replace(item, file=item.file.removeprefix(f"{tree}/")) for item in error.diagnostics]
        ) from None


def _unusable(given: Sequence[str]) -> UsageError:
    return UsageError(
        f"`{' '.join(given)}` names no two states of recipes",
        code="MM817",
        hint="Write REV (against the working tree), REV..REV, REV...REV, or two directories",
    )
