"""Failures of the environment during a build: a full disk, killed processes, another user's store, a gc."""

import os
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path

import pytest

from mmbuild.base.errors import MmbuildError
from mmbuild.core.execution.events import EventKind
from mmbuild.core.graph.action import RecipeGraph
from mmbuild.core.store.gc import collect
from mmbuild.core.store.locks import exclusive_lock
from mmbuild.core.store.verify import check_store
from support.marks import slow_except
from support.projects.workspace import Workspace
from support.steps.trivial import action, chain

KIB = 1024


@pytest.fixture
def workspace(tmp_path):
    return Workspace(tmp_path)


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 2 MiB with nothing else on it."""
    if os.geteuid() != 0:
        pytest.skip("a full disk needs a file system of its own, and mounting one needs root")
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(place)],
        capture_output=True,
        text=True,
        check=False,
    )
    if mounted.returncode != 0:
        pytest.skip(f"a full disk needs a file system of its own: {mounted.stderr.strip()}")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def one(step, **params):
    only = action(step, f"r/{step}", **params)
    return RecipeGraph("r", (only,), only.definition_key)


def fill(place, leave):
    """Take all space but ``leave`` bytes; returns what to remove to give it back."""
    ballast = place / "ballast"
    found = os.statvfs(place)
    with open(ballast, "wb") as stream:
        os.posix_fallocate(stream.fileno(), 0, found.f_bavail * found.f_frsize - leave)
    return ballast


def test_a_step_that_fills_the_disk_is_reported_and_the_store_stays_good(small_disk):
    workspace = Workspace(small_disk)
    (failed,) = workspace.apply(one("large", bytes=4_000_000)).failed
    assert failed.code == "MM302"
    assert "no space left" in failed.message
    assert "cache gc" in failed.hint
    assert list(workspace.store.staging.iterdir()) == []
    assert check_store(workspace.store).faults == ()
    assert workspace.apply(chain("r")).ok


def test_a_build_directory_on_a_full_disk_is_named_with_its_option(small_disk, tmp_path):
    class Elsewhere(Workspace):
        @property
        def build(self):
            return small_disk / "b"

    workspace = Elsewhere(tmp_path / "elsewhere")
    with pytest.raises(MmbuildError) as caught:
        workspace.apply(one("large", bytes=4_000_000))
    assert caught.value.code == "MM302"
    assert caught.value.message.startswith(f"no space left while writing `{small_disk}/b/.r.mmbuild-")
    assert caught.value.hint == (
        "free some space there, or use another directory with `--build-dir`; finished actions are kept"
    )


PAGES = (0, 1, 2, 3, 4, 6, 8, 10, 12, 16, 20, 24, 32, 40)


@pytest.mark.parametrize("pages", slow_except(PAGES, 0, 2, 6, 12, 24, 40))
def test_a_full_disk_at_any_point_is_reported_and_the_next_apply_continues(small_disk, pages):
    workspace = Workspace(small_disk)
    assert workspace.apply(chain("other")).ok
    ballast = fill(small_disk, pages * 4 * KIB)
    try:
        codes = [failed.code for failed in workspace.apply(chain("r")).failed]
    except MmbuildError as error:
        codes = [error.code]
    assert set(codes) <= {"MM302"}
    assert codes or pages > 3, "the disk was not full"
    ballast.unlink()
    assert workspace.apply(chain("r")).ok
    assert workspace.text("r") == "a2+a1+a"
    assert check_store(workspace.store).faults == ()
    assert list(workspace.store.staging.iterdir()) == []


def test_a_worker_that_the_kernel_kills_is_reported_and_the_store_stays_good(workspace):
    def kill(event):
        if event.kind is EventKind.PROGRESS:
            os.kill(int(event.data["message"].split()[0]), signal.SIGKILL)

    workspace.events = type("Sink", (), {"append": staticmethod(kill)})()
    (failed,) = workspace.apply(one("wait_to_be_killed")).failed
    assert failed.code == "MM311"
    assert "was killed (SIGKILL), most likely because memory ran out" in failed.message
    assert "--jobs" in failed.hint
    assert list(workspace.store.staging.iterdir()) == []
    assert check_store(workspace.store).faults == ()
    workspace.events = []
    assert workspace.apply(chain("r")).ok


def test_a_killed_fork_server_is_reported_and_takes_its_workers_along(workspace):
    workers = []

    def kill(event):
        if event.kind is EventKind.PROGRESS:
            worker, server = map(int, event.data["message"].split())
            workers.append(worker)
            os.kill(server, signal.SIGKILL)

    workspace.events = type("Sink", (), {"append": staticmethod(kill)})()
    with pytest.raises(MmbuildError, match="the process that starts workers exited") as caught:
        workspace.apply(one("wait_to_be_killed"))
    assert caught.value.code == "MM316"
    (worker,) = workers
    assert not os.path.exists(f"/proc/{worker}/fd/0") or is_zombie(worker)
    workspace.events = []
    assert workspace.apply(chain("r")).ok


def is_zombie(process):
    with open(f"/proc/{process}/stat") as stream:
        return stream.read().rsplit(")", 1)[1].split()[0] == "Z"


def test_manifests_that_a_power_failure_emptied_are_made_again(workspace):
    workspace.apply(chain("r"))
    for manifest in (workspace.store.root / "manifests").iterdir():
        manifest.write_bytes(b"")
    shutil.rmtree(workspace.build)
    assert set(workspace.verdicts(chain("r")).values()) <= {"run", "may change"}
    assert workspace.apply(chain("r")).ok
    assert workspace.text("r") == "a2+a1+a"
    assert check_store(workspace.store).faults == ()


def test_after_an_interrupt_the_same_process_can_apply_again(workspace):
    """A notebook continues after Ctrl-C: no lock of the interrupted apply may be left."""

    def interrupt(event):
        if event.kind is EventKind.PROGRESS:
            raise KeyboardInterrupt

    graph = one("sleepy", seconds=0.2)
    workspace.events = type("Sink", (), {"append": staticmethod(interrupt)})()
    with pytest.raises(KeyboardInterrupt):
        workspace.apply(graph)
    workspace.events = []
    assert workspace.apply(graph).ran == ("r/sleepy",)


def test_gc_and_verify_keep_away_from_a_running_build(workspace):
    refused = []

    def sweep(event):
        if event.kind in (EventKind.STARTED, EventKind.FINISHED):
            for tool in (collect, check_store):
                with pytest.raises(MmbuildError, match="a build is using the store") as caught:
                    tool(workspace.store)
                refused.append(caught.value.code)

    workspace.events = type("Sink", (), {"append": staticmethod(sweep)})()
    assert workspace.apply(chain("r")).ok
    assert refused == ["MM305"] * 12
    assert collect(workspace.store).removed == ()


def test_a_build_keeps_away_from_a_running_gc(workspace):
    with exclusive_lock(workspace.store), pytest.raises(MmbuildError, match="cache gc") as caught:
        workspace.apply(chain("r"))
    assert caught.value.code == "MM305"
    assert "try again" in caught.value.hint
    assert workspace.apply(chain("r")).ok


def test_another_user_s_store_is_reported_with_its_owner():
    if os.geteuid() != 0:
        pytest.skip("becoming another user needs root")
    with tempfile.TemporaryDirectory() as place:
        os.chmod(place, 0o755)  # to be seen, not written
        workspace = Workspace(Path(place))
        workspace.apply(chain("r"))
        reported = as_nobody(lambda: workspace.apply(chain("r", "b")))
        assert reported.startswith(f"MM301 the store `{workspace.store.root}` belongs to user `root`")
        assert "--store" in reported
        assert check_store(workspace.store).faults == ()


def as_nobody(body):
    """Run ``body`` in a child without rights; returns code, message and hint of the error it raises."""
    import pwd  # before the rights to read it are gone

    nobody = pwd.getpwnam("nobody")
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        text = "nothing was raised"
        try:
            os.setgroups([])
            os.setgid(nobody.pw_gid)
            os.setuid(nobody.pw_uid)
            body()
        except MmbuildError as error:
            text = f"{error.code} {error.message} {error.hint}"
        except BaseException as error:
            text = repr(error)
        os.write(writer, text.encode())
        os._exit(0)
    os.close(writer)
    os.waitpid(child, 0)
    with open(reader) as stream:
        return stream.read()
