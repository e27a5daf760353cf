"""Two states of a repository side by side: revisions of git as directories of their own."""

from __future__ import annotations

import subprocess
import tarfile
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from mmbuild.core.graph.action import RecipeGraph
from mmbuild.core.store.layout import Store
from mmbuild.team.ci.variants import (
    CiError,
    Variant,
    VariantOptions,
    Variants,
    plan_valid_variants,
    recipe_files,
)

_TOP = ("rev-parse", "--show-toplevel")
_DEEPER = (
    "Fetch more history: actions/checkout `fetch-depth: 0`, `GIT_DEPTH: 0` in GitLab, `git fetch --unshallow`"
)


def repository(near: Path) -> Path:
    """The top of the git repository that ``near`` lies in.

    Raises:
        CiError: MM812, there is none, or no git.
    """
    directory = near if near.is_dir() else near.parent
    try:
        done = _git(directory, *_TOP)
    except OSError as error:
        raise CiError(
            f"git cannot be run: {error.strerror}",
            code="MM812",
            hint="Install git, or compare two directories: `mmbuild matrix-diff TREE TREE`",
        ) from error
    if done.returncode:
        raise CiError(
            f"`{directory}` is in no git repository: {_last_line(done.stderr)}",
            code="MM812",
            hint="Run it in a clone, or compare two directories: `mmbuild matrix-diff TREE TREE`",
        )
    return Path(done.stdout.decode().strip())


@contextmanager
def tree_of(revision: str, top: Path) -> Iterator[Path]:
    """The files of a revision in a temporary directory, which counts as a project's root.

    Links that lead out of the tree are left out.

    Raises:
        CiError: MM811, the clone has no such revision; MM812, git fails.
    """
    commit = _commit(revision, top)
    with tempfile.TemporaryDirectory(prefix="mmbuild-tree-") as name:
        place = Path(name)
        with subprocess.Popen(
            ["git", "-C", str(top), "archive", "--format=tar", commit],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        ) as process:
            assert process.stdout is not None
            assert process.stderr is not None
            with tarfile.open(fileobj=process.stdout, mode="r|") as archive:
                archive.extractall(place, filter=_within)
            text = process.stderr.read().decode(errors="replace")
        if process.returncode:
            raise CiError(
                f"git cannot give out {revision}: {_last_line(text.encode())}",
                code="MM812",
                hint="`git fsck` says whether the clone is whole",
            )
        (place / ".git").mkdir(exist_ok=True)  # what marks a project's root; paths may lead anywhere below
        yield place


def path_in_worktree(path: Path, top: Path, tree: Path) -> Path:
    """Where in ``tree`` that is which lies at ``path`` below ``top``.

    Raises:
        CiError: MM812, it lies elsewhere.
    """
    try:
        return tree / path.resolve().relative_to(top.resolve())
    except ValueError:
        raise CiError(
            f"`{path}` lies outside of the repository {top}",
            code="MM812",
            hint="Name recipes of one repository",
        ) from None


def existing_files(paths: Sequence[Path], top: Path, tree: Path) -> tuple[Path, ...]:
    """The recipe files that ``paths`` stand for in another state of the repository; what is not there is left out."""
    there = [path_in_worktree(path, top, tree) for path in paths]
    found: list[Path] = []
    for path in there:
        try:
            found += recipe_files([path]) if path.exists() else ()
        except CiError:  # a directory that held no recipe then
            continue
    return tuple(dict.fromkeys(found))


def _commit(revision: str, top: Path) -> str:
    done = _git(top, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{revision}^{{commit}}")
    if done.returncode == 0:
        return done.stdout.decode().strip()
    shallow = _git(top, "rev-parse", "--is-shallow-repository").stdout.strip() == b"true"
    raise CiError(
        f"this {'shallow ' if shallow else ''}clone has no revision `{revision}`",
        code="MM811",
        hint=_DEEPER if shallow else "`git fetch origin` may bring it; `git branch -a` lists what is there",
    )


def _within(member: tarfile.TarInfo, place: str) -> tarfile.TarInfo | None:
    try:
        return tarfile.data_filter(member, place)
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
    revision: str, paths: Sequence[Path], now: Variants, store: Store, options: VariantOptions
) -> frozenset[str]:
    """Names of the variants of ``now`` that are new or changed since ``revision``.

    The recipes of that revision are planned by this mmbuild with everything they name, as far as it is in git. One
    that could not be planned counts as changed.

    Raises:
        CiError: MM811, MM812.
    """
    top = repository(paths[0])
    with tree_of(revision, top) as tree:
        before = plan_valid_variants(existing_files(paths, top, tree), store, options)
    return frozenset(pair.name for pair in pairs(before, now) if pair.state in ("new", "changed"))


def _pair(name: str, before: Variant | None, after: Variant) -> Pair:
    if before is None:
        return Pair(name, "new", None, after)
    return Pair(name, "same" if _keys(before.graph) == _keys(after.graph) else "changed", before, after)


def _keys(graph: RecipeGraph) -> tuple[str, frozenset[str]]:
    return graph.engine, frozenset(action.definition_key for action in graph.actions)
