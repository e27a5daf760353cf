"""Results that this store lacks and another place may have: what a plan asks for, and what it is told."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from mmbuild.core.graph.action import Action
from mmbuild.core.graph.keys import body_key
from mmbuild.core.store.action_cache import Record


@dataclass(frozen=True, slots=True)
class RemoteResult:
    """A result that another machine published.

    Attributes:
        record: As it was published: of its fields only ``key`` has been held against what was asked for.
        reference: Whether its files are the user's own, which everybody who knows the key has too: its digest counts,
            and its files are made here in no time.
    """

    record: Record
    reference: bool = False


class RemoteLookup(Protocol):
    """Where results may be that this store lacks (:class:`mmbuild.team.remote_cache.remote_cache.SharedStore`)."""

    def results(self, keys: Sequence[str]) -> Mapping[str, RemoteResult]:
        """Results by action key, of those that are there."""

    def artifacts(self, digests: Collection[str]) -> Collection[str]:
        """Those artifacts whose files can be pulled."""

    def start_pull(self, key: str) -> bool:
        """Ask for a result and pull it, on the side: True as long as that goes on."""

    def pulled_record(self, key: str) -> Record | None:
        """The result, once that has ended."""


Find = Callable[[], RemoteLookup | None]
"""Finds out whether there is a shared store: reading a configuration costs more than an up-to-date plan."""


def rebind(record: Record, action: Action, digests: Mapping[str, str]) -> Record:
    """A published result as one of ``action`` here, whatever else its publisher said."""
    return replace(
        record,
        definition=action.definition_key,
        inputs=dict(digests),
        label=action.label,
        body=body_key(action),
    )
