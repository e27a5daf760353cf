"""An engine rejected by its final check is kept separately, and the existing engine stays."""

import json

import pytest

from mmbuild.core.graph.action import RecipeGraph
from mmbuild.core.store.gc import collect
from mmbuild.core.store.named_builds import all_roots
from mmbuild.core.store.verify import check_store
from support.projects.workspace import Workspace
from support.steps.trivial import action


@pytest.fixture
def workspace(tmp_path):
    return Workspace(tmp_path)


def judged(text="engine", **params):
    """An engine and the action that checks its measurements."""
    engine = action("write", "r/engine", text=text)
    measures = action("write", "r/measure", {"engine": engine}, text="measured")
    verdict = action("judge", "r/judge", {"measures": measures}, **params)
    return RecipeGraph("r", (engine, measures, verdict), engine.definition_key)


def test_a_rejected_engine_is_kept_with_the_output_of_the_check(workspace):
    (failed,) = workspace.apply(judged()).failed
    aside = workspace.build / "r.refused"
    assert (failed.code, failed.aside) == ("MM998", (str(aside),))
    assert not (workspace.build / "r").exists()
    assert (aside / "text").read_text() == "engine"
    assert (aside / "judge" / "paper").read_text() == "what was found"
    manifest = json.loads((aside / "manifest.json").read_text())
    assert [one["label"] for one in manifest["actions"]] == ["r/engine", "r/measure"]
    (refused,) = manifest["refused"]
    assert (refused["step"], refused["code"], refused["params"]) == ("judge", "MM998", {"name": "r/judge"})


def test_the_engine_that_is_there_is_not_replaced(workspace):
    workspace.apply(judged("good", loose=True))
    assert not workspace.apply(judged("broken")).ok
    assert (workspace.build / "r" / "text").read_text() == "good"
    assert (workspace.build / "r.refused" / "text").read_text() == "broken"


def test_a_rejection_is_not_a_result_and_the_same_apply_rejects_again(workspace):
    workspace.apply(judged())
    again = workspace.apply(judged())
    assert (again.ran, [one.code for one in again.failed]) == ((), ["MM998"])


def test_a_looser_check_rebuilds_nothing_and_removes_the_rejected_engine(workspace):
    workspace.apply(judged())
    (workspace.build / "r.refused" / "report.json").write_text("of mmbuild verify")
    result = workspace.apply(judged(loose=True))
    assert result.ran == ("r/judge",)
    assert (workspace.build / "r" / "judge" / "paper").read_text() == "what was found"
    assert not (workspace.build / "r.refused").exists()
    assert [one.directory for one in all_roots(workspace.store)] == [str(workspace.build / "r")]


def test_an_apply_of_what_is_there_removes_the_engine_that_was_rejected_meanwhile(workspace):
    workspace.apply(judged("good", loose=True))
    assert not workspace.apply(judged("broken")).ok
    assert workspace.apply(judged("good", loose=True)).ran == ()
    assert [path.name for path in workspace.build.iterdir()] == ["r"]


def test_a_rejected_engine_stays_while_its_recipe_is_not_up_to_date(workspace):
    workspace.apply(judged("good", loose=True))
    workspace.apply(judged("broken"))
    assert not workspace.apply(judged("still broken")).ok
    assert (workspace.build / "r.refused" / "text").read_text() == "still broken"


def test_a_report_of_the_engine_that_was_there_does_not_outlive_it(workspace):
    workspace.apply(judged("first", loose=True))
    for name in ("report.json", "report.html", "answers.json"):
        (workspace.build / "r" / name).write_text("refused")
    workspace.apply(judged("second", loose=True))
    added = {path.name for path in (workspace.build / "r").iterdir()} - {"manifest.json", "text", "judge"}
    assert added == {"answers.json"}


def test_a_report_stays_if_the_same_engine_is_installed_again(workspace):
    workspace.apply(judged("first", loose=True))
    (workspace.build / "r" / "report.json").write_text("of mmbuild verify")
    (workspace.build / "r" / "text").unlink()
    assert workspace.apply(judged("first", loose=True)).ok
    assert (workspace.build / "r" / "text").exists()
    assert (workspace.build / "r" / "report.json").read_text() == "of mmbuild verify"


def test_a_file_added_by_a_user_keeps_the_rejected_directory(workspace):
    workspace.apply(judged())
    (workspace.build / "r.refused" / "notes.txt").write_text("mine")
    workspace.apply(judged(loose=True))
    assert (workspace.build / "r.refused" / "notes.txt").read_text() == "mine"


def test_a_foreign_directory_is_left_alone_and_the_failure_is_still_reported(workspace):
    other = workspace.build / "r.refused"
    other.mkdir(parents=True)
    (other / "mine.txt").write_text("mine")
    (failed,) = workspace.apply(judged()).failed
    assert (failed.code, failed.aside) == ("MM998", ())
    assert any("not created by mmbuild" in cause for cause in failed.causes)
    assert [path.name for path in other.iterdir()] == ["mine.txt"]


def test_what_cannot_be_copied_does_not_hide_the_failure(workspace):
    (failed,) = workspace.apply(judged(junk=True)).failed
    assert (failed.code, failed.aside) == ("MM998", ())
    assert "pipe" in " ".join(failed.causes)
    assert list(workspace.build.iterdir()) == []


def test_gc_keeps_a_rejected_engine(workspace):
    workspace.apply(judged())
    collect(workspace.store)
    assert check_store(workspace.store).faults == ()
    assert workspace.apply(judged(loose=True)).ran == ("r/judge",)


def test_an_action_that_others_need_refuses_nothing(workspace):
    broken = action("fail", "r/fail", how="told")
    engine = action("write", "r/engine", {"x": broken}, text="e")
    (failed,) = workspace.apply(RecipeGraph("r", (broken, engine), engine.definition_key)).failed
    assert failed.aside == ()
    assert not list(workspace.build.glob("*"))
