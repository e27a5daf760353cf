"""Editing the user's configuration."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mmbuild.base.diagnostics import RecipeError
from mmbuild.base.errors import MmbuildError
from mmbuild.config.edit import display, remove_entry, set_entry
from mmbuild.config.load import load

OLD = {"python": "/old/bin/python", "examples": "/old"}
NEW = {"container": {"engine": "docker", "image": "image:tag"}, "examples": "~/new"}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "of" / "mine" / "config.yaml"


def test_entries_are_set_one_by_one_and_others_stay(path: Path) -> None:
    set_entry(path, ("toolchains", "1.2"), OLD)
    set_entry(path, ("toolchains", "0.9.0"), NEW)
    set_entry(path, ("tensorrt",), {"python": "/trt/bin/python", "variables": {"A": "1"}})
    config = load(path)
    assert set(config.toolchains) == {"1.2", "0.9.0"}
    assert config.toolchains["1.2"].python == Path("/old/bin/python")
    assert config.toolchains["0.9.0"].container is not None
    assert config.tensorrt is not None
    assert config.tensorrt.variables == {"A": "1"}
    assert "~/new" in display(path), "kept as it was written"


def test_an_entry_is_replaced_whole(path: Path) -> None:
    set_entry(path, ("toolchains", "1.2"), OLD)
    set_entry(path, ("toolchains", "1.2"), NEW)
    assert load(path).toolchains["1.2"].python is None


def test_a_file_written_by_hand_is_understood(path: Path) -> None:
    path.parent.mkdir(parents=True)
    path.write_text(
        "# mine\ntoolchains:\n  1.2: &a {python: /p, examples: /e}\n  0.9.0: {<<: *a, examples: /f}\n",
        "utf-8",
    )
    set_entry(path, ("toolchains", "0.10.0"), OLD)
    found = load(path).toolchains
    assert set(found) == {"1.2", "0.9.0", "0.10.0"}
    assert (found["0.9.0"].python, found["0.9.0"].examples) == (Path("/p"), Path("/f"))


@pytest.mark.parametrize(
    ("keys", "value", "code"),
    [
        (("toolchains", "0.11.0"), OLD, "MM601"),
        (("toolchains", "1.2"), {"examples": "/e"}, "MM611"),
        (("toolchains", "1.2"), {**OLD, **NEW}, "MM611"),
        (("tensorrt",), {"python": "relative"}, "MM611"),
        (("tensorrt",), {"python": "/p", "variables": {"A B": "c"}}, "MM116"),
    ],
)
def test_nothing_wrong_is_ever_written(
    path: Path, keys: tuple[str, ...], value: dict[str, object], code: str
) -> None:
    set_entry(path, ("toolchains", "0.9.0"), OLD)
    before = path.read_bytes()
    with pytest.raises(RecipeError) as caught:
        set_entry(path, keys, value)
    assert caught.value.code == code
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == [path.name]


def test_a_file_with_faults_is_left_alone(path: Path) -> None:
    path.parent.mkdir(parents=True)
    path.write_text("toolchain: {}\n", "utf-8")
    with pytest.raises(RecipeError):
        set_entry(path, ("toolchains", "0.9.0"), OLD)
    assert path.read_text("utf-8") == "toolchain: {}\n"


def test_entries_are_dropped(path: Path) -> None:
    set_entry(path, ("toolchains", "0.9.0"), OLD)
    set_entry(path, ("tensorrt",), {"python": "/p"})
    remove_entry(path, ("toolchains", "0.9.0"))
    assert load(path).toolchains == {}
    assert load(path).tensorrt is not None
    remove_entry(path, ("tensorrt",))
    assert display(path) == ""


@pytest.mark.parametrize("keys", [("toolchains", "1.2"), ("tensorrt",)])
def test_what_is_not_there_cannot_be_dropped(path: Path, keys: tuple[str, ...]) -> None:
    with pytest.raises(MmbuildError) as caught:
        remove_entry(path, keys)
    assert caught.value.code == "MM612"
    assert not path.exists()


def test_only_the_user_may_read_it(path: Path) -> None:
    set_entry(path, ("tensorrt",), {"python": "/p", "variables": {"HF_TOKEN": "hf_1234"}})
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_link_to_the_file_stays_one(path: Path, tmp_path: Path) -> None:
    set_entry(path, ("tensorrt",), {"python": "/p"})
    link = tmp_path / "link.yaml"
    link.symlink_to(path)
    set_entry(link, ("tensorrt",), {"python": "/q"})
    assert link.is_symlink()
    assert load(path).tensorrt == load(link).tensorrt


def test_a_place_that_cannot_be_written_to(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", "utf-8")
    with pytest.raises(MmbuildError) as caught:
        set_entry(tmp_path / "file" / "config.yaml", ("tensorrt",), {"python": "/p"})
    assert caught.value.code == "MM610"
