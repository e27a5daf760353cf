"""Checks out git revisions into temporary directories, and compares the variants of two states."""

from __future__ import annotations

import subprocess
import tarfile
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from mmbuild.core.graph.action import RecipeGraph
from mmbuild.core.store.layout import Store
from mmbuild.pipeline.options import PlanOptions
from mmbuild.pipeline.recipe_files import NoRecipesError, recipe_files
from mmbuild.team.ci.variants import (
    CiError,
    Variant,
    Variants,
    plan_valid_variants,
)

_TOP = ("rev-parse", "--show-toplevel")
_DEEPER = (
    "fetch more history: `fetch-depth: 0` for actions/checkout, `GIT_DEPTH: 0` in GitLab, "
    "or `git fetch --unshallow`"
)


def repository(near: Path) -> Path:
    """Return the top directory of the git repository that contains ``near``.

    Raises:
        CiError: MM812, there is no repository, or git is not installed.
    """
    directory = near if near.is_dir() else near.parent
    try:
        process = _git(directory, *_TOP)
    except OSError as error:
        raise CiError(
            f"git cannot be run: {error.strerror}",
            code="MM812",
            hint="install git, or compare two directories: `mmbuild ci diff TREE TREE`",
        ) from error
    if process.returncode:
        raise CiError(
            f"`{directory}` is not in a git repository: {_last_line(process.stderr)}",
            code="MM812",
            hint="run it in a clone, or compare two directories: `mmbuild ci diff TREE TREE`",
        )
    return Path(process.stdout.decode().strip())


@contextmanager
def tree_of(revision: str, top: Path) -> Iterator[Path]:
    """Check out the files of a revision into a temporary directory, which counts as a project root.

    Links that lead outside the tree are left out.

    Raises:
        CiError: MM811, the clone has no such revision; MM812, git fails.
    """
    commit = _commit(revision, top)
    with tempfile.TemporaryDirectory(prefix="mmbuild-tree-") as name:
        tree = Path(name)
        with subprocess.Popen(
            ["git", "-C", str(top), "archive", "--format=tar", commit],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        ) as process:
            assert process.stdout is not None
            assert process.stderr is not None
            with tarfile.open(fileobj=process.stdout, mode="r|") as archive:
                archive.extractall(tree, filter=_without_links_outside)
            text = process.stderr.read()
        if process.returncode:
            raise CiError(
                f"git cannot export {revision}: {_last_line(text)}",
                code="MM812",
                hint="run `git fsck` to check whether the clone is complete",
            )
        (tree / ".git").mkdir(exist_ok=True)  # marks the project root; paths may lead anywhere below it
        yield tree


def _path_in_worktree(path: Path, top: Path, tree: Path) -> Path:
    """Map ``path`` in the repository ``top`` to the same path in ``tree``.

    Raises:
        CiError: MM812, the path is outside the repository.
    """
    try:
        return tree / path.resolve().relative_to(top.resolve())
    except ValueError:
        raise CiError(
            f"`{path}` is outside the repository {top}",
            code="MM812",
            hint="name recipes in one repository",
        ) from None


def existing_files(paths: Sequence[Path], top: Path, tree: Path) -> tuple[Path, ...]:
    """Return the recipe files that exist for ``paths`` in another state of the repository."""
    files: list[Path] = []
    for path in [_path_in_worktree(path, top, tree) for path in paths]:
        try:
            files += recipe_files([path]) if path.exists() else ()
        except NoRecipesError:  # a directory without recipes in that state
            continue
    return tuple(dict.fromkeys(files))


def _commit(revision: str, top: Path) -> str:
    process = _git(top, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{revision}^{{commit}}")
    if process.returncode == 0:
        return process.stdout.decode().strip()
    shallow = _git(top, "rev-parse", "--is-shallow-repository").stdout.strip() == b"true"
    raise CiError(
        f"this {'shallow ' if shallow else ''}clone has no revision `{revision}`",
        code="MM811",
        hint=_DEEPER if shallow else "try `git fetch origin`; `git branch -a` lists existing branches",
    )


def _without_links_outside(member: tarfile.TarInfo, directory: str) -> tarfile.TarInfo | None:
    try:
        return tarfile.data_filter(member, directory)
    except tarfile.FilterError:
        return None


def _git(directory: Path, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(["git", "-C", str(directory), *arguments], capture_output=True, check=False)


def _last_line(text: bytes) -> str:
    lines = text.decode(errors="replace").strip().splitlines()
    return lines[-1] if lines else "no reason given"


State = Literal["new", "gone", "changed", "same"]


@dataclass(frozen=True, slots=True)
class Pair:
    """A variant in two states.

    Attributes:
        name: Name of the variant in both.
        state: ``same`` if all definition keys are equal.
        before: None if it is new.
        after: None if it is gone.
    """

    name: str
    state: State
    before: Variant | None
    after: Variant | None


def pairs(before: Variants, after: Variants) -> tuple[Pair, ...]:
    """Match variants by name: those in the later state, then those that are gone."""
    then, now = before.by_name(), after.by_name()
    current = [_pair(name, then.get(name), variant) for name, variant in now.items()]
    return (
        *current,
        *(Pair(name, "gone", variant, None) for name, variant in then.items() if name not in now),
    )


def changed_since(revision: str, now: Variants, store: Store, request: PlanOptions) -> frozenset[str]:
    """Return the names of variants in ``now`` that are new or changed since ``revision``.

    The recipes of that revision are planned by this mmbuild, with the files they name if those are in git. A recipe
    that cannot be planned counts as changed.

    Raises:
        CiError: MM811, MM812.
    """
    top = repository(request.paths[0])
    with tree_of(revision, top) as tree:
        before = plan_valid_variants(replace(request, paths=existing_files(request.paths, top, tree)), store)
    return frozenset(pair.name for pair in pairs(before, now) if pair.state in ("new", "changed"))


def _pair(name: str, before: Variant | None, after: Variant) -> Pair:
    if before is None:
        return Pair(name, "new", None, after)
    return Pair(name, "same" if _keys(before.graph) == _keys(after.graph) else "changed", before, after)


def _keys(graph: RecipeGraph) -> tuple[str, frozenset[str]]:
    return graph.engine, frozenset(action.definition_key for action in graph.actions)
