"""``apply --executor ray`` without a cluster: a local Ray for the run, and nothing left of it afterwards."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from contextlib import suppress
from pathlib import Path

import pytest

from mmbuild.base.errors import MmbuildError
from mmbuild.core.store.action_cache import load_cache
from mmbuild.core.store.layout import Store
from mmbuild.team.ray import connect
from support import TESTS
from support.projects.demo_project import NAME, RECIPE, Project
from support.steps import apply_on_ray
from support.waiting import gone, wait_for

pytest.importorskip("ray")

PROGRAM = apply_on_ray.__file__

pytestmark = pytest.mark.slow


def results(project):
    """What was built: artifacts by action key, and the files of the engine."""
    records = load_cache(Store(project.root / "store")).by_key
    engine = project.root / "build" / NAME
    files = {str(path.relative_to(engine)): path.read_bytes() for path in engine.rglob("*") if path.is_file()}
    del files["manifest.json"]  # has times
    return {key: record.digest for key, record in records.items()}, files


def events(reported):
    """Kinds by label in order; how many progress events there are is random."""
    found: dict[str, list[str]] = {}
    for line in reported.splitlines():
        event = json.loads(line)
        if event["event"] not in ("progress", "waiting"):
            found.setdefault(event["label"], []).append(event["event"])
    return found


def processes_of(directory):
    """Ids of processes that have the name of ``directory`` among their arguments."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and entry.name != str(os.getpid()):
            try:
                command = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if str(directory).encode() in command:
                found.append(int(entry.name))
    return found


def test_a_recipe_comes_out_as_on_this_machine_with_the_same_keys_artifacts_and_events(tmp_path):
    local, ray = (Project(tmp_path / name) for name in ("local", "ray"))
    here = local.run("apply", RECIPE, "--json")
    there = ray.run("apply", RECIPE, "--json", "--executor", "ray")
    assert results(ray) == results(local)
    assert len(results(ray)[0]) == 9
    assert events(there.stdout) == events(here.stdout)
    assert there.stderr == ""
    again = ray.run("apply", RECIPE, "--executor", "ray", PYTHONPATH=broken_ray(tmp_path, ray))
    assert "up to date" in again.stderr


def broken_ray(tmp_path, project):
    """A module path on which Ray cannot be imported, behind that of ``project``."""
    (tmp_path / "broken" / "ray").mkdir(parents=True)
    (tmp_path / "broken" / "ray" / "__init__.py").write_text("raise ImportError('of another machine')\n")
    return f"{project.environment['PYTHONPATH']}:{tmp_path / 'broken'}"


def test_without_ray_the_extra_is_named_and_nothing_is_built(tmp_path):
    project = Project(tmp_path / "project")
    module_path = broken_ray(tmp_path, project)
    reported = project.run("apply", RECIPE, "--executor", "ray", status=1, PYTHONPATH=module_path).stderr
    assert "MM840" in reported
    assert "of another machine" in reported
    assert "[ray]'" in reported
    assert not (project.root / "build").exists()
    assert project.run("apply", RECIPE, "--address", "auto", status=2).stderr.count("--executor ray") == 1


@pytest.mark.parametrize(
    ("address", "why"), [("127.0.0.1:1", "refused"), ("ray://127.0.0.1:10001", "client protocol")]
)
def test_an_address_without_a_cluster_is_reported_in_seconds(tmp_path, address, why):
    project = Project(tmp_path / "project")
    reported = project.run("apply", RECIPE, "--executor", "ray", "--address", address, status=1).stderr
    assert "MM841" in reported
    assert address in reported
    assert why in reported


@pytest.mark.parametrize("says", [b"", b"HTTP/1.1 400 Bad Request\r\n\r\n"])
def test_what_answers_and_is_not_ray_is_reported_too(says, monkeypatch):
    monkeypatch.setattr(connect, "_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer():
            client, _ = server.accept()
            with client, suppress(ConnectionResetError):
                client.sendall(says)
                client.recv(1 << 16)
                client.recv(1 << 16)  # until it goes

        threading.Thread(target=answer, daemon=True).start()
        address = f"127.0.0.1:{server.getsockname()[1]}"
        with (
            pytest.raises(MmbuildError, match="cannot connect to Ray") as refused,
            connect.connected(address),
        ):
            pass
    assert refused.value.code == "MM841"


@pytest.fixture
def held(tmp_path):
    """An apply with its own Ray, and the process that its only action started and waits for."""
    file = tmp_path / "pid"
    temporary = Path(tempfile.mkdtemp(prefix="mm"))  # names of sockets are at most 107 bytes
    command = [sys.executable, str(PROGRAM), str(tmp_path / "store"), str(tmp_path / "build"), str(file)]
    environment = {**os.environ, "RAY_TMPDIR": str(temporary), "PYTHONPATH": str(TESTS)}
    with open(tmp_path / "told", "wb") as reported:
        process = subprocess.Popen(command, env=environment, stderr=reported, start_new_session=True)
    child = int(wait_for(lambda: process.poll() is not None or (file.exists() and file.read_text())))
    assert len(processes_of(temporary)) >= 2  # gcs_server and raylet
    yield process, child, temporary
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    shutil.rmtree(temporary)


def test_ctrl_c_ends_the_action_with_all_it_started_and_the_ray_that_was_started_for_it(held, tmp_path):
    driver, child, temporary = held
    os.killpg(driver.pid, signal.SIGINT)  # as a terminal does
    assert driver.wait(timeout=60) == 130
    assert gone(child)
    assert "Traceback" not in (tmp_path / "told").read_text()
    assert processes_of(temporary) == []
    assert list((tmp_path / "store" / "staging").iterdir()) == []


def test_a_killed_driver_takes_the_action_with_all_it_started_and_its_ray_with_it(held):
    driver, child, temporary = held
    os.kill(driver.pid, signal.SIGKILL)
    wait_for(lambda: gone(child))
    wait_for(lambda: not processes_of(temporary))
