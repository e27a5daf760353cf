"""Opens untrusted files safely.

Opens only regular files (a FIFO would block, a device has no end), reads no more than the limit for the kind of file,
and, with ``within``, only files that are in an allowed directory after following all links. The checks apply to the
open descriptor, not to the name, so that the file cannot be replaced in between.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from mmbuild.base.errors import MmbuildError
from mmbuild.base.json_reader import JsonProblemError, parse_json
from mmbuild.base.limits import ENTRIES, Limit

_CHUNK = 1 << 20
_KINDS = (
    (stat.S_ISDIR, "is a directory"),
    (stat.S_ISFIFO, "is a named pipe, not a regular file"),
    (stat.S_ISCHR, "is a device, not a regular file"),
    (stat.S_ISBLK, "is a device, not a regular file"),
    (stat.S_ISSOCK, "is a socket, not a regular file"),
)


class FileRefusedError(MmbuildError):
    """A file was refused (MM745 to MM748).

    Attributes:
        path: The file, as given.
        problem: The problem, as the end of a sentence whose subject is the file.
    """

    path: str = ""
    problem: str = ""

    @classmethod
    def of(cls, path: Path | str, problem: str, code: str, hint: str) -> FileRefusedError:
        """Create the error for ``path``."""
        error = cls(f"`{os.fspath(path)}` {problem}", code=code, hint=hint)
        error.path, error.problem = os.fspath(path), problem
        return error


def require_regular(path: Path | str) -> os.stat_result:
    """Return the stat of a regular file, links followed. For libraries that open files by name.

    Raises:
        FileRefusedError: MM745, it is not a regular file.
        OSError: It does not exist or cannot be read.
    """
    try:
        status = os.stat(path)
    except ValueError:  # a NUL, or half of a surrogate pair
        raise FileRefusedError.of(path, "is not a valid path", "MM745", "check the name") from None
    _refuse_special(path, status)
    return status


def open_regular(path: Path | str, *, within: Iterable[Path | str] | None = None) -> int:
    """Open the regular file ``path`` for reading and return its descriptor; the caller closes it.

    Args:
        path: The file.
        within: Directories, one of which must contain the file, links followed; None allows any directory.

    Raises:
        FileRefusedError: MM745, it is not a regular file; MM747, it is outside the allowed directories.
        OSError: It does not exist or cannot be read.
    """
    require_regular(path)  # before open, which wakes some devices
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    try:
        _refuse_special(path, os.fstat(descriptor))
        if within is not None:
            _refuse_outside(path, _opened(descriptor, path), within)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def read_file(path: Path | str, limit: Limit | int, *, within: Iterable[Path | str] | None = None) -> bytes:
    """Return the content of ``path``, at most ``limit`` (a number of bytes, or a row of the table).

    Raises:
        FileRefusedError: MM745, MM747 (see :func:`open_regular`); MM746, it is larger.
        OSError: It cannot be read.
    """
    most, kind = (limit, "such a file") if isinstance(limit, int) else (limit.size, limit.kind)
    descriptor = open_regular(path, within=within)
    try:
        size = os.fstat(descriptor).st_size
        if size <= most:
            data = _read(descriptor, size, most)
            if len(data) <= most:
                return data
    finally:
        os.close(descriptor)
    problem = f"is larger than {most:,} bytes, the limit for {kind}"
    raise FileRefusedError.of(path, problem, "MM746", "check that it is the right file")


def read_json(path: Path | str, limit: Limit, *, within: Iterable[Path | str] | None = None) -> Any:
    """Return the value of the JSON file ``path``.

    Raises:
        FileRefusedError: MM745, MM746, MM747 (see :func:`read_file`); MM748, it is not plain JSON within ``limit``.
        OSError: It cannot be read.
    """
    data = read_file(path, limit, within=within)
    try:
        return parse_json(data, limit)
    except JsonProblemError as error:
        raise FileRefusedError.of(path, str(error), "MM748", "restore the file, or create it again") from None


def read_object(
    path: Path | str, limit: Limit, *, within: Iterable[Path | str] | None = None
) -> dict[str, Any]:
    """:func:`read_json` for a file that must contain a JSON object.

    Raises:
        FileRefusedError, OSError: As :func:`read_json`; MM748 also for any other value.
    """
    value = read_json(path, limit, within=within)
    if not isinstance(value, dict):
        problem = f"contains {_called(value)}, not a JSON object"
        raise FileRefusedError.of(path, problem, "MM748", "restore the file, or create it again")
    return value


def is_within(path: Path | str, roots: Iterable[Path | str]) -> bool:
    """Return whether ``path``, links followed, is one of ``roots`` or inside one."""
    real = Path(os.path.realpath(path))
    return any(real.is_relative_to(os.path.realpath(root)) for root in roots)


def _refuse_special(path: Path | str, status: os.stat_result) -> None:
    if stat.S_ISREG(status.st_mode):
        return
    problem = next((problem for test, problem in _KINDS if test(status.st_mode)), "is not a regular file")
    raise FileRefusedError.of(path, problem, "MM745", "name a regular file")


def _refuse_outside(path: Path | str, real: str, roots: Iterable[Path | str]) -> None:
    if not is_within(real, roots):
        raise FileRefusedError.of(
            path,
            f"leads to `{real}`, outside the directories that this build may read",
            "MM747",
            "replace the link with a copy of the file, or allow it with `--allow-outside`",
        )


def _opened(descriptor: int, path: Path | str) -> str:
    """Return the path of the open file, from the kernel if possible."""
    try:
        return os.readlink(f"/proc/self/fd/{descriptor}")
    except OSError:
        return os.path.realpath(path)


def _read(descriptor: int, size: int, most: int) -> bytes:
    """Read up to ``most`` + 1 bytes of a file whose size was just measured as ``size``."""
    parts, left, chunk = [], most + 1, min(size + 1, _CHUNK)
    while left > 0 and (part := os.read(descriptor, min(left, chunk))):
        parts.append(part)
        left -= len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _called(value: Any) -> str:
    if isinstance(value, bool):
        return "a boolean"
    names = {list: "an array", str: "a string", int: "a number", float: "a number", type(None): "null"}
    return names[type(value)]


def read_beginning(path: Path | str, count: int) -> bytes:
    """Return up to ``count`` bytes from the start of the file.

    Raises:
        FileRefusedError: MM745, it is not a regular file.
        OSError: It cannot be read.
    """
    descriptor = open_regular(path)
    try:
        return os.read(descriptor, count)
    finally:
        os.close(descriptor)


_HINT = "check that it is the right file"


def read_lines(path: Path, limit: Limit, most: int, size: int) -> Iterator[bytes]:
    """Yield the lines of ``path`` without line ends.

    Args:
        path: The file.
        limit: Limit of a line.
        most: Maximum number of lines.
        size: Maximum size of the file, bytes.

    Raises:
        FileRefusedError: MM745, it is not a regular file; MM746, it or a line is larger, or there are more lines.
        OSError: It cannot be read.
    """
    with os.fdopen(open_regular(path), "rb") as file:
        if os.fstat(file.fileno()).st_size > size:
            raise FileRefusedError.of(path, f"is larger than {size:,} bytes", "MM746", _HINT)
        number = 0
        while line := file.readline(limit.size + 2):
            number += 1
            if number > most:
                raise FileRefusedError.of(path, f"has more than {most:,} lines", "MM746", _HINT)
            line = line.removesuffix(b"\n").removesuffix(b"\r")
            if len(line) > limit.size:
                problem = f"is longer than {limit.size:,} bytes in line {number}"
                raise FileRefusedError.of(path, problem, "MM746", _HINT)
            yield line


def entries(directory: Path) -> list[Path]:
    """Return the paths directly in ``directory``, sorted by name; links are not followed.

    Raises:
        FileRefusedError: MM746, there are more than ENTRIES.
        OSError: It does not exist, is not a directory, or cannot be read.
    """
    with os.scandir(directory) as found:
        names = [entry.name for entry in islice(found, ENTRIES + 1)]
    if len(names) > ENTRIES:
        raise FileRefusedError.of(
            directory,
            f"contains more than {ENTRIES:,} files",
            "MM746",
            "check that it is the right directory",
        )
    return [directory / name for name in sorted(names)]
