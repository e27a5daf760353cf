"""Options of an apply, made once: by the command line, or by a caller of the Python API."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from mmbuild.core.execution.resources import Capacity


@dataclass(frozen=True, slots=True)
class ApplyOptions:
    """How to apply a plan.

    Attributes:
        jobs: Actions at once; None means as many as there are cores.
        keep_going: After a failure, still run what does not depend on it.
        ignore_estimates: Do not compare estimates of memory and disk with the machine first.
        paranoid: Read every file of the store before it is used, also where its stat says that it did not change.
        executor: ``local``, or ``ray``: on the nodes of a Ray cluster (docs/cluster.md).
        address: Address of the cluster, ``auto`` or ``host:port``; None means ``$RAY_ADDRESS``, else a Ray of this
            machine for this run.
    """

    jobs: int | None = None
    keep_going: bool = False
    ignore_estimates: bool = False
    paranoid: bool = False
    executor: Literal["local", "ray"] = "local"
    address: str | None = None

    def __post_init__(self) -> None:
        """Refuse combinations that mean nothing.

        Raises:
            ValueError: The executor is unknown, an address is given without Ray, or there are no jobs.
        """
        if self.jobs is not None and self.jobs < 1:
            raise ValueError(f"jobs is at least 1, not {self.jobs}")
        if self.executor not in ("local", "ray") or (self.executor == "local" and self.address is not None):
            raise ValueError("executor is `local` or `ray`, and only `ray` has an address")


@dataclass(frozen=True, slots=True)
class Options:
    """How to apply, on what.

    Attributes:
        capacity: What the scheduler may hand out.
        apply: What the user asked for.
    """

    capacity: Capacity
    apply: ApplyOptions = field(default_factory=ApplyOptions)
