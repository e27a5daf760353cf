"""The table of steps: which function runs one, its version, and what to import before forking.

Planning reads this table without importing any step. Raise ``version`` whenever a step's output changes for
the same parameters and inputs: it is part of every key, so that results of the older code are left alone.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mmbuild.steps.base import StepContext


@dataclass(frozen=True, slots=True)
class StepSpec:
    """One kind of work.

    Attributes:
        name: The step's name as it appears in plans.
        version: Part of every key of the step.
        entry: ``module:function`` of a callable that takes one :class:`~mmbuild.steps.base.StepContext`.
        preload: Modules that the fork server imports once, before it forks workers for this step.
    """

    name: str
    version: str
    entry: str
    preload: tuple[str, ...] = ()


_TORCH = ("torch",)
_EXPORT = ("torch", "torch._inductor", "torch.export")

BUILT_IN: Mapping[str, StepSpec] = {
    spec.name: spec
    for spec in (
        StepSpec("download", "1", "mmbuild.steps.download:run"),
        StepSpec("calibration_data", "1", "mmbuild.steps.calibration_data:run"),
        StepSpec("convert", "2", "mmbuild.steps.convert:run", _TORCH),
        StepSpec("quantize", "2", "mmbuild.steps.quantize:run", _TORCH),
        StepSpec("build_llm", "2", "mmbuild.steps.build_llm:run", _EXPORT),
        StepSpec("build_visual", "1", "mmbuild.steps.build_visual:run", _EXPORT),
        StepSpec("assemble", "2", "mmbuild.steps.assemble:run"),
        StepSpec("measure", "2", "mmbuild.steps.measure:run", _TORCH),
        StepSpec("verify", "3", "mmbuild.steps.verify:run"),
        # Of backend tensorrt-llm: all commands alike, and what upstream's runner needs around its engines.
        StepSpec("toolchain", "1", "mmbuild.steps.toolchain:run"),
        StepSpec("toolchain_engine", "2", "mmbuild.steps.toolchain_engine:run"),
        StepSpec("toolchain_verify", "1", "mmbuild.steps.toolchain_verify:run"),
    )
}


def steps() -> Mapping[str, StepSpec]:
    """The registry in force.

    ``MMBUILD_STEPS=module:NAME`` replaces it; benchmarks and fault tests use this to drive the whole tool
    with trivial step bodies. Such a table must carry versions of its own, so its results never mix with real ones.
    """
    override = os.environ.get("MMBUILD_STEPS")
    if not override:
        return BUILT_IN
    module, _, name = override.partition(":")
    table: Mapping[str, StepSpec] = getattr(importlib.import_module(module), name)
    return table


def load(spec: StepSpec) -> Callable[[StepContext], None]:
    """Import the step's module and return its function."""
    module, _, name = spec.entry.partition(":")
    function: Callable[[StepContext], None] = getattr(importlib.import_module(module), name)
    return function
