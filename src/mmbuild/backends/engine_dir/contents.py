"""Checks the files of an engine directory against manifest.json.

An engine is code: a ``.pt2`` contains a shared library. So this check runs before anything is loaded from the
directory. Nothing here imports torch.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from mmbuild.backends.engine_dir import description
from mmbuild.backends.engine_dir.digest_cache import DigestCache
from mmbuild.base.errors import MmbuildError
from mmbuild.base.field_checks import digest, inner_path, integer, mapping_of, record
from mmbuild.base.files import FileRefusedError, open_regular, read_object
from mmbuild.base.limits import ENGINE_MANIFEST

MANIFEST = "manifest.json"
SMALL = 16 << 20
"""Size in bytes up to which a file is always hashed; larger files are hashed only after a change."""

_APPLY = "run `mmbuild apply` with its recipe to restore it"
_AS_IT_IS = f"{_APPLY}; --no-check (in Python `check=False`) loads it as it is"

_CHUNK = 8 << 20
_SHOWN = 3
_REPORTS = "verify"
"""The only directory of a build that is not part of the engine."""

_FILES = mapping_of(record({"size": integer(0, 1 << 50), "blake3": digest}), 1_000_000, key=inner_path)

Progress = Callable[[int, int], None]
"""``progress(hashed bytes, total bytes)`` of large files."""


class ContentsError(MmbuildError):
    """The directory does not contain the engine as built (MM760, MM761, MM763).

    Attributes:
        details: One line for each file that differs.
    """

    details: tuple[str, ...] = ()

    def __reduce__(self) -> tuple[object, ...]:
        return (_restore, (self.message, self.code, self.hint, self.details))


@dataclass(frozen=True, slots=True)
class ContentsWarning:
    """Why an accepted directory could not be checked: message, code and hint of a warning."""

    message: str
    code: str
    hint: str


def check(directory: Path, *, loads: bool = True, progress: Progress | None = None) -> ContentsWarning | None:
    """Compare the files of an engine directory with its manifest.

    Args:
        directory: The engine directory.
        loads: Whether the engine will be loaded. If not, large files without a cached digest are compared by size,
            and a missing manifest is only a warning.
        progress: Called while large files are hashed.

    Returns:
        A warning if the files cannot be compared: the manifest was written by a version that listed no digests, or
        is missing and ``loads`` is false.

    Raises:
        LayoutError: MM540, the directory is not an engine.
        ContentsError: MM760, there is no manifest; MM761, files are missing, different or added; MM763, the manifest
            is damaged.
    """
    if not loads and not os.path.lexists(directory / MANIFEST):
        description.require_description(directory)
        return ContentsWarning(
            f"`{directory}` has no {MANIFEST}, so its files are not checked", "MM760", _APPLY
        )
    files = _listed(directory)
    if files is None:
        return ContentsWarning(
            f"`{directory}` was built by a version that wrote no digests to {MANIFEST}; its files are not checked",
            "MM762",
            f"{_APPLY}, with digests",
        )
    problems = [*_differing(directory, files, loads, progress), *_added(directory, files)]
    if problems:
        raise _differs(directory, problems)
    return None


def require(directory: Path) -> None:
    """:func:`check` for programs: issues Python warnings.

    Raises:
        LayoutError, ContentsError: As :func:`check`.
    """
    warning = check(directory)
    if warning is not None:
        warnings.warn(f"{warning.message} [{warning.code}]; {warning.hint}", stacklevel=3)


def _listed(directory: Path) -> Mapping[str, Mapping[str, Any]] | None:
    """Size and digest by path; None for manifests that list only paths."""
    path = directory / MANIFEST
    try:
        files = read_object(path, ENGINE_MANIFEST).get("files")
    except (FileNotFoundError, NotADirectoryError):
        description.require_description(directory)
        raise ContentsError(
            f"`{directory}` has no {MANIFEST}, which lists the files of the engine",
            code="MM760",
            hint=_AS_IT_IS,
        ) from None
    except FileRefusedError as error:
        raise _damaged(path, error.problem) from None
    except OSError as error:
        raise _damaged(path, f"cannot be read: {error.strerror}") from None
    if isinstance(files, list) and all(isinstance(name, str) for name in files):
        return None
    problem = _FILES(files, "files")
    if problem:
        raise _damaged(path, f"is damaged: {problem}")
    return cast(Mapping[str, Mapping[str, Any]], files)


def _differing(
    directory: Path, files: Mapping[str, Mapping[str, Any]], hash_large: bool, progress: Progress | None
) -> Iterator[str]:
    """Problems with the files that the manifest lists."""
    known = DigestCache()
    large: list[tuple[str, str, int]] = []
    for name, required in sorted(files.items()):
        problem = None
        try:
            descriptor = open_regular(directory / name)
        except (FileRefusedError, OSError) as error:
            yield f"`{name}` {_unreadable(error)}"
            continue
        try:
            status = os.fstat(descriptor)
            if status.st_size != required["size"]:
                problem = f"has {status.st_size:,} bytes instead of {required['size']:,}"
            elif status.st_size <= SMALL:
                problem = _different(_hash(descriptor, None), required["blake3"])
            elif (digest := known.digest(status)) is not None:
                problem = _different(digest, required["blake3"])
            elif hash_large:
                large.append((name, required["blake3"], status.st_size))
        finally:
            os.close(descriptor)
        if problem:
            yield f"`{name}` {problem}"
    yield from _hash_large(directory, large, known, progress)


def _hash_large(
    directory: Path, files: list[tuple[str, str, int]], known: DigestCache, progress: Progress | None
) -> Iterator[str]:
    """Problems with large files; caches their digests."""
    total = sum(size for _, _, size in files)
    done = 0

    def advance(count: int) -> None:
        nonlocal done
        done += count
        if progress is not None:
            progress(done, total)

    for name, required, _ in files:
        try:
            descriptor = open_regular(directory / name)
            try:
                before = os.fstat(descriptor)
                digest = _hash(descriptor, advance)
                known.add(before, os.fstat(descriptor), digest)
            finally:
                os.close(descriptor)
        except (FileRefusedError, OSError) as error:
            yield f"`{name}` {_unreadable(error)}"
            continue
        if problem := _different(digest, required):
            yield f"`{name}` {problem}"
    known.save()


def _hash(descriptor: int, advance: Callable[[int], None] | None) -> str:
    """BLAKE3, hex, of an open file. Read, not mapped: truncating a mapped file kills the process."""
    from blake3 import blake3

    hasher = blake3(max_threads=blake3.AUTO if advance else 1)
    while part := os.read(descriptor, _CHUNK):
        hasher.update(part)
        if advance is not None:
            advance(len(part))
    return hasher.hexdigest()


def _different(actual: str, expected: str) -> str | None:
    if actual == expected:
        return None
    return f"differs from the built file (BLAKE3 {actual[:16]}, expected {expected[:16]})"


def _unreadable(error: Exception) -> str:
    if isinstance(error, FileRefusedError):
        return error.problem
    if isinstance(error, (FileNotFoundError, NotADirectoryError)):
        return "is missing"
    return f"cannot be read: {getattr(error, 'strerror', None) or error}"


def _added(directory: Path, files: Mapping[str, Any]) -> Iterator[str]:
    """Added files in directories that the engine is loaded from; answers and reports are elsewhere."""
    tops = {name.partition("/")[0] for name in files if "/" in name} - {_REPORTS}
    for top in sorted(tops | {description.LLM, description.VISUAL, description.PROCESSOR}):
        for place, directories, names in os.walk(directory / top):
            below = Path(place).relative_to(directory)
            links = [name for name in directories if os.path.islink(os.path.join(place, name))]
            for name in sorted([*names, *links]):
                if (path := (below / name).as_posix()) not in files:
                    yield f"`{path}` was added after the build"


def _differs(directory: Path, problems: list[str]) -> ContentsError:
    more = f", and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
    error = ContentsError(
        f"`{directory}` does not match its manifest: {'; '.join(problems[:_SHOWN])}{more}",
        code="MM761",
        hint=_AS_IT_IS,
    )
    error.details = tuple(problems) if more else ()
    return error


def _damaged(path: Path, problem: str) -> ContentsError:
    return ContentsError(
        f"`{path}` {problem}",
        code="MM763",
        hint=_APPLY,
    )


def _restore(message: str, code: str, hint: str | None, details: tuple[str, ...]) -> ContentsError:
    error = ContentsError(message, code=code, hint=hint)
    error.details = details
    return error
