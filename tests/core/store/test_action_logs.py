"""The index of logs: which action wrote which log, and when."""

from __future__ import annotations

import os
import platform
from dataclasses import replace
from pathlib import Path

import pytest

from mmbuild.core.store import action_logs
from mmbuild.core.store.action_logs import (
    DONE,
    FAILED,
    INTERRUPTED,
    RUNNING,
    LoggedRun,
    LogReader,
    append_run,
    index_path,
    last_apply,
    process_start,
    read_runs,
)
from mmbuild.core.store.layout import Store, open_store

HERE = platform.node()
ME, BORN = os.getpid(), process_start(os.getpid())
RUN = LoggedRun("a1", "v/convert", "1" * 64, RUNNING, 10.0, ME, BORN, HERE)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(tmp_path / "store")


def test_an_empty_store_has_no_runs(store: Store) -> None:
    assert read_runs(store) == []
    assert last_apply([]) == []


@pytest.mark.parametrize("status", [DONE, FAILED, INTERRUPTED])
def test_a_run_has_the_status_and_duration_of_its_end(store: Store, status: str) -> None:
    append_run(store, RUN)
    assert read_runs(store) == [RUN]
    append_run(store, replace(RUN, status=status, at=12.5))
    assert read_runs(store) == [replace(RUN, status=status, seconds=2.5)]


def test_a_later_run_of_the_same_action_does_not_hide_the_earlier_one(store: Store) -> None:
    append_run(store, RUN)
    append_run(store, replace(RUN, status=FAILED, at=11.0))
    append_run(store, replace(RUN, apply="a2", at=20.0))
    assert [(run.apply, run.status) for run in read_runs(store)] == [("a1", FAILED), ("a2", RUNNING)]
    assert [run.apply for run in last_apply(read_runs(store))] == ["a2"]


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({}, RUNNING),
        ({"born": (BORN or 0) + 1}, INTERRUPTED),  # the number was given to another process
        ({"pid": 2**22 + 1}, INTERRUPTED),  # beyond the largest process id of Linux
        ({"host": "elsewhere", "pid": 2**22 + 1}, RUNNING),  # unknown from here
    ],
)
def test_a_run_without_an_end_is_interrupted_if_its_process_is_gone(
    store: Store, changes: dict, status: str
) -> None:
    append_run(store, replace(RUN, **changes))
    assert read_runs(store)[0].status == status


@pytest.mark.parametrize(
    "line",
    [b"{", b"[]", b'{"apply": 1}', b"\xff\xfe", b'{"apply":"a","key":"../../etc/passwd"}', b'{"unknown":1}'],
)
def test_damaged_lines_are_skipped(store: Store, line: bytes) -> None:
    append_run(store, RUN)
    with index_path(store).open("ab") as stream:
        stream.write(line + b"\n")
    append_run(store, replace(RUN, label="v/other"))
    assert [run.label for run in read_runs(store)] == ["v/convert", "v/other"]


def test_an_unknown_status_is_skipped(store: Store) -> None:
    append_run(store, replace(RUN, status="done\n"))
    assert read_runs(store) == []


def test_a_key_that_is_a_path_is_refused(store: Store) -> None:
    append_run(store, replace(RUN, key="../../VERSION"))
    assert read_runs(store) == []


def test_an_index_that_grows_too_large_keeps_its_newer_half(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(action_logs, "MOST_BYTES", 2_000)
    for number in range(40):
        append_run(store, replace(RUN, apply=f"a{number}"))
    assert index_path(store).stat().st_size <= 2_000
    runs = read_runs(store)
    assert runs[-1].apply == "a39"
    assert 2 < len(runs) < 20


def test_a_link_is_not_followed(store: Store, tmp_path: Path) -> None:
    (tmp_path / "other").write_text("")
    index_path(store).symlink_to(tmp_path / "other")
    with pytest.raises(OSError, match="symbolic links"):
        append_run(store, RUN)
    assert (tmp_path / "other").read_text() == ""


def test_a_reader_gives_only_what_is_new(tmp_path: Path) -> None:
    log = tmp_path / "x.log"
    reader = LogReader(log)
    assert list(reader.fresh()) == []
    log.write_text("one\n")
    assert list(reader.fresh()) == ["one\n"]
    assert list(reader.fresh()) == []
    log.write_bytes(b"one\ntwo\xc3")
    assert list(reader.fresh()) == ["two"]  # half a character
    log.write_bytes(b"one\ntwo\xc3\xa4")
    assert list(reader.fresh()) == ["\u00e4"]


def test_a_log_that_was_replaced_is_read_from_its_beginning(tmp_path: Path) -> None:
    log = tmp_path / "x.log"
    log.write_text("a long first line\n")
    reader = LogReader(log)
    assert list(reader.fresh()) == ["a long first line\n"]
    log.write_text("short\n")
    assert list(reader.fresh()) == ["short\n"]


def test_content_of_an_earlier_run_is_left_out(tmp_path: Path) -> None:
    log = tmp_path / "x.log"
    log.write_text("old\n")
    os.utime(log, (100, 100))
    reader = LogReader(log, since=200)
    assert list(reader.fresh()) == []
    os.utime(log, (300, 300))
    assert list(reader.fresh()) == ["old\n"]


def test_what_is_not_a_file_is_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert list(LogReader(tmp_path / "pipe").fresh()) == []
