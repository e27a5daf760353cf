"""The lock file: its format, reading and writing.

YAML with sorted keys and one fact per line, so that locks can be compared with ``diff`` and merged by git. It
contains no absolute paths: files are named relative to the lock.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import yaml
from packaging.version import InvalidVersion, Version

from mmbuild.base.errors import MmbuildError
from mmbuild.base.field_checks import (
    digest,
    inner_path,
    integer,
    mapping_of,
    one_of,
    optional,
    record,
    word,
    wrong,
)
from mmbuild.base.files import FileRefusedError, read_file
from mmbuild.base.limits import LOCK_TEXT
from mmbuild.base.pins import Pins
from mmbuild.base.yaml_reader import YamlProblemError, parse_yaml
from mmbuild.core.store.atomic_files import write_whole
from mmbuild.core.store.disk_errors import output_errors

FORMAT = 1
SUFFIX = ".lock"
_HEAD = """\
# Made by `mmbuild lock`, for `mmbuild apply --locked`. Commit it beside its recipe; do not edit it by hand.
# `mmbuild lock --update PART` moves one part on: model, packages, target or all.
"""


class LockError(MmbuildError):
    """A lock is missing or damaged, or differs from the current state."""


@dataclass(frozen=True, slots=True)
class Lockfile:
    """Everything besides the recipe file that determines its plan.

    Attributes:
        target: ``{"device", "sm", "isa"}`` for recipes that specify none.
        recipe: Digests by file of the recipe and its base recipes: of their content, not of their layout.
        models: By source (``hf://owner/name``) and revision as in the recipe: ``commit``, and ``files`` with the
            hub's digest (``sha256``, or git's blob id as ``git``) and ``size``.
        files: BLAKE3 of each local file that is read, by path.
        code: Commit by repository of model code.
        environments: By name (``torch``, ``tensorrt-llm 1.2``): ``packages`` with versions, ``tag`` of the examples,
            ``image`` and its ``digest``.
        variants: Hash of all definition keys, by variant.
        plan: Hash of all definition keys of the recipe.
    """

    target: Mapping[str, Any]
    recipe: Mapping[str, str]
    models: Mapping[str, Mapping[str, Mapping[str, Any]]] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)
    code: Mapping[str, str] = field(default_factory=dict)
    environments: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    variants: Mapping[str, str] = field(default_factory=dict)
    plan: str = ""

    @property
    def commits(self) -> dict[tuple[str, str], str]:
        """Commit by (repository, revision)."""
        return {
            (source.removeprefix("hf://"), revision): str(known["commit"])
            for source, revisions in self.models.items()
            for revision, known in revisions.items()
        }

    @property
    def pins(self) -> Pins:
        """Commits and versions for planning."""
        return Pins(self.commits, self.packages)

    @property
    def packages(self) -> dict[str, Mapping[str, str]]:
        """Versions by environment."""
        return {name: dict(known.get("packages", {})) for name, known in self.environments.items()}


def lock_path(recipe: Path) -> Path:
    """Return the path of a recipe's lock, next to the recipe."""
    return recipe.with_suffix(SUFFIX)


def write_lock(path: Path, lock: Lockfile) -> None:
    """Write the lock atomically.

    Raises:
        MmbuildError: MM301 or MM302, the file cannot be written.
    """
    content = {"lock": FORMAT, **{key: value for key, value in asdict(lock).items() if value}}
    text = yaml.safe_dump(content, sort_keys=True, default_flow_style=False, width=1000, allow_unicode=True)
    with output_errors(path):
        write_whole(path, (_HEAD + text).encode())


def read_lock(path: Path) -> Lockfile:
    """Read the lock at ``path``.

    Raises:
        LockError: MM800, it does not exist; MM801, it is damaged or has another version.
    """
    try:
        content = parse_yaml(read_file(path, LOCK_TEXT), LOCK_TEXT)
    except FileNotFoundError:
        raise LockError(
            f"there is no lock `{path}`", code="MM800", hint="create it with `mmbuild lock`, and commit it"
        ) from None
    except FileRefusedError as error:
        raise _damaged(path, f"it {error.problem}") from None
    except YamlProblemError as error:
        raise _damaged(path, f"it {error}") from None
    except OSError as error:
        raise _damaged(path, error.strerror or str(error)) from error
    if not isinstance(content, dict):
        raise _damaged(path, "it is not a mapping")
    version = content.pop("lock", None)
    if type(version) is int and version > FORMAT:
        raise _damaged(path, f"it has format {version}, but this mmbuild reads {FORMAT}", _NEWER)
    if type(version) is not int or version != FORMAT:
        raise _damaged(
            path, "it does not begin as a lock does" if version is None else f"it has format `{version}`"
        )
    problem = _LOCK(content, "")
    if problem:
        raise _damaged(path, problem)
    return Lockfile(**content)


def _version(value: Any, name: str) -> str | None:
    """Check that a value is a package version (PEP 440)."""
    try:
        Version(value)
    except (InvalidVersion, TypeError):
        return wrong(value, name, "a version")
    return None


_MOST = 100_000
_FILE = record({"sha256": word, "git": word, "size": integer(0, 1 << 50)}, may_lack=("sha256", "git"))
_MODEL = record({"commit": word, "files": mapping_of(_FILE, _MOST, key=inner_path)}, may_lack=("files",))
_ENVIRONMENT = record(
    {"packages": mapping_of(_version, _MOST, key=word), "tag": word, "image": word, "digest": word},
    may_lack=("packages", "tag", "image", "digest"),
)
_TARGET = record({"device": one_of("cpu", "cuda"), "sm": optional(integer(0, 9_999)), "isa": optional(word)})
_LOCK = record(
    {
        "target": _TARGET,
        "recipe": mapping_of(digest, _MOST),
        "models": mapping_of(mapping_of(_MODEL, _MOST), _MOST),
        "files": mapping_of(digest, _MOST),
        "code": mapping_of(word, _MOST),
        "environments": mapping_of(_ENVIRONMENT, _MOST),
        "variants": mapping_of(word, _MOST),
        "plan": word,
    },
    may_lack=("models", "files", "code", "environments", "variants", "plan"),
)


_DAMAGED = (
    "if two branches changed it, take either side; otherwise restore it from version control, or delete it; then run "
    "`mmbuild lock`"
)
_NEWER = "a newer mmbuild wrote it: install that one, or delete the lock and run `mmbuild lock`"


def _damaged(path: Path, problem: str, hint: str = _DAMAGED) -> LockError:
    return LockError(f"the lock `{path}` cannot be read: {problem}", code="MM801", hint=hint)
