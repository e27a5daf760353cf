"""Action durations for splitting work: from a file of measured ones, otherwise estimated from model size."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

from mmbuild.base.files import FileRefusedError, read_object
from mmbuild.base.limits import MEASUREMENTS
from mmbuild.core.graph.action import Action
from mmbuild.core.graph.durations import estimated_seconds
from mmbuild.core.store.atomic_files import write_whole
from mmbuild.core.store.disk_errors import output_errors
from mmbuild.team.ci.variants import CiError

VERSION = 1


def seconds_of(actions: Iterable[Action], times: Mapping[str, float]) -> dict[str, float]:
    """Return seconds by definition key: from ``times`` (by label), otherwise estimated."""
    return {action.definition_key: times.get(action.label) or estimated_seconds(action) for action in actions}


def write_times(path: Path, times: Mapping[str, float]) -> None:
    """Save measured times, so that every machine computes the same shards.

    Raises:
        MmbuildError: MM301 or MM302, the file cannot be written.
    """
    text = json.dumps({"version": VERSION, "seconds": dict(sorted(times.items()))}, indent=1) + "\n"
    with output_errors(path):
        write_whole(path, text.encode())


def read_times(path: Path) -> dict[str, float]:
    """Read a file written by :func:`write_times`.

    Raises:
        CiError: MM816, it is not a timings file.
    """
    try:
        data = read_object(path, MEASUREMENTS)
        if data["version"] != VERSION:
            raise ValueError(f"version {data['version']!r}, but this mmbuild reads {VERSION}")
        return {str(label): float(seconds) for label, seconds in data["seconds"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, FileRefusedError) as error:
        raise CiError(
            f"`{path}` is not a timings file: {getattr(error, 'problem', None) or error}",
            code="MM816",
            hint="write it with `mmbuild ci run RECIPE... --save-times FILE` where the recipes were built",
        ) from error
