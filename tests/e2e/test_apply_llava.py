"""From the demo recipe to answers, with the real steps, through the command line."""

import json
import re

import pytest

from support.engines.first_apply import NAME, RECIPE, Tool, first_apply
from support.engines.loaded import DEMO, drawn

pytestmark = pytest.mark.slow

STEPS = {
    "download",
    "convert",
    "quantize",
    "build_llm",
    "build_visual",
    "convert_visual",
    "assemble",
    "measure",
    "verify",
}
REBUILT = {"quantize", "build_llm", "assemble", "measure", "verify"}


@pytest.fixture(scope="module")
def tool(tmp_path_factory):
    return Tool(first_apply(tmp_path_factory))


@pytest.fixture(scope="module")
def int4(tool):
    """The recipe as it is, applied: what was planned, what ran, the manifest, the verify report."""
    reported = json.loads((tool.root / "told.json").read_text())
    report = json.loads((tool.engine / "verify" / "report.json").read_text())
    return {**reported, "manifest": tool.manifest(), "report": report}


@pytest.fixture(scope="module")
def answers(tool, int4, tmp_path_factory):
    """Questions about two new pictures: (right answer, answer)."""
    assert int4["ran"]
    directory = tmp_path_factory.mktemp("pictures")
    requested, arguments = [], []
    for number, (picture, questions) in enumerate(drawn(4711, 2, held_out=True)):
        path = directory / f"{number}.png"
        picture.save(path)
        for question in (questions[0], questions[-1]):
            requested.append(question.answer)
            arguments += ["--image", path, "--prompt", question.text]
    return list(zip(requested, tool.run("run", tool.engine, *arguments).stdout.splitlines(), strict=True))


def test_a_first_apply_runs_every_action_once(int4):
    assert set(int4["planned"]) == STEPS
    assert int4["planned"]["download"] == "run"
    assert set(int4["planned"].values()) <= {"run", "may change"}
    assert sorted(int4["ran"]) == sorted(STEPS)


def test_the_engine_answers_about_pictures_it_has_never_seen(answers):
    assert all(answer == right for right, answer in answers), answers


def test_the_manifest_names_every_action_its_artifact_and_its_time(int4):
    assert set(int4["manifest"]) == STEPS
    for step, action in int4["manifest"].items():
        assert len(action["artifact"]) == 64
        assert action["seconds"] == pytest.approx(int4["seconds"][step], abs=1e-3)
    assert int4["manifest"]["build_llm"]["seconds"] > 0.5, (
        "tracing takes its time, where nothing is compiled too"
    )


def test_verify_compared_the_recipe_s_questions_about_its_pictures(int4):
    summary = int4["report"]["summary"]
    assert summary["quant_algo"] == "W4A16"
    assert summary["questions"] == 9
    assert summary["equal_tokens"] == summary["tokens"]
    assert summary["answer_agreement"] == 1.0


def test_the_verb_verify_finds_model_and_questions_by_the_manifest(tool, int4):
    reported = tool.run("verify", tool.engine, "--store", tool.root / "store", "--json")
    report = json.loads(reported.stdout)
    assert json.loads((tool.engine / "report.json").read_text()) == report
    for name in ("image", "prompt", "answers", "engine_tokens", "reference_tokens"):
        of_step = [entry[name] for entry in int4["report"]["questions"]]
        assert [entry[name] for entry in report["questions"]] == of_step


def test_a_second_apply_runs_nothing(tool, int4):
    assert int4["ran"]
    assert set(tool.plan(RECIPE).values()) == {"up to date"}
    assert tool.apply(RECIPE) == []


def test_the_report_has_a_page_with_the_recipe_s_pictures(int4, tool):
    assert [gate["passed"] for gate in int4["report"]["gates"]] == [True, True]
    page = (tool.engine / "verify" / "report.html").read_text()
    assert page.count("data:image/png;base64,") == 3


def test_an_engine_that_fails_a_gate_is_kept_aside_and_other_gates_only_judge(int4, tool):
    assert int4["ran"]
    there = Tool(tool.root, "elsewhere")
    strict = ["--set", "gates.max_kl=0"]
    reported = there.run("apply", RECIPE, *strict, *there.places, status=1).stderr
    assert "[MM590]" in reported
    assert re.search(
        r"max_kl: mean KL over the answers \S+ nats, at most 0, \S+ too much \(9 questions, ", reported
    )
    aside = there.engine.with_name(f"{NAME}.refused")
    assert f"the refused engine: {aside}" in reported
    assert "failed" in (aside / "verify" / "report.html").read_text()
    assert not there.engine.exists()
    # The rejected engine can be verified again and compared.
    again = there.run("verify", aside, "--store", tool.root / "store", status=1)
    assert "gate FAILED: max_kl" in again.stdout
    assert re.search(r"^gates passed +1 of 2", there.run("compare", aside).stdout, flags=re.M)
    assert there.apply(RECIPE, "--set", "gates.max_kl=0.5") == ["verify"]
    assert there.engine.is_dir()
    assert not aside.exists()


@pytest.fixture(scope="module")
def int8(tool, int4, answers):
    """The same recipe with int8 instead, after everything was built with int4."""
    assert int4["ran"]
    assert answers
    override = ["--set", "engine.quantization=int8"]
    planned = tool.plan(RECIPE, *override)
    return {"planned": planned, "ran": tool.apply(RECIPE, *override), "manifest": tool.manifest()}


def test_another_quantization_rebuilds_what_depends_on_it_and_nothing_else(int4, int8):
    assert set(int8["ran"]) == REBUILT
    assert len(int8["ran"]) == len(REBUILT)
    for step in STEPS - REBUILT:
        assert int8["manifest"][step]["artifact"] == int4["manifest"][step]["artifact"]
        assert int8["manifest"][step]["built_at"] == int4["manifest"][step]["built_at"]
    for step in REBUILT:
        assert int8["manifest"][step]["artifact"] != int4["manifest"][step]["artifact"]


def test_the_plan_named_exactly_the_actions_that_then_ran(int8):
    named = {step for step, verdict in int8["planned"].items() if verdict in ("run", "may change")}
    assert named == set(int8["ran"])
    assert {step for step, verdict in int8["planned"].items() if verdict == "up to date"} == STEPS - REBUILT


def test_going_back_restores_and_runs_nothing(tool, int4, int8):
    assert int8["ran"]
    planned = tool.plan(RECIPE)
    assert "run" not in planned.values()
    assert tool.apply(RECIPE) == []
    assert tool.manifest()["assemble"]["artifact"] == int4["manifest"]["assemble"]["artifact"]


def test_the_store_is_clean_afterwards(tool, int8):
    assert int8["ran"]
    tool.run("cache", "verify", "--store", tool.root / "store")


def test_the_demo_model_s_weights_are_referenced_and_not_copied(tool, int4):
    tree = tool.root / "store" / "trees" / int4["manifest"]["download"]["artifact"]
    assert (tree / "model.safetensors").resolve() == (DEMO / "model.safetensors").resolve()


def test_a_prompt_without_room_for_text_is_refused_before_anything_is_built(tool, tmp_path):
    override = ["--set", "engine.max_input_len=60", "--store", tmp_path / "store"]
    done = tool.run("apply", RECIPE, *override, status=1)
    assert "max_input_len" in done.stderr
    assert "64" in done.stderr, "the number of visual features"
    assert not list((tmp_path / "store").rglob("*.pt2"))
