"""A run's view of a shared store: which results and manifests it has, and which of them can be trusted."""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mmbuild.base.errors import MmbuildError
from mmbuild.base.limits import SHARED_ENTRY, STORE_TREE, Limit
from mmbuild.config.remote_errors import Notice, notice_of
from mmbuild.config.shared_store_settings import Settings, settings
from mmbuild.core.graph.remote_lookup import RemoteResult
from mmbuild.core.store.action_cache import Record
from mmbuild.core.store.layout import Store
from mmbuild.core.store.manifest import Tree
from mmbuild.team.remote_cache import object_store as names
from mmbuild.team.remote_cache.object_store import ObjectStore, connect
from mmbuild.team.remote_cache.records import EntryError, parse_entry, parse_manifest, signed_text
from mmbuild.team.remote_cache.retrying_client import (
    MalformedError,
    RetryingClient,
    UnreachableError,
    describe,
)

_BACKGROUND_PULLS = 2
_FIRST = 256 << 10
"""Bytes in the first request for a small file."""


@dataclass(slots=True)
class SharedStore:
    """A shared store during one run. Created by :func:`open_shared`.

    Attributes:
        store: The local store.
        settings: Its configuration.
        calls: Client for all requests.
        bad: Corrupt or incomplete artifacts with the reason: not used in this run, and replaced by the machine that
            builds them.
        damaged: Action keys whose entries cannot be used.
        answers: Results by action key; None if there is none.
    """

    store: Store
    settings: Settings
    calls: RetryingClient
    bad: dict[str, str] = field(default_factory=dict)
    damaged: set[str] = field(default_factory=set)
    answers: dict[str, RemoteResult | None] = field(default_factory=dict)
    _place: ObjectStore | None = None
    _trees: dict[str, Tree] = field(default_factory=dict)
    _warned: set[str] = field(default_factory=set)
    _pulls: dict[str, threading.Thread] = field(default_factory=dict)
    _pull_slots: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(_BACKGROUND_PULLS))
    _lock: threading.RLock = field(default_factory=threading.RLock)

    @property
    def place(self) -> ObjectStore:
        """The remote file system, connected on first use.

        Raises:
            RemoteError: MM820.
        """
        with self._lock:
            if self._place is None:
                self._place = connect(self.settings)
            return self._place

    @property
    def enabled(self) -> bool:
        """Whether results are pulled from there, and it has not been given up."""
        return self.settings.pull and not self.calls.down

    def results(self, keys: Sequence[str]) -> Mapping[str, RemoteResult]:
        """Return the published, trusted results of actions by action key."""
        unknown = [key for key in keys if key not in self.answers]
        if unknown and self.enabled and self._connected():
            self._query(unknown)
        answers = {key: self.answers.get(key) for key in keys}
        return {
            key: shared
            for key, shared in answers.items()
            if shared is not None and shared.record.digest not in self.bad
        }

    def artifacts(self, digests: Collection[str]) -> Collection[str]:
        """Return those of ``digests`` that have a manifest, so that their files can be pulled."""
        required = [digest for digest in digests if digest not in self.bad]
        if not required or not self.enabled or not self._connected():
            return ()
        return self.trees(required).keys()

    def trees(self, digests: Iterable[str]) -> dict[str, Tree]:
        """Return the existing manifests that match their digest."""
        required = list(dict.fromkeys(digests))
        fresh = [digest for digest in required if digest not in self._trees]
        for digest, tree in self.calls.each(fresh, self._tree).items():
            if isinstance(tree, Tree):
                self._trees[digest] = tree
            elif isinstance(tree, UnreachableError):
                self.mark_unreachable(digest, tree)
            elif isinstance(tree, Exception):
                self.mark_corrupt(digest, f"its manifest cannot be used: {describe(tree)}")
        return {digest: self._trees[digest] for digest in required if digest in self._trees}

    def start_pull(self, key: str) -> bool:
        """Pull a result in the background, unless already started; True while the pull is running."""
        thread = self._pulls.get(key)
        if thread is None:
            if not self.enabled or (key in self.answers and self.answers[key] is None):
                return False
            thread = threading.Thread(target=self._pull, args=(key,), daemon=True)
            self._pulls[key] = thread
            thread.start()
        return thread.is_alive()

    def pulled_record(self, key: str) -> Record | None:
        """Return the published result of an action, if this run has looked it up."""
        shared = self.answers.get(key)
        return shared.record if shared is not None else None

    def entry(self, key: str) -> RemoteResult | None:
        """Read the entry of an action, bypassing :attr:`answers`.

        Raises:
            UnreachableError: MM821.
        """
        try:
            text = self.read_whole(names.action(key), SHARED_ENTRY)
            shared, entry, signatures = parse_entry(text, key)
        except FileNotFoundError:
            return None
        except (MalformedError, EntryError) as error:
            self.damaged.add(key)
            self.warn(
                Notice(
                    f"the shared store's entry for action `{key[:16]}` is damaged ({error}) and is ignored",
                    "MM822",
                    "the next machine that builds the action and may push replaces it",
                )
            )
            return None
        if self.settings.require_signatures and not self._trusted(entry, signatures):
            self.damaged.add(key)
            return None
        return shared

    def read_part(self, name: str, start: int, end: int) -> bytes:
        """Read bytes ``start`` to ``end`` of a remote file; fewer if it ends before.

        Raises:
            FileNotFoundError, MalformedError: As :meth:`ObjectStore.read`.
            UnreachableError: MM821.
        """
        place, flow = self.place, self.calls.flow
        if place.streams:
            return self.calls.do(lambda: place.read(name, start, end, flow.add), watched=True)
        return self.calls.read(lambda: place.read(name, start, end, flow.add), end - start)

    def read_whole(self, name: str, limit: Limit) -> bytes:
        """Read a small remote file.

        Raises:
            MalformedError: It is larger than ``limit``, or not a file.
            FileNotFoundError: It does not exist.
            UnreachableError: MM821.
        """
        place = self.place
        data = self.calls.do(lambda: place.read(name, 0, _FIRST))
        if len(data) < _FIRST:
            return data
        whole = bytearray(data)
        while data and len(whole) <= limit.size:
            data = self.read_part(name, len(whole), min(2 * len(whole), limit.size + 1))
            whole += data
        if len(whole) > limit.size:
            raise MalformedError(f"is larger than {limit.size:,} bytes, the limit for {limit.kind}")
        return bytes(whole)

    def mark_corrupt(self, digest: str, reason: str) -> None:
        """Mark the remote copy of an artifact as corrupt: warn, and do not request it again in this run."""
        self.bad[digest] = reason
        self.warn(
            Notice(
                f"artifact `{digest[:16]}` of the shared store cannot be used: {reason}",
                "MM822",
                "it is built here instead; the next machine that builds it and may push replaces it",
            )
        )

    def mark_unreachable(self, digest: str, error: UnreachableError) -> None:
        """Mark an artifact that may exist but could not be read; this run does not use it."""
        self.bad[digest] = error.message
        if not self.calls.down:  # otherwise a warning was already printed
            self.warn(notice_of(error))

    def warn(self, notice: Notice) -> None:
        """Print a warning once."""
        with self._lock:
            fresh = notice.message not in self._warned
            self._warned.add(notice.message)
        if fresh:
            self.calls.warn(notice)

    def _connected(self) -> bool:
        if _is_tamperable(self.settings):
            self.warn(
                Notice(
                    f"results come from `{self.settings.shown}` over plain http and without signatures: anyone on "
                    "the network path can replace them and run code here",
                    "MM767",
                    "use https, or set store.require_signatures and store.trusted_keys in the configuration",
                )
            )
        try:
            return self.place is not None
        except MmbuildError as error:
            self.calls.warn(notice_of(error))
            self.calls.down = error.message
            return False

    def _query(self, keys: Sequence[str]) -> None:
        answers = self.calls.each(keys, self.entry)
        for key in keys:
            answer = answers.get(key)
            self.answers[key] = answer if isinstance(answer, RemoteResult) else None
            if isinstance(answer, UnreachableError):
                if not self.calls.down:
                    self.warn(notice_of(answer))
            elif isinstance(answer, MmbuildError):
                raise answer  # a problem of this machine: a package or a key is missing
            elif isinstance(answer, Exception):
                self.warn(_unusable(key, answer))

    def _tree(self, digest: str) -> Tree | None:
        try:
            return parse_manifest(self.read_whole(names.manifest(digest), STORE_TREE), digest)
        except FileNotFoundError:
            return None
        except (MalformedError, EntryError) as error:
            self.mark_corrupt(digest, f"its manifest {error}")
            return None

    def _trusted(self, entry: Mapping[str, Any], signatures: Any) -> bool:
        from mmbuild.team.remote_cache.signatures import is_signed

        if is_signed(signed_text(entry), signatures, self.settings.trusted_keys):
            return True
        reason = "is not signed by a trusted key" if signatures else "is not signed"
        self.warn(
            Notice(
                f"an entry of the shared store {reason}; it is ignored, and so are others like it",
                "MM823",
                "list the keys that you trust in store.trusted_keys in the configuration",
            )
        )
        return False

    def _pull(self, key: str) -> None:
        from mmbuild.team.remote_cache.pull import pull

        with self._pull_slots:
            try:
                shared = self.results([key]).get(key)
                if shared is None or shared.reference or self.store.has(shared.record.digest):
                    return
                pull(self, [shared.record.digest])
            except MmbuildError as error:
                self.warn(notice_of(error))


def _unusable(key: str, error: Exception) -> Notice:
    return Notice(
        f"the shared store's entry for action `{key[:16]}` cannot be used ({describe(error)}) and is ignored",
        "MM822",
        "the next machine that builds the action and may push replaces it",
    )


def _is_tamperable(settings: Settings) -> bool:
    """Return whether downloads could be replaced on the network path."""
    return settings.url.partition("://")[0].lower() == "http" and not settings.require_signatures


def open_shared(store: Store, url: str | None = None) -> SharedStore | None:
    """Return the configured shared store, or the one at ``url``; None if there is none. Sends no request yet.

    Raises:
        RemoteError: MM820, its configuration is invalid.
        RecipeError, MmbuildError: The configuration file has errors.
    """
    chosen = settings(url)
    if chosen is None:
        return None
    return SharedStore(store, chosen, RetryingClient(chosen.shown, chosen.timeout, redact=chosen.redact))
