"""Hints for installing an extra work on this machine, and are defined in one place."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from mmbuild.base import optional_packages
from mmbuild.base.codes import codes

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _asked_anew() -> Iterator[None]:
    optional_packages._origin.cache_clear()
    yield
    optional_packages._origin.cache_clear()


def test_a_checkout_is_named() -> None:
    assert optional_packages.install_hint("torch") == f"pip install -e '{ROOT}[torch]'"
    assert optional_packages.install_hint("torch", "mpi") == f"pip install -e '{ROOT}[torch,mpi]'"


class Installed:
    """mmbuild as pip installed it."""

    def __init__(self, url: str | None) -> None:
        self.url = url

    def read_text(self, name: str) -> str | None:
        assert name == "direct_url.json"
        return None if self.url is None else json.dumps({"url": self.url})


def installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, url: str | None) -> str:
    """The hint of an mmbuild in site-packages."""
    monkeypatch.setattr(
        optional_packages, "__file__", str(tmp_path / "lib/site-packages/mmbuild/base/optional_packages.py")
    )
    monkeypatch.setattr(metadata, "distribution", lambda _name: Installed(url))
    return optional_packages.install_hint("torch")


def test_a_wheel_file_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    wheel = tmp_path / "my wheels" / "mmbuild-0.1.0-py3-none-any.whl"
    wheel.parent.mkdir()
    wheel.touch()
    assert installed(monkeypatch, tmp_path, wheel.as_uri()) == f"pip install '{wheel}[torch]'"


def test_a_checkout_that_was_installed_from_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert installed(monkeypatch, tmp_path, tmp_path.as_uri()) == f"pip install -e '{tmp_path}[torch]'"


@pytest.mark.parametrize("url", [None, "https://example.com/mmbuild.whl", "file:///gone/mmbuild.whl"])
def test_both_ways_are_named_where_the_origin_is_not_known(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, url: str | None
) -> None:
    assert installed(monkeypatch, tmp_path, url) == (
        "pip install -e '.[torch]' in mmbuild's checkout, or pip install 'WHEEL[torch]' with its wheel file"
    )


def test_a_missing_package_is_named_with_who_needs_it() -> None:
    optional_packages.require("json", needed_by="running an engine")
    with pytest.raises(optional_packages.MissingPackageError) as caught:
        optional_packages.require("json", "no_such_package", needed_by="running an engine")
    assert caught.value.code == "MM230"
    assert caught.value.message == (
        "running an engine needs `no_such_package` in mmbuild's own environment, where it is not installed"
    )
    assert caught.value.hint == optional_packages.install_hint("torch")


def test_codes_name_both_ways() -> None:
    cure = codes()["MM230"].cure
    advice = "To plan without it, add `--locked`, with a lock that was made where it is installed."
    assert cure == f"Run {optional_packages.general_hint('torch')}. {advice}"
    assert not [entry.code for entry in codes().values() if "{install" in entry.cure]


def extras() -> Any:
    import tomllib

    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]


def texts() -> Iterator[tuple[Path, str]]:
    for folder in ("src", "docs", "benchmarks", "examples", "tools"):
        for file in (ROOT / folder).rglob("*"):
            if file.suffix in (".py", ".md", ".yaml", ".yml"):
                yield file, file.read_text("utf-8")
    yield ROOT / "README.md", (ROOT / "README.md").read_text("utf-8")


def test_no_hint_installs_mmbuild_by_its_name_alone() -> None:
    by_name = re.compile(r"pip install ['\"]?mmbuild(\[[^\]]*\])?(?! @)['\"`\s]")
    assert [str(file) for file, text in texts() if by_name.search(text)] == []


def test_only_extras_that_exist_are_named() -> None:
    known = set(extras())
    pattern = r"(?:pip install -e '\.|\{install |install_hint\(['\"])\[?([a-z][a-z,-]*)"
    named = {name for _, text in texts() for found in re.findall(pattern, text) for name in found.split(",")}
    assert "torch" in named
    assert named <= known
