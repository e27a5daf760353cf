"""What the machine does to a build: a full disk, killed processes, somebody else's store, a gc in between."""

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
from support.projects.workshop import Workshop
from support.steps.trivial import action, chain

KIB = 1024


@pytest.fixture
def shop(tmp_path):
    return Workshop(tmp_path)


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


def test_a_step_that_fills_the_disk_is_told_and_the_store_stays_good(small_disk):
    shop = Workshop(small_disk)
    (failed,) = shop.apply(one("large", bytes=4_000_000)).failed
    assert failed.code == "MM302"
    assert "no space left" in failed.message
    assert "cache gc" in failed.hint
    assert list(shop.store.staging.iterdir()) == []
    assert check_store(shop.store).faults == ()
    assert shop.apply(chain("r")).ok


@pytest.mark.parametrize("pages", [0, 1, 2, 3, 4, 6, 8, 10, 12, 16, 20, 24, 32, 40])
def test_wherever_the_disk_gets_full_it_is_told_and_the_next_apply_goes_on(small_disk, pages):
    shop = Workshop(small_disk)
    assert shop.apply(chain("other")).ok
    ballast = fill(small_disk, pages * 4 * KIB)
    try:
        codes = [failed.code for failed in shop.apply(chain("r")).failed]
    except MmbuildError as error:
        codes = [error.code]
    assert set(codes) <= {"MM302"}
    assert codes or pages > 3, "the disk was not full"
    ballast.unlink()
    assert shop.apply(chain("r")).ok
    assert shop.text("r") == "a2+a1+a"
    assert check_store(shop.store).faults == ()
    assert list(shop.store.staging.iterdir()) == []


def test_a_worker_that_the_kernel_kills_is_told_and_the_store_stays_good(shop):
    def kill(event):
        if event.kind is EventKind.PROGRESS:
            os.kill(int(event.data["message"].split()[0]), signal.SIGKILL)

    shop.events = type("Sink", (), {"append": staticmethod(kill)})()
    (failed,) = shop.apply(one("wait_to_be_killed")).failed
    assert failed.code == "MM311"
    assert "was killed (SIGKILL), most likely because memory ran out" in failed.message
    assert "--jobs" in failed.hint
    assert list(shop.store.staging.iterdir()) == []
    assert check_store(shop.store).faults == ()
    shop.events = []
    assert shop.apply(chain("r")).ok


def test_a_killed_fork_server_is_told_and_takes_its_workers_along(shop):
    workers = []

    def kill(event):
        if event.kind is EventKind.PROGRESS:
            worker, server = map(int, event.data["message"].split())
            workers.append(worker)
            os.kill(server, signal.SIGKILL)

    shop.events = type("Sink", (), {"append": staticmethod(kill)})()
    with pytest.raises(MmbuildError, match="the process that starts workers ended") as caught:
        shop.apply(one("wait_to_be_killed"))
    assert caught.value.code == "MM316"
    (worker,) = workers
    assert not os.path.exists(f"/proc/{worker}/fd/0") or is_zombie(worker)
    shop.events = []
    assert shop.apply(chain("r")).ok


def is_zombie(process):
    with open(f"/proc/{process}/stat") as stream:
        return stream.read().rsplit(")", 1)[1].split()[0] == "Z"


def test_manifests_that_a_power_failure_emptied_are_made_again(shop):
    shop.apply(chain("r"))
    for manifest in (shop.store.root / "manifests").iterdir():
        manifest.write_bytes(b"")
    shutil.rmtree(shop.build)
    assert set(shop.verdicts(chain("r")).values()) <= {"run", "unknown until built"}
    assert shop.apply(chain("r")).ok
    assert shop.text("r") == "a2+a1+a"
    assert check_store(shop.store).faults == ()


def test_after_an_interrupt_the_same_process_can_apply_again(shop):
    """A notebook goes on after Ctrl-C: no lock of the interrupted apply may be left."""

    def interrupt(event):
        if event.kind is EventKind.PROGRESS:
            raise KeyboardInterrupt

    graph = one("sleepy", seconds=0.2)
    shop.events = type("Sink", (), {"append": staticmethod(interrupt)})()
    with pytest.raises(KeyboardInterrupt):
        shop.apply(graph)
    shop.events = []
    assert shop.apply(graph).ran == ("r/sleepy",)


def test_gc_and_verify_keep_away_from_a_running_build(shop):
    refused = []

    def sweep(event):
        if event.kind in (EventKind.STARTED, EventKind.FINISHED):
            for tool in (collect, check_store):
                with pytest.raises(MmbuildError, match="a build is using the store") as caught:
                    tool(shop.store)
                refused.append(caught.value.code)

    shop.events = type("Sink", (), {"append": staticmethod(sweep)})()
    assert shop.apply(chain("r")).ok
    assert refused == ["MM305"] * 12
    assert collect(shop.store).removed == ()


def test_a_build_keeps_away_from_a_running_gc(shop):
    with exclusive_lock(shop.store), pytest.raises(MmbuildError, match="cache gc") as caught:
        shop.apply(chain("r"))
    assert caught.value.code == "MM305"
    assert "try again" in caught.value.hint
    assert shop.apply(chain("r")).ok


def test_a_store_of_somebody_else_is_told_with_its_owner():
    if os.geteuid() != 0:
        pytest.skip("becoming another user needs root")
    with tempfile.TemporaryDirectory() as place:
        os.chmod(place, 0o755)  # to be seen, not written
        shop = Workshop(Path(place))
        shop.apply(chain("r"))
        told = as_nobody(lambda: shop.apply(chain("r", "b")))
        assert told.startswith(f"MM301 the store `{shop.store.root}` belongs to user `root`")
        assert "--store" in told
        assert check_store(shop.store).faults == ()


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
