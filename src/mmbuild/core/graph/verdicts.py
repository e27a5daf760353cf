"""What is known of each action's result, and what apply does with the action therefore."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from mmbuild.core.graph.action import Action
from mmbuild.core.graph.keys import action_key, body_key
from mmbuild.core.graph.plan import Verdict
from mmbuild.core.graph.remote_lookup import Find, RemoteLookup, RemoteResult, rebind
from mmbuild.core.store.action_cache import ActionCache, Record
from mmbuild.core.store.layout import Store


@dataclass(slots=True)
class PlanningState:
    """Work in progress: results known before the start, and the verdicts that follow from what is missing.

    Attributes:
        merged: Each action once, producers first, with the recipes that need it, by definition key.
        records: Results that are known, here or elsewhere.
        verdicts: What apply does with each action, as far as that is settled.
        store: Whose files count as being here.
        cache: The store's journal.
        find: Finds out whether there is another place to ask; None once it was asked.
        remote: That place.
        shared: Results that came from there.
        evicted: Why an action with a known result runs all the same.
    """

    merged: Mapping[str, tuple[Action, tuple[str, ...]]]
    records: dict[str, Record]
    verdicts: dict[str, Verdict]
    store: Store
    cache: ActionCache
    find: Find | None = None
    remote: RemoteLookup | None = None
    shared: dict[str, RemoteResult] = field(default_factory=dict)
    evicted: dict[str, str] = field(default_factory=dict)

    def action(self, key: str) -> Action:
        return self.merged[key][0]

    def remote_lookup(self) -> RemoteLookup | None:
        """Where else to ask; found out once."""
        if self.find is not None:
            self.remote, self.find = self.find(), None
        return self.remote

    def built_before(self, key: str) -> bool:
        """Whether the action was ever built, from whatever inputs: only then can it be cut off early."""
        return bool(self.cache.bodies) and body_key(self.action(key)) in self.cache.bodies


def find_results(state: PlanningState) -> None:
    """Follow what is known from the sources down: a result is known when those of its inputs are.

    What this store does not know is asked for elsewhere, all actions whose inputs are known at once, until nothing
    more is found.
    """
    requested: set[str] = set()
    while True:
        missing = _follow(state)
        fresh = [name for name in missing if name not in requested]
        found = state.remote.results(fresh) if state.remote is not None and fresh else {}
        if not found:
            return
        requested.update(fresh)
        for name, shared in found.items():
            for key in missing[name]:
                action = state.action(key)
                digests = {item: state.records[producer].digest for item, producer in action.inputs.items()}
                state.records[key] = rebind(shared.record, action, digests)
                state.verdicts[key] = Verdict.UP_TO_DATE
                state.shared[key] = shared


def _follow(state: PlanningState) -> dict[str, list[str]]:
    """One pass over the journal; what could be asked for elsewhere: definition keys by action key."""
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
            found = cache.find(key, digests)
            if found is None and (state.remote_lookup() or cache.by_key):
                name = action_key(action, digests)
                found = cache.by_key.get(name)
                if found is None:
                    missing.setdefault(name, []).append(key)
            if found is not None:
                state.records[key] = found
                state.verdicts[key] = Verdict.UP_TO_DATE
                continue
        state.verdicts[key] = _verdict_of_missing(state, action)
    return missing


def _verdict_of_missing(state: PlanningState, action: Action) -> Verdict:
    """An action without a result runs; only one that was built from other inputs may yet be cut off."""
    if all(producer in state.records for producer in action.inputs.values()):
        return Verdict.RUN
    return Verdict.UNKNOWN if state.built_before(action.definition_key) else Verdict.RUN


def require_inputs(state: PlanningState, restored: Mapping[str, str]) -> None:
    """Bring in the producers whose files are needed but not here, until nothing changes.

    Files are needed of what is laid out anew and of the inputs of everything that may run. They are pulled where they
    can be, else made again.
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
        lacking = [key for key in dict.fromkeys(pending) if _is_missing_files(state, key)]
        there = _can_be_pulled(state, lacking)
        pending = []
        for key in lacking:
            if key in there:
                state.verdicts[key] = Verdict.PULL
            elif state.verdicts[key] is Verdict.UP_TO_DATE:
                pending += _make_again(state, key, consumers)


def _is_missing_files(state: PlanningState, key: str) -> bool:
    return (
        state.verdicts[key] is Verdict.UP_TO_DATE
        and key in state.records
        and not state.store.has(state.records[key].digest)
    )


def _can_be_pulled(state: PlanningState, keys: Sequence[str]) -> set[str]:
    """Those whose files are elsewhere. Who publishes a result has published its files before."""
    remote = state.remote_lookup() if keys else None
    if remote is None:
        return set()
    there = {key for key in keys if key in state.shared and not state.shared[key].reference}
    others = {state.records[key].digest: key for key in keys if key not in state.shared}
    if others:
        there.update(others[digest] for digest in remote.artifacts(others))
    return there


def _make_again(state: PlanningState, key: str, consumers: Mapping[str, Sequence[str]]) -> list[str]:
    """An action runs for the sake of its files; returns what may now be needed."""
    state.verdicts[key] = Verdict.RUN
    pending = list(state.action(key).inputs.values())
    if key in state.shared:  # by reference: it comes out the same, since its key names the bytes
        state.evicted[key] = "its files are the user's own, and are needed here"
        return pending
    state.evicted[key] = "its output is no longer in the store and is needed"
    for below in _below(key, consumers):
        if state.verdicts[below] in (Verdict.UP_TO_DATE, Verdict.PULL):
            state.verdicts[below] = Verdict.UNKNOWN
            pending += state.action(below).inputs.values()
        elif below not in state.evicted and state.built_before(below):
            state.verdicts[below] = Verdict.UNKNOWN
    return pending


def _consumers(merged: Mapping[str, tuple[Action, tuple[str, ...]]]) -> dict[str, list[str]]:
    consumers: dict[str, list[str]] = {key: [] for key in merged}
    for key, (action, _) in merged.items():
        for producer in action.inputs.values():
            consumers[producer].append(key)
    return consumers


def _below(key: str, consumers: Mapping[str, Sequence[str]]) -> list[str]:
    seen: dict[str, None] = {}
    pending = list(consumers[key])
    while pending:
        below = pending.pop()
        if below not in seen:
            seen[below] = None
            pending += consumers[below]
    return list(seen)
