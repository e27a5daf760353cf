"""Records action results: emits events, keeps counts, and installs each engine once it is complete."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from mmbuild.base.errors import MmbuildError
from mmbuild.base.host import facts
from mmbuild.core.execution.build_dir import install_build
from mmbuild.core.execution.events import Event, EventKind, Result, Sink
from mmbuild.core.execution.failures import Failed
from mmbuild.core.execution.ready_queue import SchedulerState
from mmbuild.core.execution.rejected_build import discard_rejected, is_rejected_by, keep_rejected
from mmbuild.core.graph.action import Action
from mmbuild.core.graph.plan import Build
from mmbuild.core.store.action_cache import Record
from mmbuild.core.store.layout import Store


@dataclass(slots=True)
class ApplyState:
    """Results of an apply so far."""

    store: Store
    state: SchedulerState
    sink: Sink
    paranoid: bool = False
    ran: list[str] = field(default_factory=list)
    reused: list[str] = field(default_factory=list)
    failed: list[Failed] = field(default_factory=list)
    laid_out: list[Path] = field(default_factory=list)
    times: list[tuple[str, float]] = field(default_factory=list)
    _complete_builds: list[Build] = field(default_factory=list)
    _host: Mapping[str, Any] = field(default_factory=dict)

    def report(self, kind: EventKind, action: Action, **data: Any) -> None:
        """Send an event about ``action``."""
        self.sink(Event(kind, action.label, data))

    def record_finished(self, action: Action, record: Record) -> list[str]:
        """Record that ``action`` ran; return the definition keys of actions that can start now."""
        self.ran.append(action.label)
        self.times.append((action.label, record.seconds))
        self.report(
            EventKind.FINISHED,
            action,
            key=record.key,
            digest=record.digest,
            seconds=record.seconds,
            memory=record.memory,
            size=record.size,
        )
        return self._complete(action, record)

    def record_reused(self, action: Action, record: Record, why: str) -> list[str]:
        """Record that ``action`` already has a result; return the definition keys of actions that can start now."""
        self.reused.append(action.label)
        self.report(EventKind.REUSED, action, digest=record.digest, why=why)
        return self._complete(action, record)

    def record_failed(self, action: Action, failed: Failed, output: Path) -> None:
        """Record that ``action`` failed, so that its consumers never start. ``output`` is its partial output."""
        for build in self.state.builds.get(action.definition_key, ()):
            if is_rejected_by(build, action, self.state.done):
                failed = self._keep_rejected(build, action, failed, output)
        self.failed.append(failed)
        data = {"message": failed.message, "code": failed.code, "hint": failed.hint, "log": failed.log}
        self.report(EventKind.FAILED, action, **data, aside=list(failed.aside))
        del self.state.waiting[action.definition_key]

    def _keep_rejected(self, build: Build, action: Action, failed: Failed, output: Path) -> Failed:
        """Keep the rejected engine; return ``failed`` with its directory."""
        actions = [self.state.actions[key] for key in build.actions.values()]
        try:
            directory = keep_rejected(
                self.store,
                build,
                actions,
                self.state.done,
                self._facts(),
                rejected_by=action,
                failure=failed,
                output=output,
            )
        except (MmbuildError, OSError) as error:  # report the action's failure, not this one
            return replace(failed, causes=(*failed.causes, f"the rejected engine was not kept: {error}"))
        return replace(failed, aside=(*failed.aside, str(directory)))

    def install_complete(self) -> None:
        """Install the builds that became complete since the last call."""
        while self._complete_builds:
            self.install(self._complete_builds.pop(0))

    def install(self, build: Build) -> None:
        """Install the engine directory of a complete ``build``."""
        actions = [self.state.actions[key] for key in build.actions.values()]
        install_build(self.store, build, actions, self.state.done, self._facts(), paranoid=self.paranoid)
        discard_rejected(self.store, build.directory)
        self.laid_out.append(build.directory)
        self.sink(Event(EventKind.LAID_OUT, build.recipe, {"directory": str(build.directory)}))

    def result(self, seconds: float) -> Result:
        """Return the final result, once nothing is running."""
        return Result(
            tuple(self.ran),
            tuple(self.reused),
            tuple(self.failed),
            tuple(self.laid_out),
            seconds,
            tuple(self.times),
        )

    def _facts(self) -> Mapping[str, Any]:
        """Return facts about this machine, collected once."""
        if not self._host:
            self._host = facts()
        return self._host

    def _complete(self, action: Action, record: Record) -> list[str]:
        ready, builds = self.state.complete(action.definition_key, record)
        self._complete_builds += builds
        return ready
