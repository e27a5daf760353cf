"""What becomes of actions: told as events, counted, and laid out when an engine is whole."""

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
    """The results of one apply so far."""

    store: Store
    state: SchedulerState
    sink: Sink
    paranoid: bool = False
    ran: list[str] = field(default_factory=list)
    reused: list[str] = field(default_factory=list)
    failed: list[Failed] = field(default_factory=list)
    laid_out: list[Path] = field(default_factory=list)
    times: list[tuple[str, float]] = field(default_factory=list)
    _whole: list[Build] = field(default_factory=list)
    _host: Mapping[str, Any] = field(default_factory=dict)

    def report(self, kind: EventKind, action: Action, **data: Any) -> None:
        """Send an event about ``action``."""
        self.sink(Event(kind, action.label, data))

    def record_finished(self, action: Action, record: Record) -> list[str]:
        """``action`` ran; returns the definition keys of what can start now."""
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
        """The result of ``action`` was there; returns the definition keys of what can start now."""
        self.reused.append(action.label)
        self.report(EventKind.REUSED, action, digest=record.digest, why=why)
        return self._complete(action, record)

    def record_failed(self, action: Action, failed: Failed, left: Path) -> None:
        """``action`` failed; nothing that needs it will start. ``left`` is what it wrote until then."""
        for build in self.state.builds.get(action.definition_key, ()):
            if is_rejected_by(build, action, self.state.done):
                failed = self._keep_rejected(build, action, failed, left)
        self.failed.append(failed)
        data = {"message": failed.message, "code": failed.code, "hint": failed.hint, "log": failed.log}
        self.report(EventKind.FAILED, action, **data, aside=list(failed.aside))
        del self.state.waiting[action.definition_key]

    def _keep_rejected(self, build: Build, action: Action, failed: Failed, left: Path) -> Failed:
        """``failed`` with the place where the engine is that it refused."""
        actions = [self.state.actions[key] for key in build.actions.values()]
        try:
            place = keep_rejected(
                self.store,
                build,
                actions,
                self.state.done,
                self._facts(),
                refused=action,
                why=failed,
                left=left,
            )
        except (MmbuildError, OSError) as error:  # the failure of the action is what must be told
            return replace(failed, causes=(*failed.causes, f"the engine was not kept aside: {error}"))
        return replace(failed, aside=(*failed.aside, str(place)))

    def install_complete(self) -> None:
        """Fill the engine directories of the builds that became whole since the last call."""
        while self._whole:
            self.install(self._whole.pop(0))

    def install(self, build: Build) -> None:
        """Fill the engine directory of ``build``, all of whose results are there."""
        actions = [self.state.actions[key] for key in build.actions.values()]
        install_build(self.store, build, actions, self.state.done, self._facts(), paranoid=self.paranoid)
        discard_rejected(self.store, build.directory)
        self.laid_out.append(build.directory)
        self.sink(Event(EventKind.LAID_OUT, build.recipe, {"directory": str(build.directory)}))

    def result(self, seconds: float) -> Result:
        """Everything, once nothing runs any more."""
        return Result(
            tuple(self.ran),
            tuple(self.reused),
            tuple(self.failed),
            tuple(self.laid_out),
            seconds,
            tuple(self.times),
        )

    def _facts(self) -> Mapping[str, Any]:
        """Of this machine, asked once."""
        if not self._host:
            self._host = facts()
        return self._host

    def _complete(self, action: Action, record: Record) -> list[str]:
        free, whole = self.state.complete(action.definition_key, record)
        self._whole += whole
        return free
