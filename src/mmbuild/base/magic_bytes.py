"""The first bytes of a file, by which its kind is known."""

from __future__ import annotations

import os
from pathlib import Path

from mmbuild.base.files import open_regular


def read_beginning(path: Path | str, count: int) -> bytes:
    """Up to ``count`` bytes.

    Raises:
        FileRefusedError: MM745, it is not a regular file.
        OSError: It cannot be read.
    """
    descriptor = open_regular(path)
    try:
        return os.read(descriptor, count)
    finally:
        os.close(descriptor)
