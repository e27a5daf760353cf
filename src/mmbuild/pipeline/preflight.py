"""Before anything starts: whether this host can run what a plan needs, asked of each backend that it uses."""

from __future__ import annotations

from mmbuild.backends.table import backend
from mmbuild.core.graph.plan import Plan
from mmbuild.schema.backend_names import names
from mmbuild.steps.table import BUILT_IN


def require_ready(plan: Plan) -> None:
    """Refuse a plan whose actions cannot run here, before gigabytes are downloaded for it.

    Raises:
        MmbuildError: With everything that is missing, and what to do.
    """
    steps = {planned.action.step for planned in plan.actions}
    for name in sorted({backend_of_step(step) for step in steps} - {""}):
        backend(name).require_ready(plan)


def backend_of_step(step: str) -> str:
    """The backend in whose own environment ``step`` runs; empty for steps of mmbuild's environment."""
    if step in BUILT_IN:
        return BUILT_IN[step].backend
    return next((name for name in names() if step in backend(name).steps), "")
