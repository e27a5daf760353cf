"""The time that an apply has left, from the estimates of its plan."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from mmbuild.core.execution.resources import machine_cores
from mmbuild.core.graph.action import Action
from mmbuild.core.graph.cost import cost_of, wall_seconds
from mmbuild.core.graph.plan import Plan, Verdict
from mmbuild.core.store.action_cache import load_cache


@dataclass(frozen=True, slots=True)
class TimeLeft:
    """What the actions of a plan take.

    Attributes:
        actions: The actions that run, producers first.
        durations: Their seconds, by label.
        cores: Cores of the machine.
    """

    actions: tuple[Action, ...]
    durations: Mapping[str, float]
    cores: int

    def seconds(
        self, done: Collection[str], running: Mapping[str, tuple[float, float | None]]
    ) -> float | None:
        """Seconds until all actions have ended; None if a running one takes longer than estimated.

        Args:
            done: Labels of the actions that have ended.
            running: Seconds that each running action has taken so far and, if known, has left, by label.
        """
        actions = [action for action in self.actions if action.label not in done]
        left: dict[str, float] = {}
        for action in actions:
            elapsed, known = running.get(action.label, (0.0, None))
            left[action.definition_key] = self.durations[action.label] - elapsed if known is None else known
            if left[action.definition_key] <= 0:
                return None
        return wall_seconds(actions, left, self.cores)


def time_left(plan: Plan) -> TimeLeft | None:
    """The estimates of ``plan``, measured before where that is known; None if there are none."""
    cost = cost_of(plan, load_cache(plan.store), machine_cores())
    actions = tuple(item.action for item in plan.actions if item.verdict in (Verdict.RUN, Verdict.UNKNOWN))
    if not any(
        cost.actions[action.definition_key].measured or action.resources.seconds for action in actions
    ):
        return None
    durations = {action.label: cost.actions[action.definition_key].seconds for action in actions}
    return TimeLeft(actions, durations, machine_cores())
