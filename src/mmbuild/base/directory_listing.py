"""The names in a directory that somebody else may have filled: sorted, and no more of them than any use needs."""

from __future__ import annotations

import os
from itertools import islice
from pathlib import Path

from mmbuild.base.files import FileRefusedError
from mmbuild.base.limits import ENTRIES


def entries(directory: Path) -> list[Path]:
    """Everything that is directly in ``directory``, sorted by name; links are not followed.

    Raises:
        FileRefusedError: MM746, there are more than ENTRIES.
        OSError: It is not there, is not a directory, or may not be read.
    """
    with os.scandir(directory) as found:
        names = [entry.name for entry in islice(found, ENTRIES + 1)]
    if len(names) > ENTRIES:
        raise FileRefusedError.of(
            directory,
            f"holds more than {ENTRIES:,} files",
            "MM746",
            "check that it is the directory that you mean",
        )
    return [directory / name for name in sorted(names)]
