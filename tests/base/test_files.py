"""Opening untrusted files: only regular files, in allowed directories, within the limits of their kind."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from mmbuild.base.files import (
    FileRefusedError,
    entries,
    is_within,
    open_regular,
    read_beginning,
    read_file,
    read_json,
    read_lines,
    read_object,
    require_regular,
)
from mmbuild.base.limits import Limit

SMALL = Limit("a small file", 10, 2, 5, 5, "of these tests")
READERS: tuple[Callable[[Path], object], ...] = (
    require_regular,
    open_regular,
    lambda path: read_file(path, SMALL),
    lambda path: read_json(path, SMALL),
    lambda path: read_object(path, SMALL),
    lambda path: read_beginning(path, 4),
    lambda path: list(read_lines(path, SMALL, 3, 100)),
)


def special(kind: str, path: Path) -> Path:
    """A file of ``kind`` at ``path``."""
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "directory":
        path.mkdir()
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as served:
            served.bind(str(path))
    else:
        path.symlink_to(kind)
    return path


@pytest.mark.parametrize("read", READERS)
@pytest.mark.parametrize("kind", ["pipe", "directory", "socket", "/dev/zero", "/dev/null", "/dev/tty"])
def test_what_is_not_a_regular_file_is_refused_at_once(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, kind: str, read: Callable[[Path], object]
) -> None:
    monkeypatch.chdir(tmp_path)  # a socket's path is short
    if kind == "/dev/tty" and not os.path.exists(kind):
        pytest.skip("no terminal here")
    with pytest.raises(FileRefusedError) as caught:
        read(special(kind, Path("it")))
    assert caught.value.code == "MM745"
    assert caught.value.path == "it"
    assert caught.value.message == f"`it` {caught.value.problem}"


@pytest.mark.parametrize("name", ["a\0b", "\ud800"])
def test_a_name_that_no_file_has_is_refused(name: str) -> None:
    with pytest.raises((FileRefusedError, FileNotFoundError)):
        require_regular(name)


def test_a_missing_file_is_left_to_the_caller(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_file(tmp_path / "none", SMALL)


def test_a_file_without_an_end_is_read_up_to_its_limit() -> None:
    # In /proc sizes are zero, whatever there is to read.
    with pytest.raises(FileRefusedError) as caught:
        read_file("/proc/self/environ", 3)
    assert caught.value.code == "MM746"


def test_as_many_bytes_as_the_limit_are_read_and_no_more(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"x" * SMALL.size)
    assert read_file(path, SMALL) == b"x" * SMALL.size
    path.write_bytes(b"x" * (SMALL.size + 1))
    with pytest.raises(FileRefusedError, match="larger than 10 bytes") as caught:
        read_file(path, SMALL)
    assert caught.value.code == "MM746"


@pytest.mark.parametrize("link", ["absolute", "relative", "link to a link", "linked directory"])
def test_a_link_out_of_the_allowed_places_is_refused(tmp_path: Path, link: str) -> None:
    home, other = tmp_path / "home", tmp_path / "other"
    home.mkdir()
    other.mkdir()
    (other / "secret").write_text("1")
    path = home / "it"
    if link == "absolute":
        path.symlink_to(other / "secret")
    elif link == "relative":
        path.symlink_to("../other/secret")
    elif link == "link to a link":
        (home / "between").symlink_to(other / "secret")
        path.symlink_to("between")
    else:
        (home / "inner").symlink_to(other)
        path = home / "inner/secret"
    with pytest.raises(FileRefusedError) as caught:
        open_regular(path, within=[home])
    assert caught.value.code == "MM747"
    assert str(other / "secret") in caught.value.message
    assert read_file(path, SMALL, within=[home, other]) == b"1"
    assert read_file(path, SMALL) == b"1"


def test_a_link_that_stays_inside_is_followed(tmp_path: Path) -> None:
    (tmp_path / "real").write_text("1")
    (tmp_path / "it").symlink_to("real")
    assert read_file(tmp_path / "it", SMALL, within=[tmp_path]) == b"1"


def test_a_directory_whose_name_begins_alike_is_another_place(tmp_path: Path) -> None:
    assert not is_within(tmp_path / "home-2/a", [tmp_path / "home"])
    assert is_within(tmp_path / "home/a", [tmp_path / "home"])


def test_nothing_stays_open_where_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("1")
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        with pytest.raises(FileRefusedError):
            open_regular(tmp_path / "secret", within=[tmp_path / "home"])
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize("text", ["[1]", '"a"', "1", "null", "true"])
def test_an_object_is_an_object(tmp_path: Path, text: str) -> None:
    (tmp_path / "a").write_text(text)
    with pytest.raises(FileRefusedError, match="not a JSON object") as caught:
        read_object(tmp_path / "a", SMALL)
    assert caught.value.code == "MM748"


def test_a_directory_has_an_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in "cab":
        (tmp_path / name).touch()
    assert [path.name for path in entries(tmp_path)] == ["a", "b", "c"]
    monkeypatch.setattr("mmbuild.base.files.ENTRIES", 2)
    with pytest.raises(FileRefusedError, match="more than 2 files"):
        entries(tmp_path)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (b"a\nb\nc\nd\n", "more than 3 lines"),
        (b"a\n" + b"x" * 11, "in line 2"),
        (b"a\n" * 60, "larger than 100"),
    ],
)
def test_lines_have_limits(tmp_path: Path, text: bytes, problem: str) -> None:
    (tmp_path / "a").write_bytes(text)
    with pytest.raises(FileRefusedError, match=problem) as caught:
        list(read_lines(tmp_path / "a", SMALL, 3, 100))
    assert caught.value.code == "MM746"


def test_lines_come_without_their_ends(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"a\r\n\nb")
    assert list(read_lines(tmp_path / "a", SMALL, 3, 100)) == [b"a", b"", b"b"]
