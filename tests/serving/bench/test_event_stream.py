"""Server-sent events."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmbuild.serving.bench.event_stream import LONGEST, EventStream, EventTooLongError

STREAM = (
    b": hello\r\ndata: one\r\n\r\nevent: x\ndata: two\ndata:  three\n\n\n\ndata\n\nid: 7\n\r"
    b"data: four\r\rdata: five"
)
EVENTS = [b"one", b"two\n three", b"", b"four"]


@given(st.lists(st.integers(0, len(STREAM)), max_size=20))
def test_events_do_not_depend_on_how_bytes_arrive(cuts):
    stream, found, places = EventStream(), [], sorted({0, *cuts, len(STREAM)})
    for start, end in pairwise(places):
        found += stream.feed(STREAM[start:end])
    assert found == EVENTS


def test_byte_by_byte():
    stream = EventStream()
    assert [event for at in range(len(STREAM)) for event in stream.feed(STREAM[at : at + 1])] == EVENTS


@given(st.binary(max_size=300))
def test_any_bytes_are_accepted(data):
    whole, parts = EventStream(), EventStream()
    expected = whole.feed(data + b"\n\n")
    assert [e for at in range(len(data)) for e in parts.feed(data[at : at + 1])] + parts.feed(
        b"\n\n"
    ) == expected


@pytest.mark.parametrize("part", [b"x" * 1000, b"data: " + b"x" * 994 + b"\n"])
def test_an_event_without_end_is_refused(part):
    stream = EventStream()
    for _ in range(LONGEST // len(part) - 1):
        stream.feed(part)
    with pytest.raises(EventTooLongError):
        stream.feed(part * 20)
