"""Compares two engine directories: their inputs and their results."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmbuild.base.errors import MmbuildError
from mmbuild.base.near_paths import path_hint
from mmbuild.core.graph.definition_diff import ABSENT, Change, changes, different
from mmbuild.core.store.hashing import hash_files
from mmbuild.evaluation import engine_manifest


@dataclass(frozen=True, slots=True)
class FileChange:
    """A file that differs between the two sides.

    Attributes:
        path: Relative path.
        old: Size in bytes on the first side; None if it does not exist there.
        new: Size in bytes on the second side; None if it does not exist there.
    """

    path: str
    old: int | None
    new: int | None


def file_changes(first: Path, second: Path, ignored: Collection[str] = ()) -> list[FileChange]:
    """Files below ``first`` and ``second`` that differ in content, sorted, without those in ``ignored``.

    Links are followed. Files of equal size are hashed, unless both paths are the same file.

    Raises:
        OSError: A file cannot be read.
    """
    left, right = (_sizes(side, ignored) for side in (first, second))
    same_size = [path for path in left if left[path] == right.get(path, -1)]
    candidates = [path for path in same_size if not (first / path).samefile(second / path)]
    digests = [hash_files([side / path for path in candidates]) for side in (first, second)]
    altered = {path for path, a, b in zip(candidates, *digests, strict=True) if a != b}
    changed = {path for path in {*left, *right} if left.get(path) != right.get(path)} | altered
    return [FileChange(path, left.get(path), right.get(path)) for path in sorted(changed)]


def _sizes(directory: Path, ignored: Collection[str]) -> dict[str, int]:
    sizes = {}
    for root, _, names in os.walk(directory, followlinks=True):
        for name in names:
            path = Path(root, name)
            relative = path.relative_to(directory).as_posix()
            if relative not in ignored and path.is_file():
                sizes[relative] = path.stat().st_size
    return sizes


_MANIFEST_PARTS = ("params", "target", "toolchain", "sources")


class DiffError(MmbuildError):
    """A directory that cannot be compared."""


@dataclass(frozen=True, slots=True)
class StepChange:
    """A step that both builds have.

    Attributes:
        step: Its label without the variant's name.
        own: Changes in its definition, apart from inputs.
        follows: Input -> the step that produced it, for inputs that differ.
        result: Whether its result differs.
    """

    step: str
    own: tuple[Change, ...] = ()
    follows: Mapping[str, str] = field(default_factory=dict)
    result: bool = False

    @property
    def unexplained(self) -> bool:
        """Whether its result differs although its definition and inputs are equal."""
        return self.result and not self.own and not self.follows


@dataclass(frozen=True, slots=True)
class BuildDiff:
    """The differences between two builds; pairs of values are (first, second).

    Attributes:
        builds: ``path``, ``recipe``, ``built_at`` (time of the last action) and ``host`` of each build.
        recipe: Values in the recipe files, by dotted key.
        known: Whether both builds record the values of their recipe files.
        versions: Versions of mmbuild, packages and steps, by name.
        target: Device, SM, ISA.
        steps: Steps of both builds that differ in any way.
        only: Steps that only one build has: name -> 0 or 1, the build that has it.
        files: Files that differ, except manifests.
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
        """Whether the engines are equal: every file, and the result of every step."""
        return not (self.files or self.only or any(step.result for step in self.steps))


def compare_builds(first: Path, second: Path) -> BuildDiff:
    """Compare two engine directories.

    Raises:
        DiffError: MM851, a directory is not an mmbuild build; MM852, its files cannot be read.
    """
    manifests = [_manifest(first), _manifest(second)]
    sides = [_steps(item) for item in manifests]
    common = [name for name in sides[0] if name in sides[1]]
    steps = [_step(name, sides[0][name], sides[1][name], _producers(sides[1])) for name in common]
    only = {name: side for side in (0, 1) for name in sides[side] if name not in sides[1 - side]}
    settings = [item.get("settings") or {} for item in manifests]
    try:
        files = file_changes(first, second, (engine_manifest.NAME,))
    except OSError as error:
        raise DiffError(
            f"cannot read the files of the builds: {error}",
            code="MM852",
            hint="reinstall the build with `mmbuild apply`",
        ) from error
    return BuildDiff(
        builds=(_about(first, manifests[0]), _about(second, manifests[1])),
        recipe=different(settings[0], settings[1]) if all(settings) else {},
        known=all(settings),
        versions=_versions(manifests, steps),
        target=_part(steps, "target"),
        steps=tuple(step for step in steps if step.own or step.follows or step.result),
        only=only,
        files=tuple(files),
    )


def _manifest(build: Path) -> Mapping[str, Any]:
    example = "give two directories such as build/llava-int4"
    if not build.exists():
        raise DiffError(f"`{build}` does not exist", code="MM851", hint=path_hint(build, example))
    if not build.is_dir():
        raise DiffError(f"`{build}` is a file, not an engine directory", code="MM851", hint=example)
    content = engine_manifest.read(build)
    try:
        for action in content["actions"]:
            _ = action["label"], action["artifact"], action["definition_key"]
    except (KeyError, TypeError) as error:
        raise DiffError(
            f"`{build}` is not an mmbuild engine directory: it has no readable {engine_manifest.NAME}",
            code="MM851",
            hint=example,
        ) from error
    return content


def _about(build: Path, content: Mapping[str, Any]) -> dict[str, Any]:
    actions = content["actions"]
    return {
        "path": str(build),
        "recipe": content.get("recipe"),
        "built_at": max((action.get("built_at") or 0.0 for action in actions), default=0.0),
        "host": next((action.get("built_on") for action in reversed(actions)), None),
    }


def _steps(content: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Actions by label without the variant's name, producers first."""
    return {str(action["label"]).rpartition("/")[2]: action for action in content["actions"]}


def _producers(steps: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """Digest of a result -> the step that produced it."""
    return {str(action["artifact"]): name for name, action in steps.items()}


def _step(
    name: str, old: Mapping[str, Any], new: Mapping[str, Any], producers: Mapping[str, str]
) -> StepChange:
    own = changes(_definition(old), _definition(new))
    inputs = different(old.get("inputs") or {}, new.get("inputs") or {})
    follows = {
        item: producers.get(str(now), "a step of only one build") if now is not ABSENT else "nothing"
        for item, (_, now) in inputs.items()
    }
    return StepChange(name, tuple(own), follows, old["artifact"] != new["artifact"])


def _definition(action: Mapping[str, Any]) -> dict[str, Any]:
    parts = {part: action.get(part) or {} for part in _MANIFEST_PARTS}
    return {"step": action.get("step"), "version": action.get("version"), **parts, "inputs": {}}


def _versions(
    manifests: Iterable[Mapping[str, Any]], steps: Iterable[StepChange]
) -> dict[str, tuple[Any, Any]]:
    """Versions that are part of keys; other packages of the host cannot affect a result."""
    steps = tuple(steps)
    made_by = [item.get("made_by") or {} for item in manifests]
    of_steps = {
        f"step {change.path}": (change.old, change.new)
        for step in steps
        for change in step.own
        if change.part == "version"
    }
    return {**different(made_by[0], made_by[1]), **_part(steps, "toolchain"), **of_steps}


def _part(steps: Iterable[StepChange], part: str) -> dict[str, tuple[Any, Any]]:
    """Changes of one part of the definition, merged over all steps."""
    return {
        change.path: (change.old, change.new) for step in steps for change in step.own if change.part == part
    }
