"""Checks, before anything starts, that this host can run a plan, by calling each backend it uses."""

from __future__ import annotations

from mmbuild.backends.table import backend
from mmbuild.core.graph.plan import Plan
from mmbuild.schema.backend_names import names
from mmbuild.steps.table import STEPS


def require_ready(plan: Plan) -> None:
    """Refuse a plan whose actions cannot run on this host, before downloading gigabytes for it.

    Raises:
        MmbuildError: Lists everything that is missing and how to fix it.
    """
    steps = {planned.action.step for planned in plan.actions}
    for name in sorted({backend_of_step(step) for step in steps} - {""}):
        backend(name).require_ready(plan)


def backend_of_step(step: str) -> str:
    """The backend whose environment runs ``step``; empty if mmbuild's own environment does."""
    if step in STEPS:
        return STEPS[step].backend
    return next((name for name in names() if step in backend(name).steps), "")
