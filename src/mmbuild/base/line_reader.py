"""A text of lines that somebody else wrote, line by line and in bounds."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from mmbuild.base.files import FileRefusedError, open_regular
from mmbuild.base.limits import Limit

_HINT = "check that it is the file that you mean"


def read_lines(path: Path, limit: Limit, most: int, size: int) -> Iterator[bytes]:
    """The lines of ``path`` without their ends, as they are read.

    Args:
        path: The file.
        limit: Of one line.
        most: Lines.
        size: Bytes of the file.

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
