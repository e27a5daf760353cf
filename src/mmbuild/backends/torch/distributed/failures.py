"""A rank's failure as data: sent to the other ranks, or written to a file for the parent."""

from __future__ import annotations

import json
import time
import traceback
from dataclasses import asdict, dataclass
from pathlib import Path

from mmbuild.base.errors import MmbuildError, UsageError

# Directory where the parent looks for failures; unset if the user ran mpirun.
PLACE = "MMBUILD_RANKS"


class RankError(MmbuildError):
    """Ranks cannot be started, or failed."""


@dataclass(frozen=True, slots=True)
class Failure:
    """The failure of a rank.

    Attributes:
        rank: The rank.
        message, code, hint, exit_status: As in :class:`MmbuildError`.
        trace: The traceback.
        time: Seconds since the epoch; the first failure is the cause of the others.
    """

    rank: int
    message: str
    code: str
    hint: str | None
    exit_status: int
    trace: str
    time: float

    def error(self) -> MmbuildError:
        """The failure as an exception for rank 0 or the parent."""
        kind = UsageError if self.exit_status == UsageError.exit_status else RankError
        return kind(self.message, code=self.code, hint=self.hint)


def describe(error: BaseException, rank: int) -> Failure:
    """Describe ``error`` for the user; the message names the rank unless it is rank 0."""
    trace = "".join(traceback.format_exception(error))
    if isinstance(error, MmbuildError):
        message = f"rank {rank}: {error.message}" if rank else error.message
        return Failure(rank, message, error.code, error.hint, error.exit_status, trace, time.time())
    first = (str(error).strip().splitlines() or [""])[0]
    return Failure(
        rank,
        f"rank {rank} failed: {type(error).__name__}: {first}",
        "MM585",
        "the other ranks were stopped; `mmbuild explain MM585` says where to look",
        1,
        trace,
        time.time(),
    )


def write_failure(failure: Failure, directory: Path) -> None:
    """Write ``failure`` to ``directory`` atomically."""
    fresh = directory / f"rank{failure.rank}.failure.new"
    fresh.write_text(json.dumps(asdict(failure)), encoding="utf-8")
    fresh.replace(directory / f"rank{failure.rank}.failure")


def first_failure(directory: Path) -> Failure | None:
    """The earliest failure in ``directory``; None if there is none."""
    failures = [
        Failure(**json.loads(path.read_text(encoding="utf-8"))) for path in directory.glob("*.failure")
    ]
    return min(failures, key=lambda failure: failure.time, default=None)
