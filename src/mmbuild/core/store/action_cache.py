"""The action cache: an append-only journal with one line per finished action.

Each line is appended with a single ``write`` as soon as its artifact is published, so ``kill -9`` loses only
running actions. The last line with a key counts. A torn line (a kill during the write) is skipped, and the
next writer starts on a new line.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from mmbuild.base.errors import MmbuildError
from mmbuild.base.json_reader import parse_json
from mmbuild.base.limits import JOURNAL, STORE_RECORD
from mmbuild.core.store.atomic_files import append_line, discard
from mmbuild.core.store.disk_errors import disk_errors, fault_point
from mmbuild.core.store.layout import Store
from mmbuild.core.store.record_fields import (
    COUNT,
    DIGEST,
    NUMBER,
    TEXT,
    FieldKind,
    mapping_of,
    require_fields,
)


@dataclass(frozen=True, slots=True)
class Record:
    """A finished action.

    Attributes:
        key: Action key.
        definition: Definition key.
        inputs: Artifact digests of the inputs by name.
        digest: Digest of the output artifact.
        label: Label of the action when it was built.
        body: Body key (step, version, parameters, target, toolchain and sources, without the inputs).
        size: Size of the artifact in the store, bytes.
        seconds: Wall time.
        memory: Peak anonymous memory of the worker, bytes.
        at: Time it finished, seconds since the epoch.
        host: Name of the machine.
    """

    key: str
    definition: str
    inputs: Mapping[str, str]
    digest: str
    label: str
    body: str
    size: int = 0
    seconds: float = 0.0
    memory: int = 0
    at: float = 0.0
    host: str = ""


_CHUNK = 64 << 20
"""Bytes per read."""

_RECORD: Mapping[str, FieldKind] = {
    "key": DIGEST,
    "definition": DIGEST,
    "inputs": mapping_of(DIGEST),
    "digest": DIGEST,
    "label": TEXT,
    "body": DIGEST,
    "size": COUNT,
    "seconds": NUMBER,
    "memory": COUNT,
    "at": NUMBER,
    "host": TEXT,
}


_D = rb'"[0-9a-f]{64}"'
_T = rb'"[ !#-\[\]-~]*"'
_N = rb"[0-9]{1,17}"
_AS_WRITTEN = re.compile(
    rb'\{"key":%b,"definition":%b,"inputs":\{(?:%b:%b(?:,%b:%b)*)?\},"digest":%b,"label":%b,"body":%b,'
    rb'"size":%b,"seconds":%b(?:\.%b)?,"memory":%b,"at":%b(?:\.%b)?,"host":%b\}'
    % (_D, _D, _T, _D, _T, _D, _D, _T, _D, _N, _N, _N, _N, _N, _N, _T)
)
"""Matches a line exactly as :func:`append` writes it, with plain text: checking each field would take longer than the
rest of the parsing, and every apply reads every line."""


@dataclass(slots=True)
class ActionCache:
    """The journal in memory; :meth:`refresh` reads newly appended lines."""

    store: Store
    by_key: dict[str, Record] = field(default_factory=dict)
    by_definition: dict[tuple[str, tuple[tuple[str, str], ...]], Record] = field(default_factory=dict)
    last_definition: dict[str, str] = field(default_factory=dict)
    bodies: set[tuple[str, str]] = field(default_factory=set)
    torn: int = 0
    _offset: int = 0

    def refresh(self) -> None:
        """Read the lines appended since the last call.

        Raises:
            MmbuildError: MM322, the file is larger than any journal.
        """
        while text := _read_from(self.store.journal, self._offset):
            end = text.rfind(b"\n") + 1
            if not end and len(text) == _CHUNK:  # longer than any line that mmbuild writes
                end = _CHUNK
            self._offset += end
            for line in text[:end].splitlines():
                record = parse_record(line)
                if record is None:
                    self.torn += bool(line.strip())
                else:
                    self._add(record)
            if len(text) < _CHUNK:
                return

    def find(self, definition: str, inputs: Mapping[str, str]) -> Record | None:
        """Look up the result of an action with these inputs, without computing its action key."""
        return self.by_definition.get((definition, tuple(sorted(inputs.items()))))

    def _add(self, record: Record) -> None:
        self.by_key[record.key] = record
        self.by_definition[record.definition, tuple(sorted(record.inputs.items()))] = record
        self.bodies.add((record.label, record.body))
        self.last_definition[record.label] = record.definition


def load_cache(store: Store) -> ActionCache:
    """Read the whole journal."""
    cache = ActionCache(store)
    cache.refresh()
    return cache


def append(store: Store, record: Record) -> None:
    """Append a record.

    Raises:
        MmbuildError: MM301, MM302.
    """
    fault_point("journal-before")
    line = json.dumps(asdict(record), separators=(",", ":")).encode() + b"\n"
    with disk_errors(store.journal):
        if os.environ.get("MMBUILD_FAULT") == "journal-torn":
            append_line(store.journal, line[: len(line) // 2])
            fault_point("journal-torn")
        append_line(store.journal, line)
    fault_point("journal-after")


def rewrite(store: Store, records: Iterable[Record]) -> None:
    """Replace the journal with ``records``. The caller holds the exclusive lock on the store."""
    fresh = store.journal.with_suffix(".new")
    with disk_errors(fresh):
        discard(fresh)
        with open(fresh, "xb") as stream:
            for record in records:
                stream.write(json.dumps(asdict(record), separators=(",", ":")).encode() + b"\n")
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(fresh, store.journal)


def parse_record(line: bytes) -> Record | None:
    """Parse a line of the journal; return None if it is damaged."""
    try:
        if len(line) <= STORE_RECORD.size and _AS_WRITTEN.fullmatch(line):
            return Record(**json.loads(line))
        return Record(**require_fields(parse_json(line, STORE_RECORD), _RECORD))
    except (ValueError, TypeError):
        return None


def _read_from(path: Path, offset: int) -> bytes:
    """Read the next part of the file; empty at its end and if there is no file. Called for every action."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        return b""
    try:
        size = os.fstat(descriptor).st_size
        if size <= offset:
            return b""
        if size > JOURNAL:
            raise MmbuildError(
                f"the journal `{path}` has {size:,} bytes, more than {JOURNAL:,}",
                code="MM322",
                hint="find out what wrote to it, and move it out of the store; the next apply builds what it needs",
            )
        return os.pread(descriptor, _CHUNK, offset)
    finally:
        os.close(descriptor)
