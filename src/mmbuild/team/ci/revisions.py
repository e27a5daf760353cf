"""Resolves the two states that ``mmbuild ci diff`` compares: revisions, the working tree, or directories."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

from mmbuild.base.diagnostics import RecipeError
from mmbuild.base.errors import UsageError
from mmbuild.core.store.layout import Store
from mmbuild.pipeline.options import PlanOptions
from mmbuild.pipeline.recipe_files import recipe_files
from mmbuild.team.ci.change_cost import Snapshot
from mmbuild.team.ci.variants import (
    CiError,
    plan_valid_variants,
    plan_variants,
)
from mmbuild.team.ci.worktrees import existing_files, repository, tree_of

WORKING_TREE = "working tree"


@contextmanager
def snapshots(
    given: Sequence[str], store: Store, request: PlanOptions
) -> Iterator[tuple[Snapshot, Snapshot]]:
    """Plan both states; their files exist inside the context.

    Args:
        given: ``REV`` (compared with the working tree), ``REV..REV``, ``REV...REV`` (from the merge base), or two
            directories.
        store: For the digests of files.
        request: Recipe files and directories: relative to the current directory for revisions, otherwise relative to
            each of the two directories; and how they are planned.

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
            _earlier(given[0], first, _files_in(first, request.paths), store, request),
            _later(given[1], second, _files_in(second, request.paths), store, request),
        )
        return
    if len(given) != 1:
        raise _cannot_compare(given)
    recipes, top = request.paths, repository(request.paths[0])
    before, after = _revisions(given[0], top)
    with ExitStack() as trees:
        old_tree = trees.enter_context(tree_of(before, top))
        earlier = _earlier(before, old_tree, existing_files(recipes, top, old_tree), store, request)
        if after is None:
            tree, files = top, recipe_files(recipes)
        else:
            tree = trees.enter_context(tree_of(after, top))
            files = existing_files(recipes, top, tree)
        yield earlier, _later(after or WORKING_TREE, tree, files, store, request)


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


def _earlier(name: str, tree: Path, files: tuple[Path, ...], store: Store, request: PlanOptions) -> Snapshot:
    return Snapshot(name, tree, plan_valid_variants(replace(request, paths=files), store))


def _later(name: str, tree: Path, files: tuple[Path, ...], store: Store, request: PlanOptions) -> Snapshot:
    """Plan the later state. Errors show paths relative to the tree, which may be a temporary directory."""
    try:
        return Snapshot(name, tree, plan_variants(replace(request, paths=files), store))
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
