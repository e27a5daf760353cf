"""Files of which there is one for each rank."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from mmbuild.backends.tensorrt_llm.output_checks.errors import ProductError


def stale_ranks(directory: Path, expected: tuple[Path, ...]) -> Iterator[ProductError]:
    """MM651: files beside ``expected`` that end alike. No command empties its directory."""
    endings = {path.suffix for path in expected}
    others = sorted(
        path.name for path in directory.glob("*") if path.suffix in endings and path not in expected
    )
    if others:
        yield ProductError(
            f"{directory} holds {', '.join(others)} beside the {len(expected)} rank(s) of this build: left over "
            "from an earlier one with more ranks or another name",
            code="MM651",
            hint="Remove the directory and run the command again",
        )


def missing_source_ranks(directory: Path, expected: tuple[Path, ...]) -> Iterator[ProductError]:
    """MM661: ranks that the checkpoint lacked from which an engine was built."""
    missing = [path.name for path in expected if not _has_content(path)]
    if missing:
        yield ProductError(
            f"the engine was built from {directory}, which lacks {', '.join(missing)}: up to 0.10 such ranks get "
            "dummy weights, with a warning and no failure",
            code="MM661",
            hint="Convert again, then empty the engine's directory and build again",
        )


def missing_files(paths: tuple[Path, ...]) -> Iterator[ProductError]:
    """MM650: for each directory, the products that are not there or empty."""
    for directory in dict.fromkeys(path.parent for path in paths):
        gone = [path.name for path in paths if path.parent == directory and not _has_content(path)]
        if gone:
            yield ProductError(
                f"{directory} lacks {', '.join(gone)}, and the command ended without a failure",
                code="MM650",
                hint="Read the command's log for the first error, and run it again",
            )


def _has_content(path: Path) -> bool:
    return path.is_dir() or (path.is_file() and path.stat().st_size > 0)
