"""Machines that share a store: each has its own local store and build directory."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from mmbuild.config.remote_errors import Notice
from mmbuild.config.shared_store_settings import Settings
from mmbuild.core.execution.events import EventKind
from mmbuild.core.execution.options import ApplyOptions, Options
from mmbuild.core.execution.resources import Capacity
from mmbuild.core.execution.run_plan import Result, run_plan
from mmbuild.core.graph.action import RecipeGraph
from mmbuild.core.graph.plan import Plan
from mmbuild.core.graph.planner import make_plan
from mmbuild.core.graph.rebuild_reasons import reasons_from
from mmbuild.core.store.action_cache import load_cache
from mmbuild.team.remote_cache.object_store import ObjectStore
from mmbuild.team.remote_cache.remote_cache import SharedStore
from mmbuild.team.remote_cache.retrying_client import RetryingClient
from mmbuild.team.remote_cache.sync import sharing
from support.projects.warm_workers import WarmLocal
from support.projects.workspace import Workspace
from support.steps.trivial import TABLE


@dataclass
class Machine(Workspace):
    """A workspace whose plans query the shared store at ``url``; each plan is a separate run."""

    url: str = ""
    push: bool = True
    settings: Mapping[str, Any] = field(default_factory=dict)
    notices: list[Notice] = field(default_factory=list)
    broken: Callable[[ObjectStore], Any] = lambda place: place

    def shared(self) -> SharedStore:
        settings = Settings(self.url, **{"push": self.push, "timeout": 10.0, **self.settings})
        calls = RetryingClient(
            settings.shown, settings.timeout, self.notices.append, settings.redact, pause=0.001
        )
        shared = SharedStore(self.store, settings, calls)
        shared._place = self.broken(shared.place)
        return shared

    def plan(self, *graphs: RecipeGraph, shared: SharedStore | None = None) -> Plan:
        chosen = shared or self.shared()
        cache, why = load_cache(self.store), reasons_from(self.store)
        return make_plan(graphs, self.store, cache, self.build, why, lambda: chosen)

    def apply(self, *graphs: RecipeGraph, shared: SharedStore | None = None, **options: Any) -> Result:
        """As the command does: pull, run, push. Warnings are in :attr:`notices` as well."""
        plan = self.plan(*graphs, shared=shared)
        capacity = Capacity(2, 1 << 50, (), 2)
        with sharing(plan, self.events.append) as (here, sink):
            result = run_plan(
                here,
                specs=TABLE,
                options=Options(capacity, ApplyOptions(**options)),
                sink=sink,
                executor=WarmLocal(capacity),
            )
        for event in self.events:
            if event.kind is EventKind.WARNING:
                self.notices.append(Notice(**event.data))
        return result

    def codes(self) -> set[str]:
        return {notice.code for notice in self.notices}

    def bytes(self, recipe: str) -> bytes:
        return (self.build / recipe / "text").read_bytes()

    def labels_of(self, kind: EventKind) -> list[str]:
        return [event.label for event in self.events if event.kind is kind]


class Unreliable:
    """A place where a share of all operations fails: before they are done, or after, when only the answer is lost."""

    def __init__(self, place: ObjectStore, share: float, seed: int) -> None:
        self._place, self._share, self._random = place, share, random.Random(seed)
        self.faults = 0

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._place, name)
        if not callable(found):
            return found

        def operation(*arguments: Any, **named: Any) -> Any:
            chance = self._random.random()
            if chance < self._share / 2:
                self.faults += 1
                raise ConnectionResetError("injected before")
            result = found(*arguments, **named)
            if chance < self._share:
                self.faults += 1
                raise ConnectionResetError("injected after")
            return result

        return operation


class Hanging:
    """A place that never answers."""

    protocol, writable = "file", True

    def __init__(self, _: ObjectStore) -> None:
        self.asked = 0

    def __getattr__(self, name: str) -> Any:
        def operation(*_: Any, **__: Any) -> Any:
            self.asked += 1
            threading.Event().wait()

        return operation


class Down:
    """A place whose host refuses connections."""

    protocol, writable = "file", True

    def __init__(self, _: ObjectStore) -> None:
        self.asked = 0

    def __getattr__(self, name: str) -> Any:
        def operation(*_: Any, **__: Any) -> Any:
            self.asked += 1
            raise ConnectionRefusedError("connection refused")

        return operation
