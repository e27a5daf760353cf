"""Two engine directories held against each other: what they were made from, and what came of it."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmbuild.base.errors import MmbuildError
from mmbuild.core.graph.differences import ABSENT, Change, changes, different
from mmbuild.core.store.hashing import hash_files
from mmbuild.evaluation import manifest


@dataclass(frozen=True, slots=True)
class FileChange:
    """A file that is not the same on both sides.

    Attributes:
        path: Below either directory.
        old: Bytes on the first side; None where it is not there.
        new: Bytes on the second side; None where it is not there.
    """

    path: str
    old: int | None
    new: int | None


def file_changes(one: Path, other: Path, apart: Collection[str] = ()) -> list[FileChange]:
    """Files below ``one`` and ``other`` that differ in content, sorted; those named in ``apart`` are left out.

    Links count for what they lead to. Files of one size are read, unless they are one file.

    Raises:
        OSError: One of them cannot be read.
    """
    left, right = (_sizes(side, apart) for side in (one, other))
    same = [path for path in left if left[path] == right.get(path, -1)]
    unsure = [path for path in same if not (one / path).samefile(other / path)]
    digests = [hash_files([side / path for path in unsure]) for side in (one, other)]
    altered = {path for path, a, b in zip(unsure, *digests, strict=True) if a != b}
    changed = {path for path in {*left, *right} if left.get(path) != right.get(path)} | altered
    return [FileChange(path, left.get(path), right.get(path)) for path in sorted(changed)]


def _sizes(directory: Path, apart: Collection[str]) -> dict[str, int]:
    found = {}
    for root, _, names in os.walk(directory, followlinks=True):
        for name in names:
            path = Path(root, name)
            relative = path.relative_to(directory).as_posix()
            if relative not in apart and path.is_file():
                found[relative] = path.stat().st_size
    return found


_MANIFEST_PARTS = ("params", "target", "toolchain", "sources")


class DiffError(MmbuildError):
    """A directory that cannot be compared."""


@dataclass(frozen=True, slots=True)
class StepChange:
    """One step of both builds.

    Attributes:
        step: Its label without the variant's name.
        own: What was different in its definition, apart from inputs.
        follows: Steps that made its inputs, where those came out differently, by input.
        result: Whether it came out differently.
    """

    step: str
    own: tuple[Change, ...] = ()
    follows: Mapping[str, str] = field(default_factory=dict)
    result: bool = False

    @property
    def unexplained(self) -> bool:
        """Whether it came out differently though nothing that it was given differs."""
        return self.result and not self.own and not self.follows


@dataclass(frozen=True, slots=True)
class BuildDiff:
    """Everything that differs.

    Attributes:
        builds: What each is: ``path``, ``recipe``, ``built_at`` (of its last action), ``host``.
        recipe: Values of the recipes' files by dotted key, (first, second).
        known: Whether both builds say what their recipes' files said.
        versions: Of mmbuild, packages and steps, by name.
        target: Device, SM, ISA.
        steps: Steps of both builds that differ in anything.
        only: Steps of one build alone: name -> 0 or 1, the build that has it.
        files: Files that differ, without manifests.
    """

    builds: tuple[Mapping[str, Any], Mapping[str, Any]]
    recipe: Mapping[str, tuple[Any, Any]]
    known: bool
    versions: Mapping[str, tuple[Any, Any]]
    target: Mapping[str, tuple[Any, Any]]
    steps: tuple[StepChange, ...]
    only: Mapping[str, int]
    files: tuple[FileChange, ...]

    @property
    def same(self) -> bool:
        """Whether the engines are the same: every file, and every step's result."""
        return not (self.files or self.only or any(step.result for step in self.steps))


def compare_builds(one: Path, other: Path) -> BuildDiff:
    """Compare two engine directories.

    Raises:
        DiffError: MM851, a directory is no build of mmbuild; MM852, its files cannot be read.
    """
    lines = [_manifest(one), _manifest(other)]
    sides = [_steps(item) for item in lines]
    both = [name for name in sides[0] if name in sides[1]]
    found = [_step(name, sides[0][name], sides[1][name], _makers(sides[1])) for name in both]
    only = {name: side for side in (0, 1) for name in sides[side] if name not in sides[1 - side]}
    settings = [item.get("settings") or {} for item in lines]
    try:
        files = file_changes(one, other, (manifest.NAME,))
    except OSError as error:
        raise DiffError(
            f"the builds' files cannot be read: {error}",
            code="MM852",
            hint="`mmbuild apply` lays a build out again",
        ) from error
    return BuildDiff(
        builds=(_about(one, lines[0]), _about(other, lines[1])),
        recipe=different(settings[0], settings[1]) if all(settings) else {},
        known=all(settings),
        versions=_versions(lines, found),
        target=_part(found, "target"),
        steps=tuple(step for step in found if step.own or step.follows or step.result),
        only=only,
        files=tuple(files),
    )


def _manifest(build: Path) -> Mapping[str, Any]:
    reported = manifest.read(build)
    try:
        for action in reported["actions"]:
            _ = action["label"], action["artifact"], action["definition_key"]
    except (KeyError, TypeError) as error:
        raise DiffError(
            f"`{build}` is no engine directory of mmbuild: no readable {manifest.NAME} lies there",
            code="MM851",
            hint="Name two directories such as build/llava-int4",
        ) from error
    return reported


def _about(build: Path, reported: Mapping[str, Any]) -> dict[str, Any]:
    actions = reported["actions"]
    return {
        "path": str(build),
        "recipe": reported.get("recipe"),
        "built_at": max((action.get("built_at") or 0.0 for action in actions), default=0.0),
        "host": next((action.get("built_on") for action in reversed(actions)), None),
    }


def _steps(reported: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Actions by label without the variant's name, producers first."""
    return {str(action["label"]).rpartition("/")[2]: action for action in reported["actions"]}


def _makers(steps: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """Step by the digest of what it made."""
    return {str(action["artifact"]): name for name, action in steps.items()}


def _step(name: str, old: Mapping[str, Any], new: Mapping[str, Any], makers: Mapping[str, str]) -> StepChange:
    found = changes(_definition(old), _definition(new))
    inputs = different(old.get("inputs") or {}, new.get("inputs") or {})
    follows = {
        item: makers.get(str(now), "a step of one build alone") if now is not ABSENT else "nothing"
        for item, (_, now) in inputs.items()
    }
    return StepChange(name, tuple(found), follows, old["artifact"] != new["artifact"])


def _definition(action: Mapping[str, Any]) -> dict[str, Any]:
    parts = {part: action.get(part) or {} for part in _MANIFEST_PARTS}
    return {"step": action.get("step"), "version": action.get("version"), **parts, "inputs": {}}


def _versions(
    reported: Iterable[Mapping[str, Any]], found: Iterable[StepChange]
) -> dict[str, tuple[Any, Any]]:
    """Of what is in keys; a package that only the host has, and no key, made no difference."""
    steps = tuple(found)
    made_by = [item.get("made_by") or {} for item in reported]
    of_steps = {
        f"step {change.path}": (change.old, change.new)
        for step in steps
        for change in step.own
        if change.part == "version"
    }
    return {**different(made_by[0], made_by[1]), **_part(steps, "toolchain"), **of_steps}


def _part(found: Iterable[StepChange], part: str) -> dict[str, tuple[Any, Any]]:
    """Changes of one part, once for all steps."""
    return {
        change.path: (change.old, change.new) for step in found for change in step.own if change.part == part
    }
