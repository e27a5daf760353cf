"""The journal: lines as they are written are read by one pattern, and mean what their fields mean."""

import dataclasses
import json

from hypothesis import given
from hypothesis import strategies as st

from mmbuild.base.json_reader import parse_json
from mmbuild.base.limits import STORE_RECORD
from mmbuild.core.store.action_cache import _AS_WRITTEN, _RECORD, Record, append, load_cache, parse_record
from mmbuild.core.store.layout import open_store
from mmbuild.core.store.record_fields import require_fields

DIGESTS = st.text("0123456789abcdef", min_size=64, max_size=64)
RECORDS = st.builds(
    Record,
    key=DIGESTS,
    definition=DIGESTS,
    inputs=st.dictionaries(st.text(max_size=8), DIGESTS, max_size=3),
    digest=DIGESTS,
    label=st.text(max_size=20),
    body=DIGESTS,
    size=st.integers(0, 1 << 50),
    seconds=st.floats(0, 1e9),
    memory=st.integers(0, 1 << 50),
    at=st.floats(0, 1e12),
    host=st.text(max_size=20),
)
EDITS = st.tuples(
    st.integers(0, 600), st.integers(0, 3), st.sampled_from([*map(chr, range(32, 127)), "\n", "ä"])
)


def written(record):
    return json.dumps(dataclasses.asdict(record), separators=(",", ":")).encode()


def by_fields(line):
    """What the line means to a reader that knows no pattern."""
    try:
        return Record(**require_fields(parse_json(line, STORE_RECORD), _RECORD))
    except (ValueError, TypeError):
        return None


def test_what_append_writes_fits_the_pattern(tmp_path):
    store = open_store(tmp_path / "store")
    record = Record(
        "0" * 64, "1" * 64, {"model": "2" * 64}, "3" * 64, "r/convert", "4" * 64, 9, 0.5, 7, 1e9, "vm"
    )
    append(store, record)
    assert _AS_WRITTEN.fullmatch(store.journal.read_bytes().rstrip())
    assert load_cache(store).by_key == {record.key: record}


@given(RECORDS)
def test_every_record_is_read_as_it_was_written(record):
    assert parse_record(written(record)) == record


@given(RECORDS, st.lists(EDITS, min_size=1, max_size=3))
def test_a_damaged_line_means_the_same_by_pattern_and_by_fields(record, edits):
    line = written(record).decode()
    for place, removed, added in edits:
        at = place % len(line)
        line = line[:at] + added + line[at + removed :]
    assert parse_record(line.encode()) == by_fields(line.encode())
