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
    """Return the newest record by label of actions that were built before.

    With any inputs in the same build; another build's counts where an action has none, and parameters are all that it
    depends on: quantizing has the same parameters for the largest model and the smallest.
    """
    known = {record.body: record for record in cache.by_key.values() if record.seconds}
    if not known:
        return {}
    here = {(record.label, record.body): record for record in cache.by_key.values() if record.seconds}
    found: dict[str, Record] = {}
    for action in actions:
        body = body_key(action)
        record = here.get((action.label, body)) or (None if action.inputs else known.get(body))
        if record is not None:
            found[action.label] = record
    return found
