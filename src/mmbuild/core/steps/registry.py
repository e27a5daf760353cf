"""What a table of steps holds, and which table is in force."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mmbuild.base.entries import load_entry

if TYPE_CHECKING:
    from mmbuild.core.steps.context import StepContext


@dataclass(frozen=True, slots=True)
class StepSpec:
    """One kind of work.

    Attributes:
        name: The step's name as it appears in plans.
        version: Part of every key of the step. Raise it whenever a step's output changes for the same parameters and
            inputs, so that results of the older code are left alone.
        entry: ``module:function`` of a callable that takes one :class:`~mmbuild.core.steps.context.StepContext`.
        preload: Modules that the fork server imports once, before it forks workers for this step.
        backend: The backend whose own environment the step runs in; empty for mmbuild's environment.
    """

    name: str
    version: str
    entry: str
    preload: tuple[str, ...] = ()
    backend: str = ""


_BUILT_IN = "mmbuild.steps.table:BUILT_IN"

DIRECTORIES = "mmbuild.models.sources.resolve"
"""The module that says which files of a user's directory count, and what their digest is."""


def steps() -> Mapping[str, StepSpec]:
    """The registry in force.

    ``MMBUILD_STEPS=module:NAME`` replaces it; benchmarks and fault tests use this to drive the whole tool
    with trivial step bodies. Such a table must carry versions of its own, so its results never mix with real ones.
    """
    table: Mapping[str, StepSpec] = load_entry(os.environ.get("MMBUILD_STEPS") or _BUILT_IN)
    return table


def load(spec: StepSpec) -> Callable[[StepContext], None]:
    """Import the step's module and return its function."""
    function: Callable[[StepContext], None] = load_entry(spec.entry)
    return function
