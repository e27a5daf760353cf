"""How long actions take: measured here before, else estimated."""

from __future__ import annotations

from collections.abc import Iterable

from mmbuild.core.graph.action import Action
from mmbuild.core.graph.keys import body_key
from mmbuild.core.store.action_cache import ActionCache

GUESS = 1.0
"""Seconds for an action without an estimate, as in :func:`mmbuild.core.execution.ready_queue.priorities`."""


def estimated_seconds(action: Action) -> float:
    """Return the seconds estimated from the model's size; the same on every machine."""
    return action.resources.seconds or GUESS


def measured_seconds(actions: Iterable[Action], cache: ActionCache) -> dict[str, float]:
    """Return the measured seconds by label of actions that were built here before, with any inputs."""
    known = {record.body: record.seconds for record in cache.by_key.values() if record.seconds}
    measured: dict[str, float] = {}
    for action in actions:
        seconds = known.get(body_key(action)) if known else None
        if seconds:
            measured[action.label] = round(seconds, 3)
    return measured
