"""All that is known about the actions of a plan."""

from __future__ import annotations

from pathlib import Path

from mmbuild.core.graph.action import RecipeGraph
from mmbuild.core.graph.keys import make_action
from mmbuild.core.graph.long_reasons import long_reasons
from mmbuild.core.store.action_cache import load_cache
from support.projects.workspace import Workspace


def graph(**params: object) -> RecipeGraph:
    first = make_action(label="r/first", step="write", version="1", params={"text": "a", **params})
    last = make_action(
        label="r/last", step="write", version="1", params={"text": "b"}, inputs={"from": first.definition_key}
    )
    return RecipeGraph("r", (first, last), last.definition_key)


def reasons(workspace: Workspace, graph: RecipeGraph) -> dict[str, tuple[str, ...]]:
    plan = workspace.plan(graph)
    found = long_reasons(plan, load_cache(plan.store))
    return {planned.action.label: found[planned.action.definition_key] for planned in plan.actions}


def test_of_a_new_plan_inputs_and_keys(tmp_path: Path) -> None:
    new = graph()
    first, last = (action.definition_key for action in new.actions)
    assert reasons(Workspace(tmp_path), new) == {
        "r/first": (f"definition: {first}",),
        "r/last": ("input `from`: r/first", f"definition: {last}"),
    }


def test_every_change_of_an_action_that_runs_and_the_results_of_others(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    before = graph(one=1, two=2)
    workspace.apply(before)
    (first,) = (line for line in reasons(workspace, before)["r/first"] if line.startswith("artifact"))
    assert first == f"artifact: {workspace.digest('r/first')}"
    found = reasons(workspace, graph(one=3, two=4))
    changed = [line for line in found["r/first"] if "changed" in line]
    assert changed == ["parameter `one` changed from 1 to 3", "parameter `two` changed from 2 to 4"]
    assert not [line for line in found["r/first"] if line.startswith("artifact")]
    assert "input `from` changed" in found["r/last"]
