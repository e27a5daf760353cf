"""What several commands share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mmbuild.cli import main
from mmbuild.cli.options import unwritable


def test_a_file_that_cannot_be_written_is_known_before_the_work(tmp_path, monkeypatch) -> None:
    (tmp_path / "there").write_text("")
    for path in (None, tmp_path / "new", tmp_path / "there", Path("/dev/stdout"), Path("new")):
        assert unwritable(path) is None, path
    assert "is not a directory" in unwritable(tmp_path / "no" / "new")[0]
    assert "is not a directory" in unwritable(tmp_path / "there" / "new")[0]
    assert "is a directory" in unwritable(tmp_path)[0]
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert "permission denied" in unwritable(tmp_path / "new")[0]


@pytest.mark.parametrize("verb", ["eval", "bench", "verify"])
def test_it_is_looked_at_first(tmp_path, capsys, verb) -> None:
    data = ["--data", "missing.jsonl"] if verb == "eval" else []
    assert main([verb, str(tmp_path), *data, "-o", str(tmp_path)]) == (1 if verb == "verify" else 2)
    assert "is a directory, so it cannot be written" in capsys.readouterr().err
