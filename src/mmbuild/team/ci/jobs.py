"""Jobs of a CI service: what several variants need is done in one job, and each variant's own work in another.

Three stages are enough, whatever the recipes, so that a workflow can be written down once with a job for each. Shared
actions that hang together are one job; a source that would tie together what hangs together by nothing else (a vision
tower's weights under several models) is one before those; and every variant needs the jobs whose results it takes.
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


@dataclass(frozen=True, slots=True)
class MergedGraph:
    """Attributes by definition key.

    Attributes:
        actions: Producers before consumers; of those that several variants share, the first's.
        users: Names of the variants that need it.
    """

    actions: Mapping[str, Action]
    users: Mapping[str, tuple[str, ...]]


def union_of(graphs: Sequence[RecipeGraph]) -> MergedGraph:
    """Merge ``graphs``, in their order."""
    actions: dict[str, Action] = {}
    users: dict[str, dict[str, None]] = {}
    for graph in graphs:
        for action in graph.actions:
            actions.setdefault(action.definition_key, action)
            users.setdefault(action.definition_key, {})[graph.recipe] = None
    return MergedGraph(actions, {key: tuple(names) for key, names in users.items()})


def closure(actions: Mapping[str, Action], required: Sequence[str]) -> tuple[Action, ...]:
    """``required`` with everything it is made from, in the order of ``actions``."""
    needed: set[str] = set()
    pending = list(required)
    while pending:
        key = pending.pop()
        if key not in needed:
            needed.add(key)
            pending += actions[key].inputs.values()
    return tuple(action for key, action in actions.items() if key in needed)


def only_named(action: Action) -> bool:
    """Whether the result is the user's own files under a name: made on every machine in no time, carried to none."""
    return action.step == "download" and action.params.get("kind") == "path"


Kind = Literal["source", "shared", "engine"]
"""In the order of running."""


@dataclass(frozen=True, slots=True)
class CiJob:
    """One job.

    Attributes:
        name: Stable as long as recipes are called the same; letters, digits, ``.``, ``_`` and ``-``.
        kind: ``source`` and ``shared`` make what several variants need; ``engine`` lays out one variant.
        variants: The variant; of other jobs those that need it.
        files: Their recipe files, as they were given.
        actions: What is done here and in no other job, producers first.
        graph: What has to be applied for that, with all that it is made from.
        needs: Names of the jobs whose results it takes from the shared store.
    """

    name: str
    kind: Kind
    variants: tuple[str, ...]
    files: tuple[str, ...]
    actions: tuple[Action, ...]
    graph: RecipeGraph
    needs: tuple[str, ...] = ()


def jobs_of(variants: Sequence[Variant]) -> tuple[CiJob, ...]:
    """All jobs in the order of their stages. Each action belongs to exactly one.

    Directories of the user's own, which are referred to and not copied, make no job by themselves: their action
    belongs to the first of its variants and is repeated, at no cost, by the others.
    """
    union = union_of([variant.graph for variant in variants])
    files = {variant.name: str(variant.file) for variant in variants}
    shared = _shared_jobs(union, files, {variant.name for variant in variants})
    maker = {action.definition_key: job.name for job in shared for action in job.actions}
    owned = set(maker)
    engines: list[CiJob] = []
    for variant in variants:
        keys = [action.definition_key for action in variant.graph.actions]
        own = tuple(union.actions[key] for key in dict.fromkeys(keys) if key not in owned)
        needs = tuple(dict.fromkeys(maker[key] for key in keys if key in maker))
        owned.update(action.definition_key for action in own)
        engines.append(
            CiJob(variant.name, "engine", (variant.name,), (files[variant.name],), own, variant.graph, needs)
        )
    return (*shared, *engines)


def select(jobs: Sequence[CiJob], variants: Collection[str]) -> tuple[CiJob, ...]:
    """The jobs that build ``variants``, with what they need."""
    required: set[str] = set()
    for job in reversed(jobs):  # whoever needs a job stands behind it
        if job.name in variants if job.kind == "engine" else job.name in required:
            required.update((job.name, *job.needs))
    return tuple(job for job in jobs if job.name in required)


def job_named(jobs: Sequence[CiJob], name: str) -> CiJob:
    """The job called ``name``.

    Raises:
        CiError: MM813, there is none.
    """
    for job in jobs:
        if job.name == name:
            return job
    near = nearest(name, [job.name for job in jobs])
    raise CiError(
        f"these recipes have no job `{name}`",
        code="MM813",
        hint=f"Did you mean `{near}`?" if near else "`mmbuild matrix` lists the jobs of the same recipes",
    )


def _groups(union: MergedGraph) -> list[tuple[Kind, list[str]]]:
    """Definition keys of each job that is no engine's, sources first."""
    shared = [key for key, users in union.users.items() if len(users) > 1]
    groups = _Groups({key: key for key in shared}, {key: set(union.users[key]) for key in shared})
    consumers: dict[str, list[str]] = {}
    for key in shared:  # whoever needs an action needs its producers: these are shared too
        for producer in union.actions[key].inputs.values():
            if union.actions[producer].inputs:
                groups.join(producer, key)
            else:
                consumers.setdefault(producer, []).append(key)
    ties = {source for source, below in consumers.items() if not groups.join_overlapping(below)}
    for source in consumers.keys() - ties:
        groups.join(source, consumers[source][0])
    found: dict[str, list[str]] = {}
    for key in shared:
        found.setdefault(groups.root(key), []).append(key)
    whole: list[tuple[Kind, list[str]]] = [
        ("source" if keys[0] in ties else "shared", keys)
        for keys in found.values()
        if not all(only_named(union.actions[key]) for key in keys)
    ]
    return sorted(whole, key=lambda item: item[0] != "source")


@dataclass(slots=True)
class _Groups:
    """Actions on their way to jobs: each leads to another of its group, and the last one stands for the group.

    Attributes:
        parent: Where each leads.
        users: Variants that need something of a group, by the one that stands for it.
    """

    parent: dict[str, str]
    users: dict[str, set[str]]

    def root(self, key: str) -> str:
        while self.parent[key] != key:
            key = self.parent[key]
        return key

    def join(self, one: str, other: str) -> None:
        """Make one group of two."""
        one, other = self.root(one), self.root(other)
        self.parent[other] = one
        self.users[one] |= self.users[other]

    def join_overlapping(self, keys: Sequence[str]) -> bool:
        """Join groups of ``keys`` that have users in common, who wait for both anyway; whether all are one now."""
        for one, other in combinations(keys, 2):
            if self.users[self.root(one)] & self.users[self.root(other)]:
                self.join(one, other)
        return len({self.root(key) for key in keys}) == 1


def _shared_jobs(union: MergedGraph, files: Mapping[str, str], taken: set[str]) -> tuple[CiJob, ...]:
    jobs: list[CiJob] = []
    maker: dict[str, str] = {}
    for kind, keys in _groups(union):
        users = tuple(dict.fromkeys(name for key in keys for name in union.users[key]))
        actions = tuple(union.actions[key] for key in keys)
        name = _free_name(kind, users, actions, taken)
        taken.add(name)
        inputs = [producer for action in actions for producer in action.inputs.values()]
        needs = tuple(dict.fromkeys(maker[key] for key in inputs if key in maker))
        maker.update(dict.fromkeys(keys, name))
        recipes = tuple(dict.fromkeys(files[user] for user in users))
        graph = RecipeGraph(name, closure(union.actions, keys), "")
        jobs.append(CiJob(name, kind, users, recipes, actions, graph, needs))
    return tuple(jobs)


def _free_name(kind: Kind, users: Sequence[str], actions: Sequence[Action], taken: Collection[str]) -> str:
    """What the users' names begin with, in whole words; else the model on a hub, else the step."""
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
