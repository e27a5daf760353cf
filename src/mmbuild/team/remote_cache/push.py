"""Publishes results to the shared store: contents first, the entry last. The first published result wins."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from mmbuild.base.errors import MmbuildError
from mmbuild.config.remote_errors import RemoteError
from mmbuild.core.graph.remote_lookup import RemoteResult
from mmbuild.core.store.action_cache import Record, append
from mmbuild.core.store.hashing import hash_file
from mmbuild.core.store.manifest import ManifestEntry, Tree, read_tree, tree_json, without_references
from mmbuild.team.remote_cache import object_store as names
from mmbuild.team.remote_cache import s3
from mmbuild.team.remote_cache.object_store import refusal
from mmbuild.team.remote_cache.records import entry_json, entry_text, signed_text

if TYPE_CHECKING:
    from mmbuild.team.remote_cache.remote_cache import SharedStore

_FILES = 4
"""Files uploaded concurrently."""

_PROBE = "exclusive"


class PushOutcome(StrEnum):
    """Outcome of a push."""

    PUBLISHED = "published"
    THERE = "already there"
    ADOPTED = "another machine's result stands"


@dataclass(frozen=True, slots=True)
class PushResult:
    """Outcome of a push, and bytes of files that were uploaded."""

    outcome: PushOutcome
    carried: int = 0


def check_writable(shared: SharedStore) -> None:
    """Refuse a store that cannot be published to, before anything is uploaded.

    Raises:
        RemoteError: MM824, it is read-only, does not support exclusive creation, or requires signatures without a
            signing key; MM820, MM821, MM825.
    """
    place, where = shared.place, shared.settings.shown
    if not place.writable:
        raise RemoteError(
            f"nothing can be published to `{where}`: {refusal(place.protocol)}",
            code="MM824",
            hint="publish to s3:// or file://; other protocols can only be read",
        )
    if shared.settings.require_signatures and not shared.settings.signing_key:
        raise RemoteError(
            f"nothing can be published to `{where}`: store.require_signatures is set,"
            " and there is no signing key",
            code="MM824",
            hint="set store.signing_key or MMBUILD_SIGNING_KEY, or leave publishing to CI with `push: auto`",
        )
    try:
        _create_twice(shared)
    except FileNotFoundError as error:
        raise RemoteError(
            f"`{where}` does not exist",
            code="MM824",
            hint="create the directory or bucket, or mount the disk",
        ) from error


def push(shared: SharedStore, record: Record) -> PushResult:
    """Publish the result of an action.

    If another machine published first, its result wins: it is recorded in the journal, and the next plan uses it.

    Raises:
        RemoteError: MM821; MM825; MM830, the local files are damaged.
        MmbuildError: MM304, the artifact is not in the local store.
    """
    store = shared.store
    tree = read_tree(store, record.digest)
    published = shared.entry(record.key)
    if published is not None and published.record.digest not in shared.bad:
        return _adopt_published(shared, record, published)
    replaces = published is not None or record.key in shared.damaged
    reference = all(entry.ref is not None for entry in tree.entries)
    carried = 0 if reference else _upload_files(shared, record.digest, tree)
    text = _entry(shared, record, reference)
    try:
        if replaces:
            shared.calls.do(lambda: shared.place.write(names.action(record.key), text))
        else:
            _create(shared, names.action(record.key), text)
    except FileExistsError:
        published = shared.entry(record.key)
        if published is not None:
            return _adopt_published(shared, record, published, carried)
    shared.bad.pop(record.digest, None)
    return PushResult(PushOutcome.PUBLISHED, carried)


def upload_artifact(shared: SharedStore, digest: str) -> int:
    """Upload the files and manifest of an artifact, without an entry: it can be found only by its digest.

    Returns:
        Bytes that were uploaded.

    Raises:
        RemoteError: MM821; MM830, the local files are damaged.
        MmbuildError: MM304, the artifact is not in the local store.
    """
    return _upload_files(shared, digest, read_tree(shared.store, digest))


def _adopt_published(
    shared: SharedStore, record: Record, published: RemoteResult, carried: int = 0
) -> PushResult:
    """Record the result that was published first in the journal."""
    if published.record.digest == record.digest:
        return PushResult(PushOutcome.THERE, carried)
    first = published.record
    append(
        shared.store,
        Record(
            key=record.key,
            definition=record.definition,
            inputs=record.inputs,
            digest=first.digest,
            label=record.label,
            body=record.body,
            size=first.size,
            seconds=first.seconds,
            memory=first.memory,
            at=first.at,
            host=first.host,
        ),
    )
    return PushResult(PushOutcome.ADOPTED, carried)


def _upload_files(shared: SharedStore, digest: str, tree: Tree) -> int:
    """Upload missing contents and the manifest; return the bytes that were uploaded."""
    entries = list({entry.digest: entry for entry in tree.entries}.values())
    with ThreadPoolExecutor(_FILES) as files:
        tasks = [files.submit(_upload_file, shared, digest, entry) for entry in entries]
        try:
            carried = sum(task.result() for task in tasks)
        except BaseException:
            files.shutdown(wait=False, cancel_futures=True)
            raise
    text, name = tree_json(without_references(tree)), names.manifest(digest)
    if digest in shared.bad or shared.calls.do(lambda: shared.place.size(name)) != len(text):
        shared.calls.do(lambda: shared.place.write(name, text))
    return carried


def _upload_file(shared: SharedStore, digest: str, entry: ManifestEntry) -> int:
    """Upload a file unless it exists; always if the remote copy of the artifact is damaged."""
    name = names.blob(entry.digest)
    if digest not in shared.bad and shared.calls.do(lambda: shared.place.size(name)) == entry.size:
        return 0
    source = shared.store.tree(digest) / entry.path
    if hash_file(source, 1) != entry.digest:
        raise RemoteError(
            f"`{source}` changed since it was built and is not published",
            code="MM830",
            hint="run `mmbuild cache verify`, and find out what changes files in the store",
        )
    if entry.size > s3.PART and shared.place.in_parts:
        return s3.upload(shared, name, source, entry.size)
    shared.calls.do(lambda: shared.place.put(name, source), entry.size)
    return entry.size


def _entry(shared: SharedStore, record: Record, reference: bool) -> bytes:
    entry = entry_json(record, reference=reference)
    if not shared.settings.signing_key:
        return entry_text(entry)
    from mmbuild.team.remote_cache.signatures import read_key, sign

    return entry_text(entry, (sign(signed_text(entry), read_key(shared.settings.signing_key)),))


def _create(shared: SharedStore, name: str, content: bytes) -> None:
    """Create a file exclusively, even if the response to an attempt is lost.

    Raises:
        FileExistsError: Another client created it first.
    """
    try:
        shared.calls.do(lambda: shared.place.create(name, content))
    except FileExistsError:
        if shared.calls.do(lambda: shared.place.read(name, 0, len(content) + 1)) != content:
            raise


def _create_twice(shared: SharedStore) -> None:
    """Check that the server refuses to create a file twice: some S3-compatible servers do not."""
    content = f"{socket.gethostname()} {os.getpid()} {time.time_ns()}\n".encode()
    for attempt in range(2):
        try:
            shared.calls.do(lambda: shared.place.create(_PROBE, content))
        except FileExistsError:
            return
        if attempt == 1:
            raise RemoteError(
                f"`{shared.settings.shown}` overwrites an existing file instead of refusing to create it",
                code="MM824",
                hint="machines could overwrite each other's results; use a server that supports `If-None-Match: *`",
            )


def push_all(
    shared: SharedStore,
    records: Sequence[Record],
    reported: Callable[[Record, PushResult | MmbuildError], None],
) -> int:
    """Publish results one after another; return how many failed. ``reported`` is called for each.

    Raises:
        RemoteError: See :func:`check_writable`.
    """
    check_writable(shared)
    failed = 0
    for record in records:
        try:
            reported(record, push(shared, record))
        except MmbuildError as error:
            failed += 1
            reported(record, error)
            if shared.calls.down:
                break
    return failed
