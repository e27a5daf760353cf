"""Plans: verdicts and reasons, and that what a plan names is what apply runs."""

import os
import shutil

import pytest

from mmbuild.base.errors import MmbuildError
from mmbuild.core.graph.action import RecipeGraph
from mmbuild.core.graph.keys import make_action
from support.projects.workshop import Workshop
from support.steps.trivial import action, chain


@pytest.fixture
def shop(tmp_path):
    return Workshop(tmp_path)


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


def test_a_new_recipe_runs_whole(shop):
    assert set(shop.verdicts(diamond()).values()) == {"run"}
    assert set(shop.reasons(diamond()).values()) == {"never built"}


def test_a_built_recipe_is_up_to_date(shop):
    shop.apply(diamond())
    assert set(shop.verdicts(diamond()).values()) == {"up to date"}
    assert not shop.plan(diamond()).changes


def test_a_changed_parameter_is_named_with_both_values(shop):
    shop.apply(diamond())
    assert shop.reasons(diamond(middle="n"))["r/right"] == "parameter `text` changed from m to n"


def test_what_the_change_does_not_reach_is_up_to_date(shop):
    shop.apply(diamond())
    verdicts = shop.verdicts(diamond(middle="n"))
    assert verdicts["r/source"] == verdicts["r/left"] == "up to date"
    assert verdicts["r/right"] == "run"
    assert verdicts["r/engine"] == "unknown until built"


def test_below_a_running_action_the_reason_names_it(shop):
    shop.apply(diamond())
    assert "`r/right`" in shop.reasons(diamond(middle="n"))["r/engine"]


@pytest.mark.parametrize("change", [{"text": "b"}, {"middle": "n"}])
def test_the_plan_names_exactly_what_then_runs(shop, change):
    shop.apply(diamond())
    verdicts = shop.verdicts(diamond(**change))
    ran = shop.apply(diamond(**change)).ran
    assert {label for label, verdict in verdicts.items() if verdict in ("run", "unknown until built")} == set(
        ran
    )


def test_an_input_that_comes_out_the_same_cuts_the_rebuild_off(shop):
    shop.apply(cutoff(1))
    assert shop.verdicts(cutoff(2)) == {
        "r/source": "run",
        "r/middle": "unknown until built",
        "r/engine": "unknown until built",
    }
    result = shop.apply(cutoff(2))
    assert result.ran == ("r/source",)
    assert set(result.reused) == {"r/middle", "r/engine"}
    assert set(shop.verdicts(cutoff(2)).values()) == {"up to date"}


def test_a_missing_engine_directory_is_restored_without_running(shop):
    shop.apply(chain("r"))
    shutil.rmtree(shop.build / "r")
    assert shop.verdicts(chain("r")) == {"r/0": "up to date", "r/1": "up to date", "r/2": "restore"}
    result = shop.apply(chain("r"))
    assert result.ran == ()
    assert shop.text("r") == "a2+a1+a"


@pytest.mark.parametrize("harm", ["remove", "alter"])
def test_an_altered_engine_directory_is_restored(shop, harm):
    shop.apply(chain("r"))
    path = shop.build / "r" / "text"
    path.unlink()
    if harm == "alter":
        path.write_text("other")
    assert shop.verdicts(chain("r"))["r/2"] == "restore"
    assert "altered" in shop.reasons(chain("r"))["r/2"]
    shop.apply(chain("r"))
    assert shop.text("r") == "a2+a1+a"


def test_going_back_to_an_earlier_recipe_only_restores(shop):
    shop.apply(chain("r", "a"))
    shop.apply(chain("r", "b"))
    assert shop.verdicts(chain("r", "a"))["r/2"] == "restore"
    assert shop.apply(chain("r", "a")).ran == ()
    assert shop.text("r") == "a2+a1+a"


def evict(shop, label):
    digest = shop.digest(label)
    shop.store.manifest(digest).unlink()
    shutil.rmtree(shop.store.tree(digest))


def test_an_evicted_output_that_nothing_needs_stays_up_to_date(shop):
    shop.apply(chain("r"))
    evict(shop, "r/0")
    evict(shop, "r/1")
    assert set(shop.verdicts(chain("r")).values()) == {"up to date"}


def test_an_evicted_output_that_is_needed_runs_again(shop):
    shop.apply(chain("r"))
    evict(shop, "r/0")
    evict(shop, "r/1")
    changed = chain("r")
    last = action("write", "r/2", {"text": changed.actions[1]}, text="z")
    graph = RecipeGraph("r", (*changed.actions[:2], last), last.definition_key)
    assert shop.verdicts(graph) == {"r/0": "run", "r/1": "run", "r/2": "run"}
    assert "no longer in the store" in shop.reasons(graph)["r/0"]
    assert shop.apply(graph).ok
    assert shop.text("r") == "z+a1+a"


def test_shared_actions_are_planned_and_run_once(shop):
    graphs = [chain(f"r{i}", text=str(i), shared="common") for i in range(4)]
    plan = shop.plan(*graphs)
    (shared,) = [p for p in plan.actions if p.action.label == "common"]
    assert shared.recipes == ("r0", "r1", "r2", "r3")
    result = shop.apply(*graphs)
    assert result.ran.count("common") == 1
    assert len(result.ran) == 1 + 4 * 2


def test_two_recipes_of_one_name_are_refused(shop):
    with pytest.raises(MmbuildError, match="two recipes are named `r`") as caught:
        shop.plan(chain("r", "a"), chain("r", "b"))
    assert caught.value.code == "MM204"


def test_an_input_without_producer_is_refused(shop):
    lost = make_action(label="r/x", step="write", version="1", params={}, inputs={"y": "0" * 64})
    with pytest.raises(MmbuildError, match="nothing before `r/x`"):
        shop.plan(RecipeGraph("r", (lost,), lost.definition_key))


def test_the_plan_hash_follows_the_request_not_the_state_of_the_store(shop):
    before = shop.plan(diamond()).hash
    shop.apply(diamond())
    assert shop.plan(diamond()).hash == before
    assert shop.plan(diamond(middle="n")).hash != before


def test_a_check_beside_the_engine_gets_a_place_of_its_own(shop):
    graph = chain("r", links=2)
    check = action("write", "r/check", {"engine": graph.actions[-1]}, text="checked")
    graph = RecipeGraph("r", (*graph.actions, check), graph.engine)
    shop.apply(graph)
    assert (shop.build / "r" / "text").read_text() == "a1+a"
    assert (shop.build / "r" / "write" / "text").read_text() == "checked+a1+a"


def test_planning_reads_no_artifact(shop):
    """Every object may be unreadable: the plan is made from the journal and from stat alone."""
    shop.apply(chain("r"))
    for path in shop.store.objects.glob("*/*"):
        os.unlink(path)
    assert set(shop.verdicts(chain("r")).values()) == {"up to date"}
