"""Artifacts between a driver and a node that does not see its store, through the shared store.

Contents and manifests travel, entries do not: what counts as the result of an action is the driver's to say, which
also holds the key that signs it.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from dataclasses import dataclass, field

from mmbuild.base.errors import MmbuildError
from mmbuild.config.remote_cache import Settings
from mmbuild.core.store.layout import Store
from mmbuild.team.remote_cache.pull import pull
from mmbuild.team.remote_cache.push import upload_artifact
from mmbuild.team.remote_cache.remote_cache import SharedStore
from mmbuild.team.remote_cache.retrying_client import RetryingClient


@dataclass(slots=True)
class ArtifactTransfer:
    """One end of the way. Made by :meth:`of`, or around the shared store of a plan."""

    shared: SharedStore
    _there: set[str] = field(default_factory=set)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @classmethod
    def of(cls, store: Store, settings: Settings) -> ArtifactTransfer:
        """For ``store``, by the driver's settings."""
        calls = RetryingClient(settings.shown, settings.timeout, redact=settings.redact)
        return cls(SharedStore(store, settings, calls))

    def push(self, digest: str) -> None:
        """Bring an artifact there, unless this run has done so.

        Raises:
            MmbuildError: MM848.
        """
        with self._lock:
            if digest in self._there:
                return
            try:
                upload_artifact(self.shared, digest)
            except MmbuildError as error:
                raise _not_carried(self.shared, digest, error.message) from error
            self._there.add(digest)

    def pull(self, digests: Iterable[str]) -> None:
        """Bring artifacts here, as far as they are not.

        Raises:
            MmbuildError: MM848, or MM302, MM313 the disk is full.
        """
        failed = pull(self.shared, tuple(digests))
        for digest, why in failed.items():
            raise _not_carried(self.shared, digest, why)


def _not_carried(shared: SharedStore, digest: str, why: str) -> MmbuildError:
    return MmbuildError(
        f"artifact `{digest[:16]}` could not be carried through `{shared.settings.shown}`: {why}",
        code="MM848",
        hint="look at the shared store from the driver and from the node; apply again goes on from here",
    )
