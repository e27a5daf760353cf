"""The step registry: entries, and the table in use."""

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
    """Registry entry of a step.

    Attributes:
        name: The step's name as it appears in plans.
        version: Part of every key of the step. Increase it whenever the step's output changes for the same parameters
            and inputs, so that results of older code are not used.
        entry: ``module:function`` of a callable that takes a :class:`~mmbuild.core.steps.context.StepContext`.
        preload: Modules that the fork server imports once, before it forks workers for this step.
        backend: The backend whose own environment the step runs in; empty for mmbuild's environment.
    """

    name: str
    version: str
    entry: str
    preload: tuple[str, ...] = ()
    backend: str = ""


_DEFAULT = "mmbuild.steps.table:STEPS"

DIRECTORIES = "mmbuild.models.sources.resolve"
"""Module that selects the files of a user's directory and computes their digest."""


def steps() -> Mapping[str, StepSpec]:
    """Return the registry in use.

    ``MMBUILD_STEPS=module:NAME`` replaces it; benchmarks and fault tests use this to run the whole tool
    with trivial steps. Such a table must use its own versions, so that its results never mix with real ones.
    """
    table: Mapping[str, StepSpec] = load_entry(os.environ.get("MMBUILD_STEPS") or _DEFAULT)
    return table


def load(spec: StepSpec) -> Callable[[StepContext], None]:
    """Import the step's module and return its function."""
    function: Callable[[StepContext], None] = load_entry(spec.entry)
    return function
