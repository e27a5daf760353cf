"""Resolves the two states that ``mmbuild matrix-diff`` compares: revisions, the working tree, or directories."""

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
    """Plan both states; their files exist inside the context.

    Args:
        given: ``REV`` (compared with the working tree), ``REV..REV``, ``REV...REV`` (from the merge base), or two
            directories.
        recipes: Recipe files and directories: relative to the current directory for revisions, otherwise relative to
            each of the two directories.
        store: For the digests of files.
        options: How recipes are planned.

    Raises:
        UsageError: MM817, ``given`` is none of these.
        CiError: MM810 to MM812.
        RecipeError: Recipes of the later state have errors.
    """
    if len(given) == 2:
        directories = [Path(name).absolute() for name in given]
        if not all(tree.is_dir() for tree in directories):
            raise _cannot_compare(given)
        first, second = directories
        yield (
            Snapshot(given[0], first, plan_valid_variants(_files_in(first, recipes), store, options)),
            Snapshot(given[1], second, _plan_later(_files_in(second, recipes), second, store, options)),
        )
        return
    if len(given) != 1:
        raise _cannot_compare(given)
    top = repository(recipes[0])
    before, after = _revisions(given[0], top)
    with ExitStack() as trees:
        old_tree = trees.enter_context(tree_of(before, top))
        earlier = plan_valid_variants(existing_files(recipes, top, old_tree), store, options)
        if after is None:
            tree, files = top, recipe_files(recipes)
        else:
            tree = trees.enter_context(tree_of(after, top))
            files = existing_files(recipes, top, tree)
        later = _plan_later(files, tree, store, options)
        yield Snapshot(before, old_tree, earlier), Snapshot(after or WORKING_TREE, tree, later)


def _revisions(text: str, top: Path) -> tuple[str, str | None]:
    """Return the earlier and the later revision; None for the working tree."""
    separator = "..." if "..." in text else ".."
    before, separator, after = text.partition(separator)
    if not before:
        raise _cannot_compare([text])
    if separator != "...":
        return before, after or None
    process = subprocess.run(
        ["git", "-C", str(top), "merge-base", "--end-of-options", before, after or "HEAD"],
        capture_output=True,
        text=True,
        check=False,
    )
    if process.returncode:
        raise CiError(
            f"`{text}`: this clone does not have the merge base of the two revisions",
            code="MM811",
            hint="fetch the history (`fetch-depth: 0` for actions/checkout), or name two revisions: `REV..REV`",
        )
    return process.stdout.strip(), after or None


def _files_in(tree: Path, recipes: Sequence[Path]) -> tuple[Path, ...]:
    """Return the existing ``recipes`` in a tree; if there are none, the tree itself is a directory of recipes."""
    existing = [tree / path for path in recipes if (tree / path).exists()]
    return recipe_files(existing or [tree])


def _plan_later(files: Sequence[Path], tree: Path, store: Store, options: VariantOptions) -> Variants:
    """Plan the later state. Errors show paths relative to the tree, which may be a temporary directory."""
    try:
        return plan_variants(files, store, options)
    except RecipeError as error:
        raise RecipeError(
            [replace(item, file=item.file.removeprefix(f"{tree}/")) for item in error.diagnostics]
        ) from None


def _cannot_compare(given: Sequence[str]) -> UsageError:
    return UsageError(
        f"cannot compare `{' '.join(given)}`: expected REV, REV..REV, REV...REV, or two directories",
        code="MM817",
        hint="a single REV is compared with the working tree",
    )
