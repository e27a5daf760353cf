"""Actions on the nodes of a real cluster: three raylets on this machine, one with its own store."""

import os
import secrets
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import pytest

from mmbuild.base.errors import MmbuildError
from mmbuild.core.execution.events import EventKind
from mmbuild.core.execution.options import Options
from mmbuild.core.execution.resources import Capacity
from mmbuild.core.execution.run_plan import run_plan
from mmbuild.core.graph.action import RecipeGraph, Resources
from mmbuild.core.graph.keys import make_action
from mmbuild.core.store.action_cache import load_cache
from mmbuild.core.store.layout import Store
from mmbuild.core.store.locks import exclusive_lock
from mmbuild.core.store.verify import check_store
from mmbuild.team.ray import task_runner
from mmbuild.team.ray.executor import carrier_to, on_cluster
from mmbuild.team.ray.node_selection import ClusterNode
from mmbuild.team.ray.protocol import NodeInfo
from support import TESTS
from support.projects.demo_project import RECIPE, Project
from support.projects.workspace import Workspace
from support.steps import apply_on_ray
from support.steps.trivial import TABLE, action
from support.waiting import gone, wait_for

pytest.importorskip("ray")
from support.projects.cluster import raylets

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def cluster():
    with raylets() as found:
        yield found


@pytest.fixture(autouse=True)
def steps_of_the_tests(monkeypatch):
    monkeypatch.setenv("MMBUILD_STEPS", "support.steps.trivial:TABLE")


@pytest.fixture
def workspace(cluster, tmp_path):
    return cluster.workspace(tmp_path / "driver")


@pytest.fixture
def carrying(cluster, tmp_path):
    """A workspace with a shared store, so that the node with its own store is used too."""
    (tmp_path / "shared").mkdir()
    return cluster.workspace(tmp_path / "driver", f"file://{tmp_path / 'shared'}")


def on_gpu(sm, step, label, inputs=None, **params):
    """An action of a trivial step for a GPU of that SM."""
    plain = action(step, label, inputs, **params)
    return make_action(
        label=label,
        step=step,
        version=plain.version,
        params=plain.params,
        inputs=plain.inputs,
        locators=plain.locators,
        target={"device": "cuda", "sm": sm, "isa": None},
        resources=Resources(gpus=1),
    )


class Held:
    """An action that waits until it is released, and the ids of the processes that it started."""

    def __init__(self, directory, sm, label="r/held"):
        place = directory / label
        place.mkdir(parents=True)
        self.pipe, self.file = place / "pipe", place / "started"
        os.mkfifo(self.pipe)
        self.graph = recipe(on_gpu(sm, "held", label, file=str(self.file), pipe=str(self.pipe)))

    def processes(self):
        """Those that it has started so far."""
        return [int(process) for process in self.file.read_text().split()] if self.file.exists() else []

    def started(self, count):
        """Processes, once there are ``count``."""
        return wait_for(lambda: len(found := self.processes()) >= count and found)

    def release(self):
        self.pipe.write_text("released")


@contextmanager
def when_begun(act, *held):
    """Call ``act`` once one of these actions has begun, while the block runs; raise what it raises.

    A block that fails before ends the wait.
    """
    over = threading.Event()

    def wait_and_act():
        if wait_for(lambda: over.is_set() or any(one.processes() for one in held)) and not over.is_set():
            act()

    with ThreadPoolExecutor(1) as pool:
        acted = pool.submit(wait_and_act)
        try:
            yield
        finally:
            over.set()
        acted.result()


def recipe(*actions):
    return RecipeGraph("r", actions, actions[-1].definition_key)


def wide():
    """Six actions in two ranks and one that joins them."""
    first = [action("write", f"r/first{i}", text=f"a{i}") for i in range(3)]
    second = [action("copy", f"r/second{i}", {"a": first[i], "b": first[i - 1]}) for i in range(3)]
    return recipe(
        *first, *second, action("write", "r/last", dict(zip("abc", second, strict=True)), text="end")
    )


def records(workspace):
    return {key: record.digest for key, record in load_cache(workspace.store).by_key.items()}


def test_results_keys_and_artifacts_are_those_of_one_machine_and_then_all_is_up_to_date(workspace, tmp_path):
    local = Workspace(tmp_path / "local")
    local.apply(wide())
    result = workspace.apply(wide())
    assert result.ok
    assert len(result.ran) == 7
    assert records(workspace) == records(local)
    assert workspace.text("r") == local.text("r")
    assert set(workspace.verdicts(wide()).values()) == {"up to date"}
    assert workspace.warnings() == ["MM849"]  # the node that does not see the store
    assert list(workspace.store.staging.iterdir()) == []
    assert check_store(workspace.store).faults == ()


def test_a_gpu_action_runs_where_its_sm_is_and_sees_the_gpu_that_ray_chose(workspace):
    assert workspace.apply(recipe(on_gpu(77, "environment", "r/seen"))).ok
    seen = dict(
        line.split("=", 1) for line in (workspace.build / "r" / "environment").read_text().splitlines()
    )
    assert seen["CUDA_VISIBLE_DEVICES"] == "0"
    assert seen["OMP_NUM_THREADS"] == "1"


def test_an_action_no_node_can_run_is_refused_with_what_each_node_is_missing(workspace):
    begin = time.monotonic()
    with pytest.raises(MmbuildError, match=r"r/big.*no resource `sm90`") as refused:
        workspace.apply(recipe(on_gpu(90, "write", "r/big", text="x")))
    assert refused.value.code == "MM843"
    assert '{"sm90": 1}' in refused.value.hint
    assert time.monotonic() - begin < 30
    with pytest.raises(MmbuildError, match="0 GPUs of 2") as refused:
        workspace.apply(recipe(action("write", "r/many", text="x", resources=Resources(gpus=2))))
    with pytest.raises(MmbuildError, match="GB of memory of 9000000") as refused:
        workspace.apply(recipe(action("write", "r/large", text="x", resources=Resources(memory=9 * 10**15))))
    assert load_cache(workspace.store).by_key == {}


@pytest.mark.parametrize("how", ["told", "bug", "killed", "exit"])
@pytest.mark.parametrize("sm", [77, 55])
def test_a_failure_on_any_node_is_reported_as_on_one_machine(carrying, tmp_path, how, sm):
    def graph(make):
        first = action("write", "r/first", text="x")
        return recipe(first, make("fail", "r/bad", {"x": first}, how=how))

    local = Workspace(tmp_path / "local")
    (here,) = local.apply(graph(action)).failed
    (there,) = carrying.apply(graph(lambda *args, **params: on_gpu(sm, *args, **params))).failed
    assert (there.message, there.code, there.hint, there.causes, there.tail) == (
        here.message,
        here.code,
        here.hint,
        here.causes,
        here.tail,
    )
    assert carrying.log("r/bad").startswith("about to fail\n")
    assert "MM845" not in carrying.warnings()  # it ran once
    assert len(carrying.placed("r/bad")) == 1


@pytest.mark.parametrize("sm", [77, 55])
def test_an_engine_that_its_last_action_refuses_is_kept_aside_with_its_report(carrying, sm):
    engine = action("write", "r/engine", text="x")
    judge = on_gpu(sm, "judge", "r/judge", {"engine": engine})
    actions = (engine, judge)
    graph = RecipeGraph("r", actions, engine.definition_key)
    result = carrying.apply(graph)
    assert [failed.code for failed in result.failed] == ["MM998"]
    assert [Path(path).name for path in result.failed[0].aside] == ["r.refused"]
    found = {path.name for path in (carrying.build / "r.refused").rglob("*")}
    assert {"text", "paper"} <= found


def test_a_node_with_its_own_store_exchanges_artifacts_through_the_shared_store(cluster, carrying, tmp_path):
    def graph(make):
        first = action("write", "r/first", text="before")
        there = make("copy", "r/there", {"x": first})
        return recipe(first, there, action("write", "r/last", {"x": there}, text="after"))

    mine = graph(lambda *args, **params: on_gpu(55, *args, **params))
    local = Workspace(tmp_path / "local")
    local.apply(mine, capacity=Capacity(2, 1 << 50, ("GPU-of-this-test",), 2))
    assert carrying.apply(mine).ok
    assert records(carrying) == records(local)
    assert carrying.text("r") == local.text("r")
    assert carrying.warnings() == []
    digest = carrying.digest("r/there")
    assert (cluster.own_store / "manifests" / f"{digest}.json").exists()
    assert load_cache(carrying.store).by_key.keys() == {
        path.stem for path in (tmp_path / "shared").rglob("v1/actions/*/*.json")
    }
    assert check_store(carrying.store).faults == ()


def test_a_node_that_sees_the_store_under_another_path_works_in_it(cluster, workspace, tmp_path):
    mount = tmp_path / "mount"
    mount.symlink_to(workspace.store.root)
    first = action("write", "r/first", text="x")
    there = on_gpu(44, "copy", "r/there", {"a": first})
    elsewhere = {"MMBUILD_NODE_STORE": str(mount)}
    with cluster.more(num_gpus=1, resources={"sm44": 1}, env_vars=elsewhere) as (node,):
        assert workspace.apply(recipe(first, there, action("write", "r/last", {"a": there}, text="y"))).ok
        assert workspace.placed("r/there") == [node.node_id[:8]]
    assert check_store(workspace.store).faults == ()


def test_an_action_whose_node_is_lost_runs_on_another_one_and_is_reported(
    cluster, workspace, tmp_path, capfd
):
    held = Held(tmp_path, 66)
    with cluster.more(2, num_gpus=1, resources={"sm66": 1}) as nodes:

        def lose_the_node():
            (first,) = wait_for(lambda: workspace.placed("r/held"))
            cluster.kill(next(node for node in nodes if node.node_id.startswith(first)))
            held.started(2)
            held.release()

        with when_begun(lose_the_node, held):
            result = workspace.apply(held.graph)
    assert result.ok
    assert workspace.text("r") == "released"
    assert workspace.warnings().count("MM845") == 1
    first, second = workspace.placed("r/held")
    assert first != second
    assert all(wait_for(lambda process=process: gone(process)) for process in held.started(2))
    assert workspace.log("r/held") == "held\n"
    assert list(workspace.store.staging.iterdir()) == []
    wait_for(lambda: not in_use(workspace.store))
    assert check_store(workspace.store).faults == ()
    assert capfd.readouterr().out == ""


def in_use(store):
    """Whether a process builds in it; a Ray process on a lost node counts until it notices."""
    try:
        with exclusive_lock(store):
            return False
    except MmbuildError:
        return True


@pytest.mark.parametrize("sm", [77, 55])
def test_an_interrupt_ends_an_action_on_its_node_with_all_it_started(carrying, tmp_path, sm):
    held = Held(tmp_path, sm)
    with pytest.raises(KeyboardInterrupt), when_begun(lambda: os.kill(os.getpid(), signal.SIGINT), held):
        carrying.apply(held.graph)
    assert [gone(process) for process in held.started(1)] == [True]
    assert list(carrying.store.staging.iterdir()) == []
    assert carrying.apply(recipe(on_gpu(sm, "write", "r/next", text="x"))).ok  # the node takes part as before


def test_a_process_of_ray_that_is_killed_is_a_failure_and_not_tried_again(workspace, tmp_path, monkeypatch):
    monkeypatch.setattr(task_runner, "_DEATH_SECONDS", 2.0)
    held = Held(tmp_path, 77, "r/killed")

    def kill_the_process():
        for entry in Path("/proc").iterdir():
            with suppress(OSError):  # another process has ended meanwhile
                if entry.name.isdigit() and b"ray::mmbuild r/killed" in (entry / "cmdline").read_bytes():
                    os.kill(int(entry.name), signal.SIGKILL)

    with when_begun(kill_the_process, held):
        (failed,) = workspace.apply(held.graph).failed
    assert failed.code == "MM847"
    assert len(held.started(1)) == 1
    assert wait_for(lambda: gone(held.started(1)[0]))


def test_nodes_with_other_versions_take_no_part_and_both_versions_are_named(workspace):
    workspace.specs = {name: replace(spec, version="trivial-2") for name, spec in TABLE.items()}
    with pytest.raises(MmbuildError, match=r"step write trivial-1 \(the driver has trivial-2\)") as refused:
        workspace.apply(recipe(action("write", "r/one", text="x")))
    assert refused.value.code == "MM842"


def test_a_node_without_mmbuild_takes_no_part_and_the_others_do_its_work(cluster, workspace, tmp_path):
    (tmp_path / "lacking" / "mmbuild").mkdir(parents=True)
    (tmp_path / "lacking" / "mmbuild" / "__init__.py").write_text(
        "raise ModuleNotFoundError(\"No module named 'mmbuild'\")\n"
    )
    with cluster.more(env_vars={"PYTHONPATH": str(tmp_path / "lacking")}) as (node,):
        assert workspace.apply(wide()).ok
    lines = [event.data["message"] for event in workspace.events if event.kind is EventKind.WARNING]
    (about,) = (message for message in lines if node.node_id[:8] in message)
    assert "No module named 'mmbuild'" in about


def test_nodes_without_access_to_the_store_are_refused_with_both_remedies(workspace):
    blind = ClusterNode("1", "blind", {"CPU": 2.0}, NodeInfo("blind", None, (), frozenset(), "generic"))
    with pytest.raises(MmbuildError, match="no cluster node can access the store") as refused:
        carrier_to([blind], workspace_plan(workspace))
    assert "no shared store is configured" in refused.value.message
    assert refused.value.code == "MM844"
    assert "`--store`" in refused.value.hint
    assert "`store.remote`" in refused.value.hint


def workspace_plan(workspace):
    return Workspace.plan(workspace, recipe(action("write", "r/one", text="x")))


def test_a_node_looks_again_before_it_begins(workspace):
    plan = workspace_plan(workspace)
    with on_cluster(plan, TABLE, workspace.events.append) as found:
        (plan.store.root / found.question.token[0]).unlink()  # as if the disk were mounted no more
        options = Options(found.capacity)
        (failed,) = run_plan(
            plan, specs=TABLE, options=options, sink=workspace.events.append, executor=found
        ).failed
    assert failed.code == "MM846"
    assert workspace.warnings().count("MM849") == 3  # one at first, two now
    assert workspace.placed("r/one") == []


@pytest.mark.parametrize("sm", [77, 55])
def test_actions_have_the_tokens_they_may_have_and_ray_writes_none_of_them(
    cluster, carrying, monkeypatch, sm
):
    token, key = secrets.token_hex(16), secrets.token_hex(16)
    monkeypatch.setenv("HF_TOKEN", token)
    monkeypatch.setenv("MMBUILD_SIGNING_KEY", key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", key)
    assert carrying.apply(recipe(on_gpu(sm, "environment", "r/seen"))).ok
    seen = (carrying.build / "r" / "environment").read_text()
    assert f"HF_TOKEN={token}" in seen
    assert key not in seen
    for path in cluster.logs():
        content = path.read_bytes()
        assert token.encode() not in content, path
        assert key.encode() not in content, path


def test_the_command_reaches_the_cluster_by_its_address(cluster, tmp_path):
    project = Project(tmp_path / "project")
    reported = project.run("apply", RECIPE, "--executor", "ray", "--address", cluster.cluster.address)
    assert "9 ran" in reported.stderr
    assert reported.stderr.count("MM849") == 1


def test_waiting_for_a_node_is_reported(workspace, tmp_path, monkeypatch):
    monkeypatch.setattr(task_runner, "_WAITING_SECONDS", 0.2)
    both = [Held(tmp_path, 77, name) for name in ("r/one", "r/other")]  # of one GPU

    def release_when_told(event):
        if event.kind is EventKind.WAITING:
            for held in both:
                threading.Thread(target=held.release, daemon=True).start()

    workspace.on_event = release_when_told
    result = workspace.apply(recipe(*(held.graph.actions[0] for held in both)))
    assert set(result.ran) == {"r/one", "r/other"}
    waiting = {
        event.label: event.data["why"] for event in workspace.events if event.kind is EventKind.WAITING
    }
    assert waiting[result.ran[1]] == "no node of the cluster is free"


def test_when_the_last_node_that_could_run_them_is_lost_actions_fail_rather_than_wait(
    cluster, workspace, tmp_path, monkeypatch
):
    monkeypatch.setattr(task_runner, "_WAITING_SECONDS", 0.2)
    both = [Held(tmp_path, 88, name) for name in ("r/one", "r/other")]
    with (
        cluster.more(num_gpus=1, resources={"sm88": 1}) as (only,),
        when_begun(lambda: cluster.kill(only), *both),
    ):
        result = workspace.apply(recipe(*(held.graph.actions[0] for held in both)), keep_going=True)
    assert {(failed.label, failed.code) for failed in result.failed} == {
        ("r/one", "MM846"),
        ("r/other", "MM846"),
    }


def test_a_killed_driver_takes_its_actions_on_nodes_with_it(cluster, tmp_path):
    file = tmp_path / "pid"
    command = [
        sys.executable,
        apply_on_ray.__file__,
        str(tmp_path / "store"),
        str(tmp_path / "build"),
        str(file),
    ]
    environment = {
        **os.environ,
        "RAY_ADDRESS": cluster.cluster.address,
        "PYTHONPATH": str(TESTS),
    }
    driver = subprocess.Popen(command, env=environment)
    child = int(wait_for(lambda: driver.poll() is not None or (file.exists() and file.read_text())))
    assert not gone(child)
    driver.kill()
    driver.wait()
    assert wait_for(lambda: gone(child))
    assert wait_for(lambda: not in_use(Store(tmp_path / "store")))
