"""Splits a graph into CI jobs: work that several variants share, and each variant's own work.

Three stages are enough for any recipes, so a workflow can define one job per stage. Connected shared actions form one
job. A source that alone connects otherwise separate groups (such as a vision tower used by several models) gets its
own job in an earlier stage. Every variant needs the jobs whose results it uses.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, takewhile
from typing import Literal

from mmbuild.base.diagnostics import nearest
from mmbuild.core.graph.action import Action, RecipeGraph
from mmbuild.team.ci.variants import CiError, Variant

_MOST_NAMED = 8
"""Jobs that a hint names."""


@dataclass(frozen=True, slots=True)
class MergedGraph:
    """Several graphs merged by definition key.

    Attributes:
        actions: Actions, producers before consumers; a shared action as in the first variant.
        users: Names of the variants that need each action.
    """

    actions: Mapping[str, Action]
    users: Mapping[str, tuple[str, ...]]


def union_of(graphs: Sequence[RecipeGraph]) -> MergedGraph:
    """Merge ``graphs`` in order."""
    actions: dict[str, Action] = {}
    users: dict[str, dict[str, None]] = {}
    for graph in graphs:
        for action in graph.actions:
            actions.setdefault(action.definition_key, action)
            users.setdefault(action.definition_key, {})[graph.recipe] = None
    return MergedGraph(actions, {key: tuple(names) for key, names in users.items()})


def closure(actions: Mapping[str, Action], required: Sequence[str]) -> tuple[Action, ...]:
    """Return ``required`` with everything they depend on, in the order of ``actions``."""
    needed: set[str] = set()
    pending = list(required)
    while pending:
        key = pending.pop()
        if key not in needed:
            needed.add(key)
            pending += actions[key].inputs.values()
    return tuple(action for key, action in actions.items() if key in needed)


def _only_named(action: Action) -> bool:
    """Return whether the result only refers to the user's own files: instant on every machine, never transferred."""
    return action.step == "download" and action.params.get("kind") == "path"


Kind = Literal["source", "shared", "engine"]
"""Kinds of jobs, in the order of their stages."""


@dataclass(frozen=True, slots=True)
class CiJob:
    """A CI job.

    Attributes:
        name: Stable while recipe names are unchanged; letters, digits, ``.``, ``_`` and ``-``.
        kind: ``source`` and ``shared`` build what several variants need; ``engine`` installs one variant.
        variants: The variant of an engine job; for other jobs, the variants that need it.
        files: Their recipe files, as given.
        actions: Actions that run only in this job, producers first.
        graph: The graph to apply, with all dependencies.
        needs: Names of the jobs whose results it pulls from the shared store.
    """

    name: str
    kind: Kind
    variants: tuple[str, ...]
    files: tuple[str, ...]
    actions: tuple[Action, ...]
    graph: RecipeGraph
    needs: tuple[str, ...] = ()


def jobs_of(variants: Sequence[Variant]) -> tuple[CiJob, ...]:
    """Return all jobs in the order of their stages. Each action belongs to exactly one job.

    A user's own directory, which is referenced and not copied, gets no job: its action belongs to the first variant
    that needs it, and the others repeat it at no cost.
    """
    union = union_of([variant.graph for variant in variants])
    files = {variant.name: str(variant.file) for variant in variants}
    shared = _shared_jobs(union, files, {variant.name for variant in variants})
    builder = {action.definition_key: job.name for job in shared for action in job.actions}
    owned = set(builder)
    engines: list[CiJob] = []
    for variant in variants:
        keys = [action.definition_key for action in variant.graph.actions]
        own = tuple(union.actions[key] for key in dict.fromkeys(keys) if key not in owned)
        needs = tuple(dict.fromkeys(builder[key] for key in keys if key in builder))
        owned.update(action.definition_key for action in own)
        engines.append(
            CiJob(variant.name, "engine", (variant.name,), (files[variant.name],), own, variant.graph, needs)
        )
    return (*shared, *engines)


def select(jobs: Sequence[CiJob], variants: Collection[str]) -> tuple[CiJob, ...]:
    """Return the jobs that build ``variants``, with the jobs they need."""
    required: set[str] = set()
    for job in reversed(jobs):  # dependents come after a job
        if job.name in variants if job.kind == "engine" else job.name in required:
            required.update((job.name, *job.needs))
    return tuple(job for job in jobs if job.name in required)


def job_named(jobs: Sequence[CiJob], name: str) -> CiJob:
    """Return the job ``name``.

    Raises:
        CiError: MM813, there is no such job.
    """
    for job in jobs:
        if job.name == name:
            return job
    near = nearest(name, [job.name for job in jobs])
    raise CiError(
        f"these recipes have no job `{name}`",
        code="MM813",
        hint=f"did you mean `{near}`?"
        if near
        else f"`mmbuild ci plan` lists the jobs of the same recipes: {_first(jobs)}",
    )


def _first(jobs: Sequence[CiJob]) -> str:
    more = f" and {len(jobs) - _MOST_NAMED} more" if len(jobs) > _MOST_NAMED else ""
    return ", ".join(f"`{job.name}`" for job in jobs[:_MOST_NAMED]) + more


def _groups(union: MergedGraph) -> list[tuple[Kind, list[str]]]:
    """Return the definition keys of each source and shared job, sources first."""
    shared = [key for key, users in union.users.items() if len(users) > 1]
    groups = _Groups({key: key for key in shared}, {key: set(union.users[key]) for key in shared})
    consumers: dict[str, list[str]] = {}
    for key in shared:  # the producers of a shared action are shared too
        for producer in union.actions[key].inputs.values():
            if union.actions[producer].inputs:
                groups.join(producer, key)
            else:
                consumers.setdefault(producer, []).append(key)
    separate = {source for source, users in consumers.items() if not groups.join_overlapping(users)}
    for source in consumers.keys() - separate:
        groups.join(source, consumers[source][0])
    by_root: dict[str, list[str]] = {}
    for key in shared:
        by_root.setdefault(groups.root(key), []).append(key)
    jobs: list[tuple[Kind, list[str]]] = [
        ("source" if keys[0] in separate else "shared", keys)
        for keys in by_root.values()
        if not all(_only_named(union.actions[key]) for key in keys)
    ]
    return sorted(jobs, key=lambda job: job[0] != "source")


@dataclass(slots=True)
class _Groups:
    """Disjoint sets of actions (union-find), one per job.

    Attributes:
        parent: Parent of each action; a root is its own parent.
        users: Variants that need an action of the group, by its root.
    """

    parent: dict[str, str]
    users: dict[str, set[str]]

    def root(self, key: str) -> str:
        while self.parent[key] != key:
            key = self.parent[key]
        return key

    def join(self, first: str, second: str) -> None:
        """Merge the groups of two actions."""
        first, second = self.root(first), self.root(second)
        self.parent[second] = first
        self.users[first] |= self.users[second]

    def join_overlapping(self, keys: Sequence[str]) -> bool:
        """Merge groups of ``keys`` with common users, who wait for both anyway; return whether one is left."""
        for first, second in combinations(keys, 2):
            if self.users[self.root(first)] & self.users[self.root(second)]:
                self.join(first, second)
        return len({self.root(key) for key in keys}) == 1


def _shared_jobs(union: MergedGraph, files: Mapping[str, str], taken: set[str]) -> tuple[CiJob, ...]:
    jobs: list[CiJob] = []
    builder: dict[str, str] = {}
    for kind, keys in _groups(union):
        users = tuple(dict.fromkeys(name for key in keys for name in union.users[key]))
        actions = tuple(union.actions[key] for key in keys)
        name = _free_name(kind, users, actions, taken)
        taken.add(name)
        inputs = [producer for action in actions for producer in action.inputs.values()]
        needs = tuple(dict.fromkeys(builder[key] for key in inputs if key in builder))
        builder.update(dict.fromkeys(keys, name))
        recipes = tuple(dict.fromkeys(files[user] for user in users))
        graph = RecipeGraph(name, closure(union.actions, keys), "")
        jobs.append(CiJob(name, kind, users, recipes, actions, graph, needs))
    return tuple(jobs)


def _free_name(kind: Kind, users: Sequence[str], actions: Sequence[Action], taken: Collection[str]) -> str:
    """Return a job name from the users' common words at the start, else from the hub repository, else the step."""
    step = actions[0].label.rpartition("/")[2]
    columns = zip(*(name.split("-") for name in users), strict=False)
    common = "-".join(words[0] for words in takewhile(lambda words: len(set(words)) == 1, columns))
    repository = str(actions[0].params.get("repo", "")).rpartition("/")[2]
    base = common or repository
    candidates = [f"{kind}-{base or step}", f"{kind}-{base or users[0]}-{step}"]
    candidates += [f"{candidates[-1]}-{number}" for number in range(2, len(taken) + 3)]
    return next(name for name in map(_plain, candidates) if name not in taken)


def _plain(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "_", name)
