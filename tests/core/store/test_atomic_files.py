"""Errors of atomic writes name the file that was to be written, not the temporary one."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from mmbuild.core.store.atomic_files import write_whole


def refusing(number: int, *names: object) -> object:
    def refuse(*_: object, **__: object) -> object:
        raise OSError(number, os.strerror(number), *names)

    return refuse


@pytest.mark.parametrize(
    ("function", "error"),
    [
        ("open", refusing(errno.EROFS, "/disk/.file.123")),
        ("write", refusing(errno.ENOSPC)),
        ("replace", refusing(errno.EACCES, "/disk/.file.123", None, "/disk/file")),
    ],
)
def test_an_error_names_the_file(
    function: str, error: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(f"mmbuild.core.store.atomic_files.os.{function}", error)
    with pytest.raises(OSError, match=r".") as caught:
        write_whole(tmp_path / "file", b"content")
    assert (caught.value.filename, caught.value.filename2) == (str(tmp_path / "file"), None)
    assert str(caught.value).endswith(f": '{tmp_path / 'file'}'")
    assert list(tmp_path.iterdir()) == []


def test_a_missing_directory_is_reported_with_the_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        write_whole(tmp_path / "none" / "file", b"content")
    assert caught.value.filename == str(tmp_path / "none" / "file")


def test_an_error_keeps_the_old_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_whole(tmp_path / "file", b"old")
    monkeypatch.setattr("mmbuild.core.store.atomic_files.os.write", refusing(errno.ENOSPC))
    with pytest.raises(OSError, match="No space"):
        write_whole(tmp_path / "file", b"new")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_bytes() == b"old"
