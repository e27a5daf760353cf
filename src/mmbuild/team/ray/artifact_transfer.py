"""Transfers artifacts through the shared store between the driver and nodes that cannot access its store.

Only contents and manifests are transferred, not entries: the driver decides what the result of an action is, and it
has the signing key.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from dataclasses import dataclass, field

from mmbuild.base.errors import MmbuildError
from mmbuild.config.shared_store_settings import Settings
from mmbuild.core.store.layout import Store
from mmbuild.team.remote_cache.pull import pull
from mmbuild.team.remote_cache.push import upload_artifact
from mmbuild.team.remote_cache.remote_cache import SharedStore
from mmbuild.team.remote_cache.retrying_client import RetryingClient


@dataclass(slots=True)
class ArtifactTransfer:
    """One end of a transfer. Created by :meth:`of`, or from the shared store of a plan."""

    shared: SharedStore
    _pushed: set[str] = field(default_factory=set)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @classmethod
    def of(cls, store: Store, settings: Settings) -> ArtifactTransfer:
        """Create a transfer for ``store`` with the driver's settings."""
        calls = RetryingClient(settings.shown, settings.timeout, redact=settings.redact)
        return cls(SharedStore(store, settings, calls))

    def push(self, digest: str) -> None:
        """Upload an artifact, unless this run has already done so.

        Raises:
            MmbuildError: MM848.
        """
        with self._lock:
            if digest in self._pushed:
                return
            try:
                upload_artifact(self.shared, digest)
            except MmbuildError as error:
                raise _transfer_failed(self.shared, digest, error.message) from error
            self._pushed.add(digest)

    def pull(self, digests: Iterable[str]) -> None:
        """Download artifacts that are not in the local store.

        Raises:
            MmbuildError: MM848; MM302 or MM313, the disk is full.
        """
        failed = pull(self.shared, tuple(digests))
        for digest, reason in failed.items():
            raise _transfer_failed(self.shared, digest, reason)


def _transfer_failed(shared: SharedStore, digest: str, reason: str) -> MmbuildError:
    return MmbuildError(
        f"artifact `{digest[:16]}` could not be transferred through `{shared.settings.shown}`: {reason}",
        code="MM848",
        hint="check access to the shared store from the driver and the node; apply again continues from here",
    )
