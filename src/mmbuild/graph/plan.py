"""Plans: which actions run, and why, in one sentence each.

``plan`` and ``apply`` both call :func:`make_plan`; nothing else decides what runs. It reads the journal and
the stat of build directories, and no artifact.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path

from mmbuild.canonical import hash_json
from mmbuild.errors import MmbuildError
from mmbuild.graph.action import Action, RecipeGraph
from mmbuild.graph.elsewhere import Elsewhere, Find, Shared, adapted
from mmbuild.graph.keys import action_key, body_key
from mmbuild.store.journal import ActionCache, Record
from mmbuild.store.layout import Store
from mmbuild.store.roots import Root, intact, read_root


class Verdict(StrEnum):
    """What apply does with an action."""

    RUN = "run"
    PULL = "pull"
    RESTORE = "restore"
    UP_TO_DATE = "up to date"
    UNKNOWN = "unknown until built"


@dataclass(frozen=True, slots=True)
class Planned:
    """One action of a plan.

    Attributes:
        action: The action; of those that several recipes share, the first.
        recipes: Names of the variants that need it.
        verdict: What apply does.
        reason: Why, one sentence without a full stop.
        record: Its finished result, where there is one for exactly these inputs.
    """

    action: Action
    recipes: tuple[str, ...]
    verdict: Verdict
    reason: str
    record: Record | None = None


@dataclass(frozen=True, slots=True)
class Build:
    """One engine directory of a plan.

    Attributes:
        recipe: Name of the variant.
        directory: Absolute path of the engine directory.
        targets: Definition key by place in the directory; ``""`` is the engine itself.
        actions: Definition key by label, producers first.
        intact: Whether the directory holds what was last laid out there, by stat.
    """

    recipe: str
    directory: Path
    targets: Mapping[str, str]
    actions: Mapping[str, str]
    intact: bool = False


@dataclass(frozen=True, slots=True)
class Plan:
    """What an apply does, in an order that has producers first.

    Attributes:
        actions: Each distinct action once.
        builds: The engine directories to fill.
        store: Where results are and go.
        elsewhere: Where else results may be; None for nowhere.
    """

    actions: tuple[Planned, ...]
    builds: tuple[Build, ...]
    store: Store
    elsewhere: Elsewhere | None = field(default=None, compare=False, repr=False)

    @property
    def hash(self) -> str:
        """BLAKE3, hex, over the definition keys and build names: what is asked for, whatever is built."""
        wanted = {build.recipe: dict(build.targets) for build in self.builds}
        return hash_json({"actions": sorted(p.action.definition_key for p in self.actions), "builds": wanted})

    @property
    def changes(self) -> bool:
        """Whether apply would do anything."""
        return any(planned.verdict is not Verdict.UP_TO_DATE for planned in self.actions)

    def count(self, verdict: Verdict) -> int:
        """How many actions have this verdict."""
        return sum(planned.verdict is verdict for planned in self.actions)


Why = Callable[[Action, str | None], str]
"""``why(action, definition key of the last build of the same label)``: the reason that it runs."""


def make_plan(
    graphs: Sequence[RecipeGraph],
    store: Store,
    cache: ActionCache,
    build_dir: Path,
    why: Why,
    elsewhere: Find | None = None,
) -> Plan:
    """Decide for every action of ``graphs``. ``elsewhere`` is called when something is missing here, and not before.

    Raises:
        MmbuildError: MM204 two recipes have one name, MM205 an input that nothing makes.
    """
    merged = _merge(graphs)
    roots = {graph.recipe: read_root(store, build_dir / graph.recipe) for graph in graphs}
    builds = tuple(_build(graph, build_dir, roots[graph.recipe]) for graph in graphs)
    state = _State(merged, {}, {}, store, cache, elsewhere)
    _find_results(state)
    restored = _wanted_restores(state, builds, roots)
    _settle(state, restored)
    last = _last_definitions(cache, roots.values())

    def reason(action: Action) -> str:
        return why(action, last.get(action.label))

    actions = tuple(_planned(state, key, users, restored, reason) for key, (_, users) in merged.items())
    return Plan(actions, builds, store, state.elsewhere)


def graphs_of(plan: Plan) -> list[RecipeGraph]:
    """What ``plan`` was made from, to make it again."""
    actions = {planned.action.definition_key: planned.action for planned in plan.actions}
    # An action that several recipes share stands in the plan under one label; keys decide, not labels.
    return [
        RecipeGraph(
            build.recipe,
            tuple(replace(actions[key], label=label) for label, key in build.actions.items()),
            build.targets[""],
        )
        for build in plan.builds
    ]


@dataclass(slots=True)
class _State:
    """Work in progress: results known before the start, and the verdicts that follow from what is missing."""

    merged: Mapping[str, tuple[Action, tuple[str, ...]]]
    records: dict[str, Record]
    verdicts: dict[str, Verdict]
    store: Store
    cache: ActionCache
    find: Find | None = None
    elsewhere: Elsewhere | None = None
    shared: dict[str, Shared] = field(default_factory=dict)
    evicted: dict[str, str] = field(default_factory=dict)

    def action(self, key: str) -> Action:
        return self.merged[key][0]

    def look_elsewhere(self) -> Elsewhere | None:
        """Where else to ask; found out once."""
        if self.find is not None:
            self.elsewhere, self.find = self.find(), None
        return self.elsewhere

    def built_before(self, key: str) -> bool:
        """Whether the action was ever built, from whatever inputs: only then can it be cut off early."""
        return bool(self.cache.bodies) and body_key(self.action(key)) in self.cache.bodies


def _merge(graphs: Sequence[RecipeGraph]) -> dict[str, tuple[Action, tuple[str, ...]]]:
    """Each definition key once, with the recipes that need it."""
    actions: dict[str, Action] = {}
    users: dict[str, list[str]] = {}
    names: set[str] = set()
    for graph in graphs:
        if graph.recipe in names:
            raise MmbuildError(
                f"two recipes are named `{graph.recipe}`",
                code="MM204",
                hint="give each a `name` of its own: it names the engine directory",
            )
        names.add(graph.recipe)
        for action in graph.actions:
            key = action.definition_key
            for name, producer in action.inputs.items():
                if producer not in actions:
                    raise MmbuildError(
                        f"nothing before `{action.label}` makes its input `{name}`",
                        code="MM205",
                        hint="this is a bug in mmbuild; please report it",
                    )
            actions.setdefault(key, action)
            users.setdefault(key, []).append(graph.recipe)
    return {key: (action, tuple(dict.fromkeys(users[key]))) for key, action in actions.items()}


def _build(graph: RecipeGraph, build_dir: Path, root: Root | None) -> Build:
    consumed = {key for action in graph.actions for key in action.inputs.values()}
    targets = {"": graph.engine}
    for action in graph.actions:
        if action.definition_key not in consumed and action.definition_key != graph.engine:
            # One place for the same kind of work, whichever backend it is of.
            targets[action.step.removeprefix("toolchain_")] = action.definition_key
    labels = {action.label: action.definition_key for action in graph.actions}
    return Build(graph.recipe, build_dir / graph.recipe, targets, labels, root is not None and intact(root))


def _find_results(state: _State) -> None:
    """Follow what is known from the sources down: a result is known when those of its inputs are.

    What this store does not know is asked for elsewhere, all actions whose inputs are known at once, until nothing
    more is found.
    """
    asked: set[str] = set()
    while True:
        missing = _follow(state)
        fresh = [name for name in missing if name not in asked]
        found = state.elsewhere.results(fresh) if state.elsewhere is not None and fresh else {}
        if not found:
            return
        asked.update(fresh)
        for name, shared in found.items():
            for key in missing[name]:
                action = state.action(key)
                digests = {item: state.records[producer].digest for item, producer in action.inputs.items()}
                state.records[key] = adapted(shared.record, action, digests)
                state.verdicts[key] = Verdict.UP_TO_DATE
                state.shared[key] = shared


def _follow(state: _State) -> dict[str, list[str]]:
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
            if found is None and (state.look_elsewhere() or cache.by_key):
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


def _verdict_of_missing(state: _State, action: Action) -> Verdict:
    """An action without a result runs; only one that was built from other inputs may yet be cut off."""
    if all(producer in state.records for producer in action.inputs.values()):
        return Verdict.RUN
    return Verdict.UNKNOWN if state.built_before(action.definition_key) else Verdict.RUN


def _wanted_restores(
    state: _State, builds: Iterable[Build], roots: Mapping[str, Root | None]
) -> dict[str, str]:
    """Known results that are not where they belong: definition key -> reason."""
    wanted: dict[str, str] = {}
    for build in builds:
        root = roots[build.recipe]
        for place, key in build.targets.items():
            if key not in state.records:
                continue
            reason = _restore_reason(build, root, place, state.records[key].digest)
            if reason is not None:
                wanted.setdefault(key, reason)
    return wanted


def _restore_reason(build: Build, root: Root | None, place: str, digest: str) -> str | None:
    name = f"{build.directory.parent.name}/{build.recipe}"
    if root is None or not root.files:
        return f"`{name}` has not been laid out yet"
    if root.targets.get(place) != digest:
        return f"`{name}` holds another build"
    if not build.intact:
        return f"`{name}` is missing or was altered"
    return None


def _settle(state: _State, restored: Mapping[str, str]) -> None:
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
        lacking = [key for key in dict.fromkeys(pending) if _lacks_files(state, key)]
        there = _can_be_pulled(state, lacking)
        pending = []
        for key in lacking:
            if key in there:
                state.verdicts[key] = Verdict.PULL
            elif state.verdicts[key] is Verdict.UP_TO_DATE:
                pending += _make_again(state, key, consumers)


def _lacks_files(state: _State, key: str) -> bool:
    return (
        state.verdicts[key] is Verdict.UP_TO_DATE
        and key in state.records
        and not state.store.has(state.records[key].digest)
    )


def _can_be_pulled(state: _State, keys: Sequence[str]) -> set[str]:
    """Those whose files are elsewhere. Who publishes a result has published its files before."""
    elsewhere = state.look_elsewhere() if keys else None
    if elsewhere is None:
        return set()
    there = {key for key in keys if key in state.shared and not state.shared[key].reference}
    others = {state.records[key].digest: key for key in keys if key not in state.shared}
    if others:
        there.update(others[digest] for digest in elsewhere.artifacts(others))
    return there


def _make_again(state: _State, key: str, consumers: Mapping[str, Sequence[str]]) -> list[str]:
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


def _last_definitions(cache: ActionCache, roots: Iterable[Root | None]) -> dict[str, str]:
    """Definition key by label: of the last named build, else of the last action that finished."""
    last = dict(cache.last_definition)
    for root in roots:
        if root is not None:
            last.update(root.definitions)
    return last


def _planned(
    state: _State,
    key: str,
    users: tuple[str, ...],
    restored: Mapping[str, str],
    reason: Callable[[Action], str],
) -> Planned:
    action, verdict = state.action(key), state.verdicts[key]
    record = state.records.get(key)
    if verdict is Verdict.PULL:
        why = f"the shared store has it, and {restored.get(key) or 'what runs needs it'}"
        return Planned(action, users, verdict, why, record)
    if verdict is Verdict.UP_TO_DATE and key in restored:
        return Planned(action, users, Verdict.RESTORE, restored[key], record)
    if verdict is Verdict.UP_TO_DATE:
        why = "the shared store has it, and nothing here needs its files"
        return Planned(
            action, users, verdict, why if key in state.shared else "nothing it depends on changed", record
        )
    if verdict is Verdict.UNKNOWN:
        return Planned(action, users, verdict, _waits_for(state, action))
    return Planned(action, users, verdict, state.evicted.get(key) or reason(action))


def _waits_for(state: _State, action: Action) -> str:
    for name, producer in action.inputs.items():
        if state.verdicts[producer] in (Verdict.RUN, Verdict.UNKNOWN):
            return f"depends on what `{state.action(producer).label}` makes (input `{name}`)"
    return "an input may change"
