"""Plans as text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from mmbuild.core.graph.plan import Plan, Verdict

_SHOWN_FIRST = (Verdict.RUN, Verdict.UNKNOWN, Verdict.PULL, Verdict.RESTORE)


def plan_text(plan: Plan) -> str:
    """One line for each action: verdict, label, reason; then a summary line."""
    width = max((len(p.action.label) for p in plan.actions), default=0)
    verdicts = max((len(p.verdict) for p in plan.actions), default=0)
    lines = [
        f"{p.verdict:<{verdicts}}  {p.action.label:<{width}}  {p.reason}{_shared(p.recipes)}"
        for p in plan.actions
    ]
    return "\n".join([*lines, summary(plan)]) + "\n"


def summary(plan: Plan) -> str:
    """Counts in one line: ``3 to run, 1 unknown until built, 4 up to date``."""
    if not plan.changes:
        return f"everything is up to date ({len(plan.actions)} actions)"
    names = {Verdict.RUN: "to run", Verdict.PULL: "to pull", Verdict.RESTORE: "to restore"}
    counts = {verdict: plan.count(verdict) for verdict in (*_SHOWN_FIRST, Verdict.UP_TO_DATE)}
    return ", ".join(f"{count} {names.get(verdict, verdict)}" for verdict, count in counts.items() if count)


def derivation_text(derivations: Mapping[str, Sequence[str]]) -> str:
    """How each derived number follows, by variant."""
    return "\n".join(_derivation_lines(derivations)) + "\n"


def _derivation_lines(derivations: Mapping[str, Sequence[str]]) -> Iterator[str]:
    for name, lines in derivations.items():
        yield f"{name}:"
        for line in lines:
            yield f"  {line}"


def _shared(recipes: tuple[str, ...]) -> str:
    return f" (shared by {len(recipes)} recipes)" if len(recipes) > 1 else ""
