"""Actions without an engine directory, as in a shared job: built, published and pulled, but never installed."""

from __future__ import annotations

import pytest

from mmbuild.core.execution.events import EventKind
from mmbuild.core.graph.action import RecipeGraph
from mmbuild.core.graph.keys import make_action
from mmbuild.core.graph.plan import Verdict, graphs_of
from mmbuild.team.ci.jobs import closure
from support.projects.machines import Machine


def write(text, **inputs):
    return make_action(label=f"m/{text}", step="write", version="1", params={"text": text}, inputs=inputs)


SOURCE = write("source")
VISUAL = write("visual", model=SOURCE.definition_key)
CONVERT = write("convert", model=SOURCE.definition_key)
ENGINE = write("engine", visual=VISUAL.definition_key, checkpoint=CONVERT.definition_key)
ALL = {action.definition_key: action for action in (SOURCE, VISUAL, CONVERT, ENGINE)}


def loose(*required):
    return RecipeGraph("shared-m", closure(ALL, [action.definition_key for action in required]), "")


@pytest.fixture
def machines(tmp_path):
    (tmp_path / "shared").mkdir()
    return [Machine(tmp_path / name, url=f"file://{tmp_path}/shared") for name in ("one", "two", "three")]


def test_jobs_on_machines_of_their_own_take_what_others_made(machines):
    one, two, three = machines
    assert one.apply(loose(SOURCE)).ran == ("m/source",)
    assert sorted(two.apply(loose(VISUAL, CONVERT)).ran) == ["m/convert", "m/visual"]
    assert two.labels_of(EventKind.PULLED) == ["m/source"]
    assert three.apply(RecipeGraph("m", tuple(ALL.values()), ENGINE.definition_key)).ran == ("m/engine",)
    assert three.bytes("m") == b"engine+convert+source+visual+source"
    assert [list(machine.build.glob("*")) for machine in (one, two)] == [[], []]


def test_a_job_that_others_have_done_pulls_and_runs_nothing(machines):
    one, two, _ = machines
    one.apply(loose(VISUAL, CONVERT))
    result = two.apply(loose(VISUAL, CONVERT))
    assert (result.ran, result.failed, two.labels_of(EventKind.PULLED)) == ((), (), [])


def test_what_could_not_be_pulled_is_made_again(machines, tmp_path):
    """The new plan still has the actions that belong to no engine."""
    one, two, _ = machines
    one.apply(loose(SOURCE))
    for path in (tmp_path / "shared" / "v1" / "objects").rglob("*"):
        if path.is_file():
            path.write_bytes(b"damaged")
    assert two.apply(loose(VISUAL)).ran == ("m/source", "m/visual")
    assert "MM822" in two.codes()


def test_plans_give_back_what_they_were_made_from(machines):
    one = machines[0]
    whole = RecipeGraph("m", tuple(ALL.values()), ENGINE.definition_key)
    for graphs in (
        [whole],
        [loose(VISUAL)],
        [loose(VISUAL), RecipeGraph("n", (SOURCE,), SOURCE.definition_key)],
    ):
        plan = one.plan(*graphs)
        again = one.plan(*graphs_of(plan))
        assert again.hash == plan.hash
        assert {item.action.definition_key: item.action for item in again.actions} == {
            item.action.definition_key: item.action for item in plan.actions
        }
        assert [build.recipe for build in again.builds] == [build.recipe for build in plan.builds]
        assert {item.verdict for item in plan.actions} == {Verdict.RUN}
