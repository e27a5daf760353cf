"""Plans: verdicts and reasons, and that what a plan names is what apply runs."""

import os
import shutil

import pytest

from mmbuild.base.errors import MmbuildError
from mmbuild.core.graph.action import RecipeGraph
from mmbuild.core.graph.keys import make_action
from support.projects.workspace import Workspace
from support.steps.trivial import action, chain


@pytest.fixture
def workspace(tmp_path):
    return Workspace(tmp_path)


def diamond(text="a", middle="m", recipe="r"):
    """source -> (left, right) -> engine"""
    source = action("write", f"{recipe}/source", text=text)
    left = action("write", f"{recipe}/left", {"x": source}, text="l")
    right = action("write", f"{recipe}/right", {"x": source}, text=middle)
    engine = action("write", f"{recipe}/engine", {"l": left, "r": right}, text="e")
    return RecipeGraph(recipe, (source, left, right, engine), engine.definition_key)


def cutoff(seed):
    """source (same output whatever the seed) -> middle -> engine"""
    source = action("constant", "r/source", seed=seed)
    middle = action("write", "r/middle", {"x": source}, text="m")
    engine = action("write", "r/engine", {"x": middle}, text="e")
    return RecipeGraph("r", (source, middle, engine), engine.definition_key)


def test_a_new_recipe_runs_whole(workspace):
    assert set(workspace.verdicts(diamond()).values()) == {"run"}
    assert set(workspace.reasons(diamond()).values()) == {"never built"}


def test_a_built_recipe_is_up_to_date(workspace):
    workspace.apply(diamond())
    assert set(workspace.verdicts(diamond()).values()) == {"up to date"}
    assert not workspace.plan(diamond()).changes


def test_a_changed_parameter_is_named_with_both_values(workspace):
    workspace.apply(diamond())
    assert workspace.reasons(diamond(middle="n"))["r/right"] == "parameter `text` changed from m to n"


def test_what_the_change_does_not_reach_is_up_to_date(workspace):
    workspace.apply(diamond())
    verdicts = workspace.verdicts(diamond(middle="n"))
    assert verdicts["r/source"] == verdicts["r/left"] == "up to date"
    assert verdicts["r/right"] == "run"
    assert verdicts["r/engine"] == "may change"


def test_below_a_running_action_the_reason_names_it(workspace):
    workspace.apply(diamond())
    assert "`r/right`" in workspace.reasons(diamond(middle="n"))["r/engine"]


@pytest.mark.parametrize("change", [{"text": "b"}, {"middle": "n"}])
def test_the_plan_names_exactly_what_then_runs(workspace, change):
    workspace.apply(diamond())
    verdicts = workspace.verdicts(diamond(**change))
    ran = workspace.apply(diamond(**change)).ran
    assert {label for label, verdict in verdicts.items() if verdict in ("run", "may change")} == set(ran)


def test_an_input_that_comes_out_the_same_cuts_the_rebuild_off(workspace):
    workspace.apply(cutoff(1))
    assert workspace.verdicts(cutoff(2)) == {
        "r/source": "run",
        "r/middle": "may change",
        "r/engine": "may change",
    }
    result = workspace.apply(cutoff(2))
    assert result.ran == ("r/source",)
    assert set(result.reused) == {"r/middle", "r/engine"}
    assert set(workspace.verdicts(cutoff(2)).values()) == {"up to date"}


def test_a_missing_engine_directory_is_restored_without_running(workspace):
    workspace.apply(chain("r"))
    shutil.rmtree(workspace.build / "r")
    assert workspace.verdicts(chain("r")) == {"r/0": "up to date", "r/1": "up to date", "r/2": "restore"}
    result = workspace.apply(chain("r"))
    assert result.ran == ()
    assert workspace.text("r") == "a2+a1+a"


@pytest.mark.parametrize("harm", ["remove", "alter"])
def test_a_changed_engine_directory_is_restored(workspace, harm):
    workspace.apply(chain("r"))
    path = workspace.build / "r" / "text"
    path.unlink()
    if harm == "alter":
        path.write_text("other")
    assert workspace.verdicts(chain("r"))["r/2"] == "restore"
    assert "was changed" in workspace.reasons(chain("r"))["r/2"]
    workspace.apply(chain("r"))
    assert workspace.text("r") == "a2+a1+a"


def test_going_back_to_an_earlier_recipe_only_restores(workspace):
    workspace.apply(chain("r", "a"))
    workspace.apply(chain("r", "b"))
    assert workspace.verdicts(chain("r", "a"))["r/2"] == "restore"
    assert workspace.apply(chain("r", "a")).ran == ()
    assert workspace.text("r") == "a2+a1+a"


def evict(workspace, label):
    digest = workspace.digest(label)
    workspace.store.manifest(digest).unlink()
    shutil.rmtree(workspace.store.tree(digest))


def test_an_evicted_output_that_nothing_needs_stays_up_to_date(workspace):
    workspace.apply(chain("r"))
    evict(workspace, "r/0")
    evict(workspace, "r/1")
    assert set(workspace.verdicts(chain("r")).values()) == {"up to date"}


def test_an_evicted_output_that_is_needed_runs_again(workspace):
    workspace.apply(chain("r"))
    evict(workspace, "r/0")
    evict(workspace, "r/1")
    changed = chain("r")
    last = action("write", "r/2", {"text": changed.actions[1]}, text="z")
    graph = RecipeGraph("r", (*changed.actions[:2], last), last.definition_key)
    assert workspace.verdicts(graph) == {"r/0": "run", "r/1": "run", "r/2": "run"}
    assert "no longer in the store" in workspace.reasons(graph)["r/0"]
    assert workspace.apply(graph).ok
    assert workspace.text("r") == "z+a1+a"


def test_shared_actions_are_planned_and_run_once(workspace):
    graphs = [chain(f"r{i}", text=str(i), shared="common") for i in range(4)]
    plan = workspace.plan(*graphs)
    (shared,) = [p for p in plan.actions if p.action.label == "common"]
    assert shared.recipes == ("r0", "r1", "r2", "r3")
    result = workspace.apply(*graphs)
    assert result.ran.count("common") == 1
    assert len(result.ran) == 1 + 4 * 2


def test_two_recipes_of_one_name_are_refused(workspace):
    with pytest.raises(MmbuildError, match="two recipes are named `r`") as caught:
        workspace.plan(chain("r", "a"), chain("r", "b"))
    assert caught.value.code == "MM204"


def test_an_input_without_producer_is_refused(workspace):
    lost = make_action(label="r/x", step="write", version="1", params={}, inputs={"y": "0" * 64})
    with pytest.raises(MmbuildError, match="no action before `r/x`"):
        workspace.plan(RecipeGraph("r", (lost,), lost.definition_key))


def test_the_plan_hash_follows_the_request_not_the_state_of_the_store(workspace):
    before = workspace.plan(diamond()).hash
    workspace.apply(diamond())
    assert workspace.plan(diamond()).hash == before
    assert workspace.plan(diamond(middle="n")).hash != before


def test_a_check_next_to_the_engine_gets_its_own_path(workspace):
    graph = chain("r", links=2)
    check = action("write", "r/check", {"engine": graph.actions[-1]}, text="checked")
    graph = RecipeGraph("r", (*graph.actions, check), graph.engine)
    workspace.apply(graph)
    assert (workspace.build / "r" / "text").read_text() == "a1+a"
    assert (workspace.build / "r" / "write" / "text").read_text() == "checked+a1+a"


def test_planning_reads_no_artifact(workspace):
    """Every object may be unreadable: the plan is made from the journal and from stat alone."""
    workspace.apply(chain("r"))
    for path in workspace.store.objects.glob("*/*"):
        os.unlink(path)
    assert set(workspace.verdicts(chain("r")).values()) == {"up to date"}
