"""Generated pages are what the code says."""

from __future__ import annotations

from pathlib import Path

import pytest

import make_docs
from mmbuild.base.codes import codes
from mmbuild.schema.validation import every_key


@pytest.mark.parametrize("path", list(make_docs.pages()), ids=lambda path: path.name)
def test_the_committed_page_is_current(path: Path) -> None:
    assert path.read_text("utf-8") == make_docs.pages()[path], "run: python tools/make_docs.py"


def test_every_key_and_every_code_is_there() -> None:
    page = make_docs.recipe_page()
    for key in every_key():
        assert f"| `{key.rpartition('.')[2]}` |" in page, key
    for code in codes():
        assert f"## {code}:" in make_docs.diagnostics_page()


def test_check_reports_a_stale_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "docs/recipe.md"
    monkeypatch.setattr(make_docs, "ROOT", tmp_path)
    monkeypatch.setattr(make_docs, "pages", lambda: {page: "right"})
    assert make_docs.main(["--check"]) == 1
    assert "docs/recipe.md is stale" in capsys.readouterr().err
    assert make_docs.main([]) == 0
    assert page.read_text("utf-8") == "right"
    assert make_docs.main(["--check"]) == 0
