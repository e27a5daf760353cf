"""Decides which actions run: looks up each action's result and derives the action's verdict.

Actions whose inputs are built first may be :attr:`~mmbuild.core.graph.plan.Verdict.UNKNOWN`: their keys depend on
those inputs. ``mmbuild.core.execution.scheduler`` decides about them while the plan runs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from mmbuild.core.graph.action import Action
from mmbuild.core.graph.keys import action_key, body_key
from mmbuild.core.graph.plan import Verdict
from mmbuild.core.graph.remote_lookup import FindRemote, RemoteLookup, RemoteResult, rebind
from mmbuild.core.store.action_cache import ActionCache, Record
from mmbuild.core.store.layout import Store


@dataclass(slots=True)
class PlanningState:
    """Working state of the planner: known results, and the verdicts that follow from missing ones.

    Attributes:
        merged: Each action once, producers first, with the recipes that need it, by definition key.
        records: Known results, local or remote.
        verdicts: What apply does with each action, as far as decided.
        store: The local store.
        cache: The store's journal.
        find_remote: Opens the remote cache; None once it was called.
        remote: The remote cache.
        shared: Results from the remote cache.
        evicted: Why an action with a known result runs anyway.
    """

    merged: Mapping[str, tuple[Action, tuple[str, ...]]]
    records: dict[str, Record]
    verdicts: dict[str, Verdict]
    store: Store
    cache: ActionCache
    find_remote: FindRemote | None = None
    remote: RemoteLookup | None = None
    shared: dict[str, RemoteResult] = field(default_factory=dict)
    evicted: dict[str, str] = field(default_factory=dict)

    def action(self, key: str) -> Action:
        return self.merged[key][0]

    def remote_lookup(self) -> RemoteLookup | None:
        """Return the remote cache, opening it on the first call."""
        if self.find_remote is not None:
            self.remote, self.find_remote = self.find_remote(), None
        return self.remote

    def built_before(self, key: str) -> bool:
        """Return whether the action was ever built for this build, from any inputs: only then is early cutoff likely.
        Quantizing another model has the same parameters, and another result."""
        action = self.action(key)
        return bool(self.cache.bodies) and (action.label, body_key(action)) in self.cache.bodies


def find_results(state: PlanningState) -> None:
    """Look up results from the sources down: a result can be looked up once the results of its inputs are known.

    Results missing from the journal are requested from the remote cache, for all actions with known inputs at once,
    until it returns no more.
    """
    requested: set[str] = set()
    while True:
        missing = _look_up_local(state)
        fresh = [name for name in missing if name not in requested]
        results = state.remote.results(fresh) if state.remote is not None and fresh else {}
        if not results:
            return
        requested.update(fresh)
        for name, shared in results.items():
            for key in missing[name]:
                action = state.action(key)
                digests = {item: state.records[producer].digest for item, producer in action.inputs.items()}
                state.records[key] = rebind(shared.record, action, digests)
                state.verdicts[key] = Verdict.UP_TO_DATE
                state.shared[key] = shared


def _look_up_local(state: PlanningState) -> dict[str, list[str]]:
    """Look up every result in the journal; return what the remote cache may have: definition keys by action key."""
    cache, missing = state.cache, dict[str, list[str]]()
    for key, (action, _) in state.merged.items():
        if key in state.records:
            continue
        digests: dict[str, str] = {}
        for name, producer in action.inputs.items():
            if producer not in state.records:
                break
            digests[name] = state.records[producer].digest
        else:
            record = cache.find(key, digests)
            if record is None and (state.remote_lookup() or cache.by_key):
                name = action_key(action, digests)
                record = cache.by_key.get(name)
                if record is None:
                    missing.setdefault(name, []).append(key)
            if record is not None:
                state.records[key] = record
                state.verdicts[key] = Verdict.UP_TO_DATE
                continue
        state.verdicts[key] = _verdict_of_missing(state, action)
    return missing


def _verdict_of_missing(state: PlanningState, action: Action) -> Verdict:
    """Return the verdict of an action without a result: it runs, unless early cutoff is still possible."""
    if all(producer in state.records for producer in action.inputs.values()):
        return Verdict.RUN
    return Verdict.UNKNOWN if state.built_before(action.definition_key) else Verdict.RUN


def require_inputs(state: PlanningState, restored: Mapping[str, str]) -> None:
    """Pull or rebuild producers whose files are needed but missing from the store, until nothing changes.

    Files are needed for engine directories to restore and for the inputs of every action that may run. They are
    pulled if possible, otherwise built again.
    """
    pending = list(restored)
    pending += [
        producer
        for key, verdict in state.verdicts.items()
        if verdict is not Verdict.UP_TO_DATE
        for producer in state.action(key).inputs.values()
    ]
    consumers = _consumers(state.merged)
    while pending:
        missing = [key for key in dict.fromkeys(pending) if _is_missing_files(state, key)]
        pullable = _pullable(state, missing)
        pending = []
        for key in missing:
            if key in pullable:
                state.verdicts[key] = Verdict.PULL
            elif state.verdicts[key] is Verdict.UP_TO_DATE:
                pending += _rebuild(state, key, consumers)


def _is_missing_files(state: PlanningState, key: str) -> bool:
    return (
        state.verdicts[key] is Verdict.UP_TO_DATE
        and key in state.records
        and not state.store.has(state.records[key].digest)
    )


def _pullable(state: PlanningState, keys: Sequence[str]) -> set[str]:
    """Return the keys whose files are in the remote cache. Files are published before their result."""
    remote = state.remote_lookup() if keys else None
    if remote is None:
        return set()
    pullable = {key for key in keys if key in state.shared and not state.shared[key].reference}
    others = {state.records[key].digest: key for key in keys if key not in state.shared}
    if others:
        pullable.update(others[digest] for digest in remote.artifacts(others))
    return pullable


def _rebuild(state: PlanningState, key: str, consumers: Mapping[str, Sequence[str]]) -> list[str]:
    """Run an action again because its files are missing; return the producers whose files may now be needed."""
    state.verdicts[key] = Verdict.RUN
    pending = list(state.action(key).inputs.values())
    if key in state.shared:  # a reference: the result is identical, since its key determines the bytes
        state.evicted[key] = "its files are the user's own, and are needed here"
        return pending
    state.evicted[key] = "its output is no longer in the store and is needed"
    for dependent in _dependents(key, consumers):
        if state.verdicts[dependent] in (Verdict.UP_TO_DATE, Verdict.PULL):
            state.verdicts[dependent] = Verdict.UNKNOWN
            pending += state.action(dependent).inputs.values()
        elif dependent not in state.evicted and state.built_before(dependent):
            state.verdicts[dependent] = Verdict.UNKNOWN
    return pending


def _consumers(merged: Mapping[str, tuple[Action, tuple[str, ...]]]) -> dict[str, list[str]]:
    consumers: dict[str, list[str]] = {key: [] for key in merged}
    for key, (action, _) in merged.items():
        for producer in action.inputs.values():
            consumers[producer].append(key)
    return consumers


def _dependents(key: str, consumers: Mapping[str, Sequence[str]]) -> list[str]:
    """Return the transitive consumers of an action."""
    seen: dict[str, None] = {}
    pending = list(consumers[key])
    while pending:
        dependent = pending.pop()
        if dependent not in seen:
            seen[dependent] = None
            pending += consumers[dependent]
    return list(seen)
