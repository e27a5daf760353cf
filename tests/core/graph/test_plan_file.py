"""Saved plans: a file that is not one is refused with a code."""

import errno
import json
import os

import pytest

from mmbuild.base.errors import MmbuildError, StalePlanError
from mmbuild.core.graph.plan_file import looks_saved, read_saved, require_recipes, save_plan
from support.projects.workspace import Workspace
from support.steps.trivial import chain

REQUEST = {
    "recipes": ["/r.yaml"],
    "overrides": [],
    "offline": True,
    "allow_outside": None,
    "store": "/s",
    "build_dir": "/b",
    "locked": False,
}


@pytest.fixture
def saved(tmp_path):
    path = tmp_path / "x.plan"
    save_plan(path, Workspace(tmp_path).plan(chain("r")), REQUEST)
    return path


def refused(path):
    with pytest.raises(MmbuildError) as caught:
        read_saved(path)
    return caught.value.code


def test_a_saved_plan_comes_back(saved):
    assert looks_saved(saved)
    assert read_saved(saved)["request"] == REQUEST


def test_a_plan_of_a_deleted_recipe_is_stale_and_has_a_hint(saved):
    with pytest.raises(StalePlanError, match=r"`/r.yaml`, which does not exist") as caught:
        require_recipes(saved, read_saved(saved))
    assert f"mmbuild plan RECIPE -o {saved}" in caught.value.hint


@pytest.mark.parametrize("name", REQUEST)
@pytest.mark.parametrize("value", [7, [7], {"a": 1}, "relative\0", "\ud800"], ids=str)
def test_a_request_of_anything_is_refused(saved, name, value):
    if name == "overrides" and value == []:
        pytest.skip("that is one")
    data = json.loads(saved.read_text())
    saved.write_text(json.dumps({**data, "request": {**REQUEST, name: value}}))
    assert refused(saved) == "MM201"


@pytest.mark.parametrize("name", [name for name in REQUEST if name != "locked"])
def test_a_request_without_one_of_its_parts_is_refused(saved, name):
    data = json.loads(saved.read_text())
    del data["request"][name]
    saved.write_text(json.dumps(data))
    assert refused(saved) == "MM201"


@pytest.mark.parametrize(
    "change",
    [
        {"kind": "recipe"},
        {"schema": [[]]},
        {"request": None},
        {"request": {**REQUEST, "recipes": []}},
        {"actions": None},
        {"actions": 7},
        {"actions": [7]},
        {"actions": [{}]},
        {"actions": [{"label": 1, "definition_key": 2, "verdict": 3}]},
    ],
    ids=str,
)
def test_parts_of_another_type_are_refused(saved, change):
    saved.write_text(json.dumps({**json.loads(saved.read_text()), **change}))
    assert refused(saved) == "MM201"


@pytest.mark.parametrize(
    "text", ["", "[]", "{" * 100_000, '{"schema": Infinity}', '{"schema": ' + "9" * 5000, "\x00"]
)
def test_text_of_anything_is_refused(saved, text):
    saved.write_text(text)
    assert refused(saved) == "MM201"


@pytest.mark.parametrize("kind", ["pipe", "directory", "endless", "gone"])
def test_a_path_that_is_not_a_file_is_refused(saved, kind):
    saved.unlink()
    if kind == "pipe":
        os.mkfifo(saved)
    elif kind == "directory":
        saved.mkdir()
    elif kind == "endless":
        saved.symlink_to("/dev/zero")
    assert not looks_saved(saved)
    assert refused(saved) == "MM201"


@pytest.mark.parametrize(
    "text", ["{version: 1}", '{"version": 1, "name": "x"}', "{\n  model: {}}", "version: 1", "# {"]
)
def test_a_recipe_in_any_style_is_not_a_saved_plan(saved, text):
    saved.write_text(text)
    assert not looks_saved(saved)


@pytest.mark.parametrize(("number", "code"), [(errno.EROFS, "MM301"), (errno.ENOSPC, "MM302")])
def test_a_plan_that_cannot_be_written_has_a_hint_about_its_file(tmp_path, monkeypatch, number, code):
    plan = Workspace(tmp_path).plan(chain("r"))

    def refuse(path, *_, **__):
        raise OSError(number, os.strerror(number), str(path))

    monkeypatch.setattr("pathlib.Path.write_text", refuse)
    with pytest.raises(MmbuildError) as caught:
        save_plan(tmp_path / "x.plan", plan, REQUEST)
    assert caught.value.code == code
    assert caught.value.hint == "check the directory's permissions and free space, or name another file"
