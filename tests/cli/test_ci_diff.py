"""mmbuild ci diff: what a change rebuilds, by line and version, and what stays cached."""

from __future__ import annotations

import shutil

import pytest

from mmbuild.base import host
from support.projects.ci_project import CiProject


@pytest.fixture
def project(tmp_path, monkeypatch, capsys):
    return CiProject(tmp_path / "project", monkeypatch, capsys)


def diff(project, *words, status=0):
    return project.json("ci", "diff", *(words or ("HEAD",)), "--format", "json", status=status)


def steps(labels):
    return [label.partition("/")[2] for label in labels]


def by_name(found):
    return {one["name"]: one for one in found["variants"]}


def test_nothing_changed_is_nothing_to_build(project):
    found = diff(project)
    assert (found["variants"], found["unchanged"], found["build"], found["seconds"]) == ([], 4, [], 0)
    said = project.run("ci", "diff", "HEAD", "--exit-code").out
    assert said == "### mmbuild: nothing to build, 4 variants unchanged\n\n"


def test_each_line_is_blamed_only_for_what_it_rebuilds(project):
    project.change("recipes/base/base.yaml", "max_output_len: 32", "max_output_len: 33")
    found = by_name(diff(project, "HEAD", "--exit-code", status=3))
    assert list(found) == ["other", "small-none", "small-int8", "small-int4"]
    int8 = found["small-int8"]
    assert int8["lines"] == [
        {
            "file": "recipes/base/base.yaml",
            "line": 9,
            "key": "engine.max_output_len",
            "before": 32,
            "after": 33,
            "free": False,
        }
    ]
    assert int8["reasons"] == []
    assert steps(int8["build"]) == ["build_llm", "assemble"]
    assert set(steps(int8["keep"])) == {"download", "convert", "quantize", "build_visual", "convert_visual"}


def test_two_lines_of_one_recipe_are_distinguished(project):
    """One requires a compilation, the other nothing, since backend torch ignores it."""
    project.change(
        "recipes/base/base.yaml", "max_batch_size: 2", "max_batch_size: 3\n  tensorrt_llm: {fused_mlp: false}"
    )
    lines = {line["key"]: line["free"] for line in by_name(diff(project))["other"]["lines"]}
    assert lines == {"engine.max_batch_size": False, "engine.tensorrt_llm.fused_mlp": True}
    said = project.run("ci", "diff", "HEAD").out
    table, _, free = said.partition("\nFree:\n")
    assert "`recipes/base/base.yaml:7` `engine.max_batch_size` from `2` to `3`" in table
    assert "fused_mlp" not in table
    assert "`recipes/base/base.yaml:8` `engine.tensorrt_llm.fused_mlp` was added: `false`: no action" in free


def test_variants_with_the_same_changes_share_a_row(project):
    lengths = ", ".join(str(length) for length in range(32, 47))
    axes = f"matrix: {{quantization: [int8], max_input_len: [{lengths}]}}"
    project.write("recipes/small.yaml", f"version: 1\nname: small\nextends: base/base.yaml\n{axes}\n")
    project.commit()
    project.change("recipes/base/base.yaml", "max_output_len: 32", "max_output_len: 33")
    rows = [line for line in project.run("ci", "diff", "HEAD").out.splitlines() if line.startswith("| `")]
    cells = [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]
    assert [cell[0].count("<br>") for cell in cells] == [0, 12]
    assert cells[1][0].endswith("<br>and 3 more")
    assert cells[1][-1] == f"{cells[0][-1]} each"


def test_comments_are_reported_as_free(project):
    project.change("recipes/base/base.yaml", "version: 1", "# what all share\nversion: 1")
    found = diff(project, "HEAD", "--exit-code")
    assert (found["build"], found["only_text"]) == ([], ["recipes/base/base.yaml"])
    assert (
        "- `recipes/base/base.yaml`: no action depends on its changes"
        in project.run("ci", "diff", "HEAD").out
    )


def test_a_moved_base_and_another_name_are_not_called_comments(project):
    project.git("mv", "recipes/base", "recipes/common")
    project.change("recipes/small.yaml", "base/base.yaml", "common/base.yaml")
    project.change("recipes/other.yaml", "base/base.yaml", "common/base.yaml")
    project.change("recipes/other.yaml", "name: other", "name: another")
    shown = project.run("ci", "diff", "HEAD").out
    assert "- `recipes/other.yaml`: no action depends on its changes" in shown
    assert "comments" not in shown


def test_removed_key_is_reported_at_its_old_location(project):
    project.change("recipes/other.yaml", "name: other", "name: other\nengine: {max_beam_width: 2}")
    project.commit()
    project.change("recipes/other.yaml", "\nengine: {max_beam_width: 2}", "")
    (line,) = by_name(diff(project))["other"]["lines"]
    assert (line["file"], line["line"], line["before"], line["after"]) == ("recipes/other.yaml", 3, 2, None)
    assert "`engine.max_beam_width` was removed, was `2`" in project.run("ci", "diff", "HEAD").out


def test_added_and_removed_variants_and_actions_shared_with_others(project):
    project.change("recipes/small.yaml", "[none, int8, int4]", "[int8, fp8]")
    project.change("recipes/small.yaml", "fp8", "int4_awq")
    (project.root / "recipes/other.yaml").unlink()
    found = by_name(diff(project))
    states = {name: one["state"] for name, one in found.items()}
    assert states == {"small-int4_awq": "new", "small-none": "gone", "small-int4": "gone", "other": "gone"}
    assert {"download", "build_visual"} <= set(steps(found["small-int4_awq"]["keep"]))
    assert found["other"]["build"] == []
    assert "1 new, 3 gone of 5 variants" in project.run("ci", "diff", "HEAD").out


def test_changes_without_a_line_are_reported_as_source_or_version(project):
    project.change("model2/config.json", '"vocab_size": 102', '"vocab_size": 110')
    (only,) = diff(project)["variants"]
    assert (only["name"], only["lines"]) == ("other", [])
    assert any(reason.startswith("source `model` changed (model2)") for reason in only["reasons"])


def test_updated_locks_are_reported_by_package(project):
    for name in ("small", "other"):
        project.run("lock", f"recipes/{name}.yaml")
    project.commit()
    version = host.installed_versions(("torch",))["torch"]
    lock = project.root / "recipes/other.lock"
    lock.write_text(lock.read_text().replace(f"torch: {version}", "torch: 2.99.0"))
    project.run(
        "ci", "diff", "HEAD", "--locked", status=1
    )  # its hashes are of the other version: made by hand
    project.run("lock", "recipes/other.yaml")
    (only,) = diff(project, "HEAD", "--locked")["variants"]
    assert only["name"] == "other"
    assert f"version of `torch` changed from {version} to 2.99.0" in only["reasons"]
    assert diff(project, "HEAD")["variants"] == []


def test_revisions_directories_and_merge_base(project, tmp_path):
    first = project.commit() if project.git("status", "--short") else project.git("rev-parse", "HEAD")
    shutil.copytree(project.root, tmp_path / "copy", ignore=shutil.ignore_patterns(".git"))
    project.git("checkout", "-q", "-b", "topic")
    project.change("recipes/other.yaml", "name: other", "name: another")
    project.commit()
    project.git("checkout", "-q", "main")
    project.change("recipes/base/base.yaml", "max_output_len: 32", "max_output_len: 33")
    project.commit()
    assert len(diff(project, f"{first}..main")["variants"]) == 4
    assert list(by_name(diff(project, "main...topic"))) == ["another", "other"]
    assert len(diff(project, "main..topic")["variants"]) == 5
    apart = diff(project, tmp_path / "copy", project.root)
    assert (len(apart["variants"]), apart["variants"][0]["file"]) == (4, "recipes/other.yaml")


def test_two_recipe_directories_are_compared(project, tmp_path):
    trees = [tmp_path / "one", tmp_path / "two"]
    for tree, length in zip(trees, (96, 90), strict=True):
        shutil.copytree(project.root / "model", tree / "model")
        text = (project.root / "recipes/base/base.yaml").read_text().replace("../../model", "./model")
        (tree / "a.yaml").write_text("name: a\n" + text.replace("96", str(length)))
    (found,) = diff(project, *trees)["variants"]
    (line,) = found["lines"]
    assert (line["file"], line["line"], line["before"], line["after"]) == ("a.yaml", 9, 96, 90)


def test_current_errors_fail_and_earlier_errors_are_reported(project):
    project.change("recipes/other.yaml", "version: 1", "version: 7")
    broken = project.commit()
    said = project.run("ci", "diff", f"HEAD~..{broken}", status=1).err
    assert said.startswith("recipes/other.yaml:1:10: error")
    project.change("recipes/other.yaml", "version: 7", "version: 1")
    found = diff(project, broken)
    assert (found["variants"][0]["state"], list(found["faults"])) == ("new", ["recipes/other.yaml"])
    assert "Could not be planned at" in project.run("ci", "diff", broken).out


@pytest.mark.parametrize("words", [["..HEAD"], ["a", "b"], ["HEAD", "HEAD", "HEAD"]])
def test_invalid_states_are_usage_errors(project, words):
    assert "[MM817]" in project.run("ci", "diff", *words, status=2).err


def test_markdown_is_escaped_in_cells(project):
    project.change("recipes/other.yaml", "name: other", 'name: other\nverify: {prompts: ["a | b ` c"]}')
    row = next(
        line for line in project.run("ci", "diff", "HEAD").out.splitlines() if line.startswith("| `other`")
    )
    assert row.replace("\\|", "").count("|") == 7
