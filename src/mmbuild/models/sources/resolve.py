"""Identifies the content of a source, for the key of its download action.

A directory is identified by the digests of its files, a hub model by repository and commit, random weights by the
config that defines their shapes. Paths are not included, so the identity does not depend on the location.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from mmbuild.base.canonical_json import hash_json
from mmbuild.base.files import entries
from mmbuild.base.pins import NO_PINS, Pins
from mmbuild.models.errors import SourceError
from mmbuild.models.files import hf_layout
from mmbuild.models.sources.allowed_places import Places, as_locator
from mmbuild.models.sources.config import parse_source

SEED = 0
_DTYPES = ("float32", "float16", "bfloat16")
MODEL = "model"


@dataclass(frozen=True, slots=True)
class SourceIdentity:
    """The identity of a source, for a download action.

    Attributes:
        kind: Kind of source.
        params: Parameters of the action, in its key; never a path.
        sources: Digests of user files by name, in its key.
        locators: Their locations, not in its key.
        revision: Commit of a hub source, if known.
    """

    kind: Literal["path", "hf", "dummy"]
    params: Mapping[str, Any]
    sources: Mapping[str, str] = field(default_factory=dict)
    locators: Mapping[str, str] = field(default_factory=dict)
    revision: str | None = None


def identify(
    source: str,
    revision: str | None,
    root: Path,
    *,
    config: Mapping[str, Any],
    digest: Callable[[Path], str],
    directories: Sequence[str] = (),
    offline: bool = False,
    pins: Pins = NO_PINS,
    places: Places | None = None,
) -> SourceIdentity:
    """Identify the content of ``source``.

    Args:
        source: ``hf://owner/name``, a directory, ``dummy://owner/name`` or ``dummy://./directory``.
        revision: Branch, tag or commit of a hub source; None is ``main``.
        root: Base of relative directories.
        config: The model's ``config.json``.
        digest: BLAKE3 of a file, hex.
        directories: Subdirectories that contain files of the model (:class:`Traits`).
        offline: Do not access the hub: a branch is resolved from the cache; if it is not cached, the commit is None,
            which can be planned but not downloaded.
        pins: Commits that replace branches and tags.
        places: Directories that the files may be in after resolving links; None: anywhere.

    Raises:
        ConfigError: ``source`` is malformed.
        SourceError: The directory has no such files, or the hub cannot resolve the revision.
    """
    ref = parse_source(source)
    if ref.kind == "hub":
        return _hub(ref.value, revision, offline, pins)
    directory = Path(root / ref.value)
    if ref.kind == "directory":
        return SourceIdentity(
            "path",
            {"kind": "path"},
            sources={MODEL: tree_digest(directory, digest, weights=True, directories=directories)},
            locators={MODEL: str(directory.absolute()), **as_locator(places)},
        )
    params = {"kind": "dummy", "seed": SEED, "dtype": dummy_dtype(config), "config": hash_json(config)}
    if ref.kind == "dummy-hub":
        return SourceIdentity("dummy", params, locators={"recorded": ref.value})
    return SourceIdentity(
        "dummy",
        params,
        sources={MODEL: tree_digest(directory, digest, weights=False, directories=directories)},
        locators={MODEL: str(directory.absolute()), **as_locator(places)},
    )


def _hub(repo: str, revision: str | None, offline: bool, pins: Pins) -> SourceIdentity:
    from mmbuild.models.sources import hub

    try:
        commit = hub.resolve_revision(repo, revision, offline=offline, pins=pins)
    except SourceError as error:
        if not offline or error.code != "MM422":
            raise
        # Enough to plan with; the download refuses to guess which commit was meant.
        unknown = {"kind": "hf", "repo": repo, "commit": None, "revision": revision or "main"}
        return SourceIdentity("hf", unknown)
    return SourceIdentity("hf", {"kind": "hf", "repo": repo, "commit": commit}, revision=commit)


def source_files(directory: Path, *, weights: bool, directories: Sequence[str] = ()) -> list[str]:
    """The files of a model directory that a build takes, as paths below it, sorted.

    Raises:
        SourceError: MM401, there is no such directory; MM402, it holds none.
    """
    try:
        present = [path.name for path in entries(directory)]
        below = [name for name in directories if name in present]
        present += [f"{name}/{path.name}" for name in below for path in entries(directory / name)]
    except OSError as error:
        raise SourceError(
            f"model directory `{error.filename}` cannot be read: {error.strerror}",
            code="MM401",
            hint="check model.source; a relative path is relative to the recipe's project",
        ) from None
    needed = hf_layout.required_files(present, directories)
    files = [name for name in needed if weights or hf_layout.is_small(name)]
    if not files:
        raise SourceError(
            f"`{directory}` holds no file of a model",
            code="MM402",
            hint="a model directory holds config.json, weights, tokenizer and processor",
        )
    return files


def tree_digest(
    directory: Path, digest: Callable[[Path], str], *, weights: bool, directories: Sequence[str] = ()
) -> str:
    """Digest of the names and contents of the files that a build takes from a directory.

    Raises:
        SourceError: There is no such directory, it holds no model, or a file cannot be read.
    """
    names = source_files(directory, weights=weights, directories=directories)
    return files_digest(directory, names, digest)


def files_digest(directory: Path, names: Iterable[str], digest: Callable[[Path], str]) -> str:
    """:func:`tree_digest` of the files ``names``.

    Raises:
        SourceError: MM401, one cannot be read.
    """
    try:
        return hash_json({name: digest(directory / name) for name in names})
    except OSError as error:
        raise SourceError(
            f"`{error.filename}` cannot be read: {error.strerror}",
            code="MM401",
            hint="check the file and its permissions",
        ) from error


def dummy_dtype(config: Mapping[str, Any]) -> str:
    """The dtype of random weights: what the config says its weights have, else float16."""
    dtype = str(config.get("dtype") or config.get("torch_dtype") or "").removeprefix("torch.")
    return dtype if dtype in _DTYPES else "float16"
