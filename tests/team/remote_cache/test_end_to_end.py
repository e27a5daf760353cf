"""Two machines with a shared store: one pulls what the other built, and only what it needs."""

import shutil

from mmbuild.core.execution.events import EventKind
from mmbuild.core.graph.action import RecipeGraph
from mmbuild.core.store.hashing import hash_file
from mmbuild.core.store.verify import check_store
from support.steps.trivial import action, chain


def test_what_one_machine_built_another_pulls_and_lays_out(one, other):
    assert len(one.apply(chain("r", links=4)).ran) == 4
    assert other.verdicts(chain("r", links=4)) == {
        "r/0": "up to date",
        "r/1": "up to date",
        "r/2": "up to date",
        "r/3": "pull",
    }
    result = other.apply(chain("r", links=4))
    assert (result.ran, result.ok) == ((), True)
    assert other.text("r") == one.text("r")
    assert other.labels_of(EventKind.PULLED) == ["r/3"]
    assert check_store(other.store).faults == ()
    assert other.notices == []


def test_after_pulling_nothing_is_left_to_do_or_to_request(one, other):
    one.apply(chain("r"))
    other.apply(chain("r"))
    plan = other.plan(chain("r"))
    assert not plan.changes
    assert plan.remote is None


def test_a_change_pulls_the_inputs_of_what_then_runs_and_nothing_else(one, other):
    def graph(last):
        first = action("write", "r/0", text="a")
        second = action("write", "r/1", {"x": first}, text="b")
        engine = action("write", "r/2", {"x": second}, text=last)
        return RecipeGraph("r", (first, second, engine), engine.definition_key)

    one.apply(graph("c"))
    assert other.verdicts(graph("d")) == {"r/0": "up to date", "r/1": "pull", "r/2": "run"}
    assert other.apply(graph("d")).ran == ("r/2",)
    assert other.text("r") == "d+b+a"
    assert not other.store.has(one.digest("r/0"))
    assert one.apply(graph("d")).ran == (), "the other one pushed it"


def test_what_was_collected_here_is_pulled_and_not_built_again(one):
    one.apply(chain("r"))
    shutil.rmtree(one.build)
    for name in ("manifests", "trees", "objects"):
        shutil.rmtree(one.store.root / name)
        (one.store.root / name).mkdir(exist_ok=True)  # opening the store makes them again
    assert one.verdicts(chain("r")) == {"r/0": "up to date", "r/1": "up to date", "r/2": "pull"}
    assert one.apply(chain("r")).ran == ()
    assert one.text("r") == "a2+a1+a"


def test_an_action_whose_inputs_only_become_known_in_the_run_is_fetched_then(one, other):
    def graph(first):
        source = action("constant", "r/0", text=first)
        engine = action("write", "r/1", {"x": source}, text="b")
        return RecipeGraph("r", (source, engine), engine.definition_key)

    one.apply(graph("a"))
    assert other.verdicts(graph("other")) == {"r/0": "run", "r/1": "run"}
    result = other.apply(graph("other"))
    assert (result.ran, result.reused) == (("r/0",), ("r/1",))
    assert other.text("r") == "b+constant"
    assert not other.plan(graph("other")).changes
    assert check_store(other.store).faults == ()


def test_files_of_the_user_stay_where_they_are_and_have_one_name_everywhere(one, other, tmp_path):
    def graph(machine):
        place = machine.root / "model"
        place.parent.mkdir(exist_ok=True)
        place.write_text("weights")
        source = action("refer", "r/0", locators={"file": str(place)}, sources={"file": hash_file(place)})
        middle = action("write", "r/1", {"x": source}, text="b")
        engine = action("write", "r/2", {"x": middle}, text="c")
        changed = action("write", "r/2", {"x": source, "y": middle}, text="d")
        return (
            RecipeGraph("r", (source, middle, engine), engine.definition_key),
            RecipeGraph("r", (source, middle, changed), changed.definition_key),
        )

    one.apply(graph(one)[0])
    engine, changed = graph(other)
    assert other.verdicts(engine) == {"r/0": "up to date", "r/1": "up to date", "r/2": "pull"}
    assert other.verdicts(changed) == {"r/0": "run", "r/1": "pull", "r/2": "run"}
    assert other.apply(changed).ran == ("r/0", "r/2")
    assert other.text("r") == "d+weights+b+weights"
    assert one.digest("r/0") == other.digest("r/0")
    assert not list((tmp_path / "shared").rglob(f"manifests/*/{one.digest('r/0')}.json"))


def test_an_engine_that_refers_to_files_of_the_user_travels_with_their_bytes(one, other):
    place = one.root / "model"
    place.parent.mkdir(exist_ok=True)
    place.write_text("weights")
    source = action("refer", "r/0", locators={"file": str(place)}, sources={"file": hash_file(place)})
    engine = action("copy", "r/1", {"x": source})
    graph = RecipeGraph("r", (source, engine), engine.definition_key)
    one.apply(graph)
    place.unlink()
    assert other.apply(graph).ran == ()
    assert (other.build / "r" / "x" / "text").read_text() == "weights"
    assert check_store(other.store).faults == ()
