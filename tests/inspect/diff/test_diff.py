"""`mmbuild diff`: the inputs and results of two builds."""

import json
import os
import random
import shutil

import pytest

from mmbuild.api import apply, load_recipe, plan
from mmbuild.core.execution import run_plan
from mmbuild.inspect.diff.build_diff import DiffError, FileChange, compare_builds, file_changes
from mmbuild.inspect.diff.reports import diff_json, lines
from support.projects import warm_workers
from support.projects.demo_project import NAME, RECIPE, Project


@pytest.fixture
def project(tmp_path, monkeypatch):
    project = Project(tmp_path)
    monkeypatch.chdir(project.root)
    monkeypatch.setattr(run_plan, "start_workers", warm_workers.starter(warm_workers.address()))
    for name in ("MMBUILD_STORE", "MMBUILD_STEPS"):
        monkeypatch.setenv(name, project.environment[name])
    return project


def build(place, *overrides):
    apply(plan(load_recipe(RECIPE, overrides), build_dir=place))
    return place / NAME


def test_build_equals_itself_installed_elsewhere(project):
    found = compare_builds(build(project.root / "a"), build(project.root / "b"))
    assert found.same
    assert [found.recipe, found.versions, found.steps, found.files] == [{}, {}, (), ()]
    assert "the engines are identical" in "\n".join(lines(found))


def test_only_differing_recipe_values_steps_and_files_are_reported(project):
    one, other = build(project.root / "a"), build(project.root / "b", "engine.max_batch_size=2")
    found = compare_builds(one, other)
    assert found.recipe == {"engine.max_batch_size": (4, 2)}
    steps = {step.step: step for step in found.steps}
    assert {change.path for change in steps["build_llm"].own} == {"max_batch_size", "max_multimodal_len"}
    assert steps["assemble"].follows == {"llm": "build_llm", "visual": "build_visual"}
    assert "convert" not in steps
    assert [item.path for item in found.files] == ["result.json", "verify/result.json"]
    assert not any(step.unexplained for step in found.steps)
    assert not found.same


def test_versions_and_hosts_come_only_from_the_manifests(project):
    one, other = build(project.root / "a"), build(project.root / "b")
    manifest = json.loads((other / "manifest.json").read_bytes())
    manifest["made_by"]["mmbuild"] = "0.0.1"
    for action in manifest["actions"]:
        action["toolchain"] = dict.fromkeys(action["toolchain"], "9.9")
        if action["step"] == "convert":
            action["version"] = "77"
    (other / "manifest.json").write_text(json.dumps(manifest))
    found = compare_builds(one, other)
    assert {name: new for name, (_, new) in found.versions.items()} == {
        "mmbuild": "0.0.1",
        "torch": "9.9",
        "transformers": "9.9",
        "step convert": "77",
    }
    assert found.same


def test_step_that_is_not_reproducible_is_reported(project):
    one, other = build(project.root / "a"), build(project.root / "b")
    manifest = json.loads((other / "manifest.json").read_bytes())
    manifest["actions"][0]["artifact"] = "0" * 64
    (other / "manifest.json").write_text(json.dumps(manifest))
    (step,) = compare_builds(one, other).steps
    assert step.unexplained
    assert "is not reproducible" in "\n".join(lines(compare_builds(one, other)))


def test_steps_of_only_one_build(project):
    one, other = build(project.root / "a"), build(project.root / "b", "engine.quantization=none")
    reported = diff_json(compare_builds(one, other))
    assert reported["only"] == {"quantize": str(one)}
    assert reported["recipe"]["engine.quantization.algorithm"] == {"old": "int4", "new": "none"}


def test_files_are_compared_by_content(tmp_path):
    source = random.Random(5)
    one, other = tmp_path / "one", tmp_path / "other"
    (one / "sub").mkdir(parents=True)
    for name in ("linked", "same", "altered", "gone", "sub/longer", "apart"):
        (one / name).write_bytes(source.randbytes(source.randrange(1, 5000)))
    shutil.copytree(one, other)
    (other / "linked").unlink()
    os.link(one / "linked", other / "linked")
    content = bytearray((one / "altered").read_bytes())
    content[source.randrange(len(content))] ^= 1
    (other / "altered").write_bytes(content)
    (other / "gone").unlink()
    with open(other / "sub/longer", "ab") as stream:
        stream.write(b"x")
    (other / "new").write_bytes(b"123")
    (other / "apart").write_bytes(b"")
    sizes = {name: (one / name).stat().st_size for name in ("altered", "gone", "sub/longer")}
    assert file_changes(one, other, {"apart"}) == [
        FileChange("altered", sizes["altered"], sizes["altered"]),
        FileChange("gone", sizes["gone"], None),
        FileChange("new", None, 3),
        FileChange("sub/longer", sizes["sub/longer"], sizes["sub/longer"] + 1),
    ]


def test_directory_that_is_not_a_build_is_refused(project):
    one = build(project.root / "a")
    with pytest.raises(DiffError, match="not an mmbuild engine directory") as caught:
        compare_builds(one, project.root)
    assert caught.value.code == "MM851"
    assert caught.value.__cause__ is not None


def test_a_file_is_called_a_file(tmp_path):
    file = tmp_path / "recipe.yaml"
    file.touch()
    with pytest.raises(DiffError, match=r"recipe.yaml` is a file, not an engine directory") as caught:
        compare_builds(file, tmp_path)
    assert caught.value.code == "MM851"


def test_a_missing_build_is_called_missing(tmp_path):
    with pytest.raises(DiffError, match="missing` does not exist") as caught:
        compare_builds(tmp_path / "missing", tmp_path)
    assert caught.value.code == "MM851"


def test_unreadable_file_is_reported(project, monkeypatch):
    one, other = build(project.root / "a"), build(project.root / "b")
    copied = project.root / "c"
    shutil.copytree(other, copied)  # not the same files any more: they have to be read

    def broken(paths):
        raise OSError(5, "Input/output error", str(paths[0]))

    monkeypatch.setattr("mmbuild.inspect.diff.build_diff.hash_files", broken)
    with pytest.raises(DiffError, match="Input/output error") as caught:
        compare_builds(one, copied)
    assert caught.value.code == "MM852"


def test_exit_code_is_that_of_git_diff(project):
    build(project.root / "a"), build(project.root / "b", "engine.max_batch_size=2")
    pair = (f"a/{NAME}", f"b/{NAME}")
    assert "engine.max_batch_size  4 -> 2" in project.run("diff", *pair).stdout
    assert not json.loads(project.run("diff", *pair, "--json", "--exit-code", status=1).stdout)["same"]
    project.run("diff", pair[0], pair[0], "--exit-code")
    assert "[MM851]" in project.run("diff", "recipes", pair[0], status=1).stderr
