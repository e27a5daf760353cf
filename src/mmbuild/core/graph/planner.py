"""Makes the plan: which actions run (decided in ``rebuild_decision.py``), and why (``rebuild_reasons.py``).

``plan`` and ``apply`` both call :func:`make_plan`. One decision is left to ``mmbuild.core.execution.scheduler``:
whether an action with the verdict ``UNKNOWN`` runs, once its inputs are built; the scheduler also reuses results that
appeared after planning. Planning reads the journal and the stat of files in build directories, but no artifacts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from mmbuild.base.errors import MmbuildError
from mmbuild.core.graph.action import Action, RecipeGraph
from mmbuild.core.graph.plan import Build, Plan, PlannedAction, Verdict
from mmbuild.core.graph.rebuild_decision import PlanningState, find_results, require_inputs
from mmbuild.core.graph.remote_lookup import FindRemote
from mmbuild.core.store.action_cache import ActionCache
from mmbuild.core.store.build_check import has_no_digests, intact
from mmbuild.core.store.layout import Store
from mmbuild.core.store.named_builds import Root, read_root, recipe_file

Explain = Callable[[Action, str | None], str]
"""``explain(action, key)``: why ``action`` runs; ``key`` is the definition key last built for its label, or None."""


def make_plan(
    graphs: Sequence[RecipeGraph],
    store: Store,
    cache: ActionCache,
    build_dir: Path,
    explain: Explain,
    remote: FindRemote | None = None,
) -> Plan:
    """Plan every action in ``graphs``. ``remote`` is called only once a local result is missing.

    Raises:
        MmbuildError: MM204, two recipes have one name; MM205, an input has no producer.
    """
    merged = _merge(graphs)
    roots = {graph.recipe: read_root(store, build_dir / graph.recipe) for graph in graphs}
    builds = tuple(_build(graph, build_dir, roots[graph.recipe], store) for graph in graphs if graph.engine)
    state = PlanningState(merged, {}, {}, store, cache, remote)
    find_results(state)
    restored = _required_restores(state, builds, roots)
    require_inputs(state, restored)
    last = last_definitions(cache, roots.values())

    def reason(action: Action) -> str:
        return explain(action, last.get(action.label))

    actions = tuple(_planned(state, key, users, restored, reason) for key, (_, users) in merged.items())
    replacing = tuple(
        replace(build, replaces=_replaced_file(build, roots[build.recipe], state)) for build in builds
    )
    return Plan(actions, replacing, store, state.remote)


def _merge(graphs: Sequence[RecipeGraph]) -> dict[str, tuple[Action, tuple[str, ...]]]:
    """Return each action once by definition key, with the recipes that need it."""
    actions: dict[str, Action] = {}
    users: dict[str, list[str]] = {}
    names: set[str] = set()
    for graph in graphs:
        if graph.recipe in names:
            raise MmbuildError(
                f"two recipes are named `{graph.recipe}`",
                code="MM204",
                hint="give each its own `name`: it names the engine directory",
            )
        names.add(graph.recipe)
        for action in graph.actions:
            key = action.definition_key
            for name, producer in action.inputs.items():
                if producer not in actions:
                    raise MmbuildError(
                        f"no action before `{action.label}` produces its input `{name}`",
                        code="MM205",
                        hint="this is a bug in mmbuild; please report it",
                    )
            actions.setdefault(key, action)
            users.setdefault(key, []).append(graph.recipe)
    return {key: (action, tuple(dict.fromkeys(users[key]))) for key, action in actions.items()}


def _build(graph: RecipeGraph, build_dir: Path, root: Root | None, store: Store) -> Build:
    consumed = {key for action in graph.actions for key in action.inputs.values()}
    targets = {"": graph.engine}
    for action in graph.actions:
        if action.definition_key not in consumed and action.definition_key != graph.engine:
            # The same path for the same kind of step in every backend.
            targets[action.step.removeprefix("toolchain_")] = action.definition_key
    labels = {action.label: action.definition_key for action in graph.actions}
    unchanged = root is not None and intact(store, root)
    return Build(
        graph.recipe, build_dir / graph.recipe, targets, labels, unchanged, graph.settings, graph.file
    )


def _required_restores(
    state: PlanningState, builds: Iterable[Build], roots: Mapping[str, Root | None]
) -> dict[str, str]:
    """Return the known results that are not installed in their engine directory: definition key -> reason."""
    required: dict[str, str] = {}
    for build in builds:
        root = roots[build.recipe]
        for place, key in build.targets.items():
            if key not in state.records:
                continue
            reason = _restore_reason(build, root, place, state.records[key].digest)
            if reason is not None:
                required.setdefault(key, reason)
    return required


def _restore_reason(build: Build, root: Root | None, place: str, digest: str) -> str | None:
    name = f"{build.directory.parent.name}/{build.recipe}"
    if root is None or not root.files:
        return f"`{name}` has not been installed yet"
    if root.targets.get(place) != digest:
        return f"`{name}` contains another build"
    if root.void:
        return f"`{name}` {root.void}"
    if has_no_digests(root):
        return f"`{name}` was installed by an earlier version, without digests"
    if not build.intact:
        return f"`{name}` is missing or was changed"
    return None


def _replaced_file(build: Build, root: Root | None, state: PlanningState) -> str:
    """The recipe file that the engine directory was built from, if apply replaces it from another one; else ""."""
    kept = all(
        key in state.records and _restore_reason(build, root, place, state.records[key].digest) is None
        for place, key in build.targets.items()
    )
    file = "" if kept else recipe_file(build.directory)
    return file if build.file and file != build.file else ""


def last_definitions(cache: ActionCache, roots: Iterable[Root | None]) -> dict[str, str]:
    """Return the last definition key by label: from the last named build, else the last finished action."""
    last = dict(cache.last_definition)
    for root in roots:
        if root is not None:
            last.update(root.definitions)
    return last


def _planned(
    state: PlanningState,
    key: str,
    users: tuple[str, ...],
    restored: Mapping[str, str],
    reason: Callable[[Action], str],
) -> PlannedAction:
    action, verdict = state.action(key), state.verdicts[key]
    record = state.records.get(key)
    if verdict is Verdict.PULL:
        why = f"the shared store has it, and {restored.get(key) or 'an action that runs needs it'}"
        return PlannedAction(action, users, verdict, why, record)
    if verdict is Verdict.UP_TO_DATE and key in restored:
        return PlannedAction(action, users, Verdict.RESTORE, restored[key], record)
    if verdict is Verdict.UP_TO_DATE:
        why = "the shared store has it, and nothing here needs its files"
        return PlannedAction(
            action, users, verdict, why if key in state.shared else "nothing it depends on changed", record
        )
    if verdict is Verdict.UNKNOWN:
        return PlannedAction(action, users, verdict, _waits_for(state, action))
    return PlannedAction(action, users, verdict, state.evicted.get(key) or reason(action))


def _waits_for(state: PlanningState, action: Action) -> str:
    for name, producer in action.inputs.items():
        if state.verdicts[producer] in (Verdict.RUN, Verdict.UNKNOWN):
            return f"depends on the result of `{state.action(producer).label}` (input `{name}`)"
    return "an input may change"
