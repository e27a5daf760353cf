"""`mmbuild why`: from an action back to the line, file or version that changed."""

import json
import shutil

import pytest

from mmbuild.api import apply, plan_graphs
from mmbuild.cli.why_traces import trace_variants
from mmbuild.core.execution import run_plan
from mmbuild.core.store.layout import open_store
from mmbuild.inspect.diff.blame import causes
from mmbuild.inspect.diff.reports import overview
from mmbuild.pipeline.options import PlanOptions
from mmbuild.pipeline.planning import prepare
from support.projects import warm_workers
from support.projects.demo_project import NAME, RECIPE, Project


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project whose demo recipe is built, as the current directory."""
    project = Project(tmp_path)
    monkeypatch.chdir(project.root)
    monkeypatch.setattr(run_plan, "start_workers", warm_workers.starter(warm_workers.address()))
    for name in ("MMBUILD_STORE", "MMBUILD_STEPS"):
        monkeypatch.setenv(name, project.environment[name])
    build(project)
    return project


def build(project):
    store = open_store(None)
    graphs = prepare(PlanOptions((project.root / RECIPE,), offline=True), store).graphs
    apply(plan_graphs(graphs, store, project.root / "build"))


def write(project, name, *pairs):
    path = project.root / "recipes/demo" / name
    text = path.read_text()
    for old, new in pairs:
        assert old in text
        text = text.replace(old, new)
    path.write_text(text)
    return text


def why(project, *overrides):
    (found,) = trace_variants(
        PlanOptions((project.root / RECIPE,), overrides, offline=True), build_dir=project.root / "build"
    )
    return found


def blamed(found):
    """(step, path) -> [(file, line, key, old)] of everything that changed by itself."""
    return {
        (one.label.rpartition("/")[2], change.path): [
            (edit.span.source.label.rpartition("/")[2], edit.span.line, edit.key, edit.old)
            for edit in causes(one, change, found.edits)
        ]
        for one in found.trace.actions
        for change in one.own
    }


def line_of(text, part):
    return next(number for number, line in enumerate(text.splitlines(), 1) if part in line)


def test_line_and_its_derived_values_are_found(project):
    text = write(project, "llava.yaml", ("max_batch_size: 4", "max_batch_size: 3"))
    found = why(project)
    line = ("llava.yaml", line_of(text, "max_batch_size"), "engine.max_batch_size", 4)
    assert blamed(found) == {
        ("build_llm", "max_batch_size"): [line],
        ("build_llm", "max_multimodal_len"): [line],
        ("build_visual", "max_batch_size"): [line],
    }
    assert found.trace.led_to(f"{NAME}/build_llm") == [
        f"{NAME}/{step}" for step in ("assemble", "measure", "verify")
    ]


def test_each_of_several_lines_gets_its_own_changes(project):
    write(project, "llava.yaml", ("max_batch_size: 4", "max_batch_size: 5"))
    write(project, "llava-int4.yaml", ("quantization: int4", "quantization: int8\n  max_output_len: 20"))
    keys = {path: {item[2] for item in lines} for path, lines in blamed(why(project)).items()}
    assert keys["quantize", "algorithm"] == {"engine.quantization.algorithm"}
    assert keys["build_llm", "quant_algo"] == {"engine.quantization.algorithm"}
    assert keys["build_llm", "max_output_len"] == {"engine.max_output_len"}
    assert keys["build_llm", "max_multimodal_len"] == {"engine.max_batch_size"}
    assert keys["measure", "max_new_tokens"] == {"engine.max_output_len"}


def test_set_override_is_a_location(project):
    (lines,) = {tuple(lines) for lines in blamed(why(project, "engine.max_beam_width=2")).values()}
    assert [(file, key) for file, _, key, _ in lines] == [
        ("--set engine.max_beam_width=2", "engine.max_beam_width")
    ]


def test_removed_line_is_reported_at_its_parent(project):
    write(project, "llava-int4.yaml", ("engine:\n  quantization: int4\n", ""))
    found = why(project)
    text = "\n".join(overview(found.trace, found.edits))
    assert "`engine.quantization.algorithm: int4` was removed" in text
    assert f"{NAME}/build_llm (run)" in text


def test_a_changed_file_is_named(project):
    verify = why(project).planned[why(project).build.actions[f"{NAME}/measure"]].action
    image = verify.locators["image0"]
    with open(image, "ab") as stream:
        stream.write(b" ")
    found = why(project)
    assert blamed(found) == {("measure", "image0"): []}
    assert f"the file is {image}" in "\n".join(overview(found.trace, found.edits))


def test_edits_that_are_only_valid_together_are_reported_as_possible_causes(project):
    write(project, "llava-int4.yaml", ("quantization: int4", "max_batch_size: 8\n  max_multimodal_len: 512"))
    write(project, "llava.yaml", ("max_batch_size: 4", "max_batch_size: 4\n  max_multimodal_len: 256"))
    found = why(project)
    assert {edit.key: edit.reaches for edit in found.edits}["engine.max_batch_size"] is None
    assert "possibly engine.max_batch_size" in "\n".join(overview(found.trace, found.edits))


def test_after_a_build_the_last_build_is_explained(project):
    before = why(project)
    assert before.trace.past
    assert "built for the first time" in "\n".join(overview(before.trace, before.edits))
    write(project, "llava.yaml", ("max_batch_size: 4", "max_batch_size: 2"))
    expected = blamed(why(project))
    build(project)
    after = why(project)
    assert after.trace.past
    assert blamed(after) == expected
    reported = list(overview(after.trace, after.edits))
    assert "nothing to do; changes of the last build (" in reported[0]
    assert any("(up to date)" in line for line in reported)
    # Laid out again, it still knows.
    shutil.rmtree(project.root / "build" / NAME)
    build(project)
    assert blamed(why(project)) == expected


@pytest.mark.slow
def test_command_prints_the_chain_the_key_and_json(project):
    changed = ("--set", "engine.max_batch_size=6")
    chain = project.run("why", RECIPE, "verify", *changed).stdout
    assert chain.splitlines()[0] == f"{NAME}/verify (may change)"
    assert chain.index("input `measures`") < chain.index("input `engine`") < chain.index("input `llm`")
    assert "--set engine.max_batch_size=6:1:23: `engine.max_batch_size: 6` was" in chain
    (reported,) = json.loads(project.run("why", RECIPE, "build_llm", *changed, "--json", "--key").stdout)
    (action,) = reported["actions"]
    paths = {change["path"]: change for change in action["changes"]}
    assert paths["max_batch_size"]["new"] == 6
    assert paths["max_multimodal_len"]["because"][0]["key"] == "engine.max_batch_size"
    key = project.run("why", RECIPE, f"{NAME}/build_llm", *changed, "--key").stdout
    assert f"definition key  {reported['key']['definition']}" in key
    assert "params        llm.hidden_size = " in key
    assert "has no step `build_lm` [MM850]" in (
        said := project.run("why", RECIPE, "build_lm", status=2).stderr
    )
    assert "did you mean `build_llm`?" in said


def test_recipe_that_was_never_built(project):
    reported = project.run("why", "recipes/demo/vila.yaml").stdout
    assert "never built here" in reported
    assert "never built before" in reported
