"""Interface to a remote cache: how the planner looks up results missing from the local store."""

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
        record: The published record; only its ``key`` has been compared with the request.
        reference: Whether its files are links to the user's own files, which every machine with the same key has:
            only the digest matters, and creating the files here takes no time.
    """

    record: Record
    reference: bool = False


class RemoteLookup(Protocol):
    """A remote cache (:class:`mmbuild.team.remote_cache.remote_cache.SharedStore`)."""

    def results(self, keys: Sequence[str]) -> Mapping[str, RemoteResult]:
        """Return the published results by action key."""

    def artifacts(self, digests: Collection[str]) -> Collection[str]:
        """Return the artifacts whose files can be pulled."""

    def start_pull(self, key: str) -> bool:
        """Pull a result in the background, unless already started; True while the pull is running."""

    def pulled_record(self, key: str) -> Record | None:
        """Return the result once its pull has finished, or None if it could not be pulled."""


FindRemote = Callable[[], RemoteLookup | None]
"""Opens the configured shared store, if any. Lazy: reading the configuration costs more than an up-to-date plan."""


def rebind(record: Record, action: Action, digests: Mapping[str, str]) -> Record:
    """Return a published result as the local result of ``action``, ignoring the publisher's other fields."""
    return replace(
        record,
        definition=action.definition_key,
        inputs=dict(digests),
        label=action.label,
        body=body_key(action),
    )
