"""How long actions take: measured here before, else estimated."""

from __future__ import annotations

from collections.abc import Iterable

from mmbuild.core.graph.action import Action
from mmbuild.core.graph.keys import body_key
from mmbuild.core.store.action_cache import ActionCache, Record

GUESS = 1.0
"""Seconds for an action without an estimate, as in :func:`mmbuild.core.execution.ready_queue.priorities`."""


def estimated_seconds(action: Action) -> float:
    """Return the seconds estimated from the model's size; the same on every machine."""
    return action.resources.seconds or GUESS


def measured_seconds(actions: Iterable[Action], cache: ActionCache) -> dict[str, float]:
    """Return the measured seconds by label of actions that were built here before, with any inputs."""
    return {label: round(record.seconds, 3) for label, record in measured_records(actions, cache).items()}


def measured_records(actions: Iterable[Action], cache: ActionCache) -> dict[str, Record]:
    """Return the newest record by label of actions that were built before, with any inputs."""
    known = {record.body: record for record in cache.by_key.values() if record.seconds}
    if not known:
        return {}
    found = {action.label: known.get(body_key(action)) for action in actions}
    return {label: record for label, record in found.items() if record is not None}
