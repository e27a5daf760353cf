"""An engine that its last action refuses is kept aside, and the one that is there stays."""

import json

import pytest

from mmbuild.core.graph.action import RecipeGraph
from mmbuild.core.store.gc import collect
from mmbuild.core.store.roots import all_roots
from mmbuild.core.store.verify import check_store
from support.projects.workshop import Workshop
from support.steps.trivial import action


@pytest.fixture
def shop(tmp_path):
    return Workshop(tmp_path)


def judged(text="engine", **params):
    """An engine and the action that judges what was measured of it."""
    engine = action("write", "r/engine", text=text)
    measures = action("write", "r/measure", {"engine": engine}, text="measured")
    verdict = action("judge", "r/judge", {"measures": measures}, **params)
    return RecipeGraph("r", (engine, measures, verdict), engine.definition_key)


def test_a_refused_engine_lies_beside_with_what_the_judge_wrote(shop):
    (failed,) = shop.apply(judged()).failed
    aside = shop.build / "r.refused"
    assert (failed.code, failed.aside) == ("MM998", (str(aside),))
    assert not (shop.build / "r").exists()
    assert (aside / "text").read_text() == "engine"
    assert (aside / "judge" / "paper").read_text() == "what was found"
    manifest = json.loads((aside / "manifest.json").read_text())
    assert [one["label"] for one in manifest["actions"]] == ["r/engine", "r/measure"]
    (refused,) = manifest["refused"]
    assert (refused["step"], refused["code"], refused["params"]) == ("judge", "MM998", {"name": "r/judge"})


def test_the_engine_that_is_there_is_not_replaced(shop):
    shop.apply(judged("good", loose=True))
    assert not shop.apply(judged("broken")).ok
    assert (shop.build / "r" / "text").read_text() == "good"
    assert (shop.build / "r.refused" / "text").read_text() == "broken"


def test_a_refusal_is_no_result_and_the_same_apply_refuses_again(shop):
    shop.apply(judged())
    again = shop.apply(judged())
    assert (again.ran, [one.code for one in again.failed]) == ((), ["MM998"])


def test_a_looser_judge_builds_nothing_again_and_clears_what_was_put_aside(shop):
    shop.apply(judged())
    (shop.build / "r.refused" / "report.json").write_text("of mmbuild verify")
    result = shop.apply(judged(loose=True))
    assert result.ran == ("r/judge",)
    assert (shop.build / "r" / "judge" / "paper").read_text() == "what was found"
    assert not (shop.build / "r.refused").exists()
    assert [one.directory for one in all_roots(shop.store)] == [str(shop.build / "r")]


def test_a_file_that_somebody_put_aside_too_keeps_the_directory(shop):
    shop.apply(judged())
    (shop.build / "r.refused" / "notes.txt").write_text("mine")
    shop.apply(judged(loose=True))
    assert (shop.build / "r.refused" / "notes.txt").read_text() == "mine"


def test_a_directory_that_is_not_ours_is_left_and_the_failure_still_told(shop):
    other = shop.build / "r.refused"
    other.mkdir(parents=True)
    (other / "mine.txt").write_text("mine")
    (failed,) = shop.apply(judged()).failed
    assert (failed.code, failed.aside) == ("MM998", ())
    assert any("not made by mmbuild" in cause for cause in failed.causes)
    assert [path.name for path in other.iterdir()] == ["mine.txt"]


def test_what_cannot_be_copied_does_not_hide_the_failure(shop):
    (failed,) = shop.apply(judged(junk=True)).failed
    assert (failed.code, failed.aside) == ("MM998", ())
    assert "pipe" in " ".join(failed.causes)
    assert list(shop.build.iterdir()) == []


def test_gc_keeps_what_was_put_aside(shop):
    shop.apply(judged())
    collect(shop.store)
    assert check_store(shop.store).faults == ()
    assert shop.apply(judged(loose=True)).ran == ("r/judge",)


def test_an_action_that_others_need_refuses_nothing(shop):
    broken = action("fail", "r/fail", how="told")
    engine = action("write", "r/engine", {"x": broken}, text="e")
    (failed,) = shop.apply(RecipeGraph("r", (broken, engine), engine.definition_key)).failed
    assert failed.aside == ()
    assert not list(shop.build.glob("*"))
