"""The runs of a sweep as far as it came: an end before the last one keeps those that are complete."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from mmbuild.base.errors import MmbuildError
from mmbuild.serving.bench.load import Load
from mmbuild.serving.bench.measured import Run


class EndedEarlyError(MmbuildError):
    """A sweep ended before its last run (MM866)."""


@dataclass(frozen=True, slots=True)
class Sweep:
    """What was measured.

    Attributes:
        runs: The runs that are complete.
        missing: The loads that were not measured.
        problem: Why not; None: all were.
    """

    runs: tuple[Run, ...]
    missing: tuple[Load, ...] = ()
    problem: MmbuildError | None = None


def collect(runs: Iterator[Run], loads: Sequence[Load]) -> Sweep:
    """Take the runs of ``loads`` until the last one, an interruption (Ctrl-C), an error, or a server that is gone.

    Raises:
        MmbuildError: An error, or MM866, before the first run was complete.
        KeyboardInterrupt: An interruption before that.
    """
    found: list[Run] = []
    problem: MmbuildError | None = None
    try:
        for run in runs:
            found.append(run)
            if _is_gone(run) and len(found) < len(loads):
                problem = _ended("nothing answers at the server's address any more", loads[len(found) :])
                break
    except KeyboardInterrupt:
        if not found:
            raise
        problem = _ended("it was interrupted", loads[len(found) :])
    except MmbuildError as error:
        problem = error
    if problem is not None and not found:
        raise problem
    return Sweep(tuple(found), tuple(loads[len(found) :]), problem)


def _is_gone(run: Run) -> bool:
    """Whether the request that ended last got no connection."""
    last = max(run.records, key=lambda record: record.ended, default=None)
    return last is not None and last.failure is not None and last.failure.kind == "connect"


def _ended(why: str, missing: Sequence[Load]) -> EndedEarlyError:
    names = ", ".join(load.name for load in missing)
    return EndedEarlyError(
        f"the sweep ended early, because {why}; not measured: {names}",
        code="MM866",
        hint="complete runs are kept; measure again with the missing loads alone",
    )
