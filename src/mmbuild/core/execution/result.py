"""How an apply is asked for, and what it says when it has ended."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mmbuild.core.execution.failures import Failed
from mmbuild.core.execution.resources import Capacity


@dataclass(frozen=True, slots=True)
class Options:
    """How to apply.

    Attributes:
        capacity: What the scheduler may hand out.
        keep_going: After a failure, still run what does not depend on it.
        ignore_estimates: Do not compare estimates of memory and disk with the machine.
        paranoid: Read every file of the store before it is used, whatever its stat.
    """

    capacity: Capacity
    keep_going: bool = False
    ignore_estimates: bool = False
    paranoid: bool = False


@dataclass(frozen=True, slots=True)
class Result:
    """What an apply did.

    Attributes:
        ran: Labels of the actions that ran, in the order of their ends.
        reused: Labels of actions whose result turned out to be there.
        failed: What failed.
        laid_out: Engine directories that were filled anew.
        seconds: Wall time.
        times: Seconds of each action that ran, by label.
    """

    ran: tuple[str, ...] = ()
    reused: tuple[str, ...] = ()
    failed: tuple[Failed, ...] = ()
    laid_out: tuple[Path, ...] = ()
    seconds: float = 0.0
    times: tuple[tuple[str, float], ...] = ()

    @property
    def ok(self) -> bool:
        return not self.failed
