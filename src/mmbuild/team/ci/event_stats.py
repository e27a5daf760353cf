"""What the events of an apply add up to, action by action."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from mmbuild.core.execution.events import Event, EventKind, Sink


@dataclass(slots=True)
class EventStats:
    """What the events of an apply told, by label.

    Attributes:
        built: Seconds of actions that ran.
        pulled: Results whose files came from the shared store.
        warnings: Data of warnings.
    """

    built: dict[str, float] = field(default_factory=dict)
    pulled: set[str] = field(default_factory=set)
    warnings: list[Mapping[str, Any]] = field(default_factory=list)

    def watching(self, sink: Sink) -> Sink:
        """``sink``, with what it hears counted."""

        def watch(event: Event) -> None:
            if event.kind is EventKind.FINISHED:
                self.built[event.label] = event.data["seconds"]
            elif event.kind is EventKind.PULLED and not event.data["why"]:
                self.pulled.add(event.label)
            elif event.kind is EventKind.WARNING:
                self.warnings.append(event.data)
            sink(event)

        return watch
