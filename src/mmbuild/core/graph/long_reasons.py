"""Everything that changed since an action was last built; its reason in a plan names only the first change."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from mmbuild.core.graph.definition_diff import changes
from mmbuild.core.graph.plan import Plan, PlannedAction, Verdict
from mmbuild.core.graph.planner import last_definitions
from mmbuild.core.graph.rebuild_reasons import definition_of, read_definition
from mmbuild.core.store.action_cache import ActionCache
from mmbuild.core.store.named_builds import read_root


def long_reasons(plan: Plan, cache: ActionCache) -> Mapping[str, tuple[str, ...]]:
    """Return lines about each action of ``plan``, by definition key.

    These are all changes of its definition if it may run, where its inputs come from, and its result in the store.
    """
    roots = [read_root(plan.store, Path(build.directory)) for build in plan.builds]
    last = last_definitions(cache, roots)
    labels = {planned.action.definition_key: planned.action.label for planned in plan.actions}
    return {
        planned.action.definition_key: (
            *_changes(plan, planned, last.get(planned.action.label)),
            *(f"input `{name}`: {labels.get(key, key)}" for name, key in planned.action.inputs.items()),
            f"definition: {planned.action.definition_key}",
            *((f"artifact: {planned.record.digest}",) if planned.record is not None else ()),
        )
        for planned in plan.actions
    }


def _changes(plan: Plan, planned: PlannedAction, last: str | None) -> tuple[str, ...]:
    if planned.verdict not in (Verdict.RUN, Verdict.UNKNOWN) or last is None:
        return ()
    earlier = read_definition(plan.store, last)
    return (
        () if earlier is None else tuple(one.text for one in changes(earlier, definition_of(planned.action)))
    )
