"""Who gets a GPU: across processes and users, in the order in which they came."""

import multiprocessing
import os
import random
import signal
import tempfile
from functools import partial
from pathlib import Path

import pytest

from mmbuild.base.errors import MmbuildError
from mmbuild.core.execution.gpu_queue import GpuRequest

GPUS = ("GPU-aa1", "GPU-ab2", "GPU-c3")
NOBODY = 65534


@pytest.fixture
def ask(tmp_path):
    """Requests in a directory of this test."""

    def make(count=1, *, shared=False, uuids=GPUS):
        return GpuRequest(uuids, count, shared, tmp_path / "gpus")

    return make


def release(locks):
    for lock in locks.values():
        lock.release()


def in_a_process(work):
    """A process that has run ``work`` and waits to be killed."""
    here, there = multiprocessing.get_context("fork").Pipe()

    def run():
        there.send(work())
        signal.pause()

    process = multiprocessing.get_context("fork").Process(target=run)
    process.start()
    there.close()  # so that the death of the process ends the wait
    return process, here.recv()


def test_a_gpu_is_held_once(ask):
    first = ask(2).try_take()
    assert list(first) == ["GPU-aa1", "GPU-ab2"]
    two = ask(2)
    assert two.try_take() is None
    two.close()
    assert list(ask(1).try_take()) == ["GPU-c3"]


def test_a_request_for_no_gpu_is_granted(ask):
    assert ask(0, uuids=()).try_take() == {}


def test_what_compiles_shares_a_gpu_and_what_measures_has_it_alone(ask):
    sharing = [ask(shared=True, uuids=GPUS[:1]).try_take() for _ in range(3)]
    assert [list(locks) for locks in sharing] == [["GPU-aa1"]] * 3
    alone = ask(uuids=GPUS[:1])
    assert alone.try_take() is None
    for locks in sharing:
        release(locks)
    assert list(alone.try_take()) == ["GPU-aa1"]
    assert ask(shared=True, uuids=GPUS[:1]).try_take() is None


def test_those_that_share_do_not_starve_one_that_needs_the_gpu_alone(ask):
    """Without tickets a GPU that always has a sharer would never be free."""
    sharers = [ask(shared=True, uuids=GPUS[:1]).try_take()]
    alone = ask(uuids=GPUS[:1])
    assert alone.try_take() is None
    later = ask(shared=True, uuids=GPUS[:1])
    assert later.try_take() is None
    release(sharers[0])
    assert later.try_take() is None  # still behind
    held = alone.try_take()
    assert held is not None
    assert later.try_take() is None
    release(held)
    assert later.try_take() is not None


def test_one_that_needs_all_gpus_is_not_overtaken_by_those_that_need_one(ask):
    held = ask(1).try_take()
    everything = ask(3)
    assert everything.try_take() is None
    assert ask(1).try_take() is None
    release(held)
    assert list(everything.try_take()) == list(GPUS)


def test_a_request_waits_only_behind_those_for_the_same_gpus(ask):
    held = ask(1, uuids=GPUS[:1]).try_take()
    assert ask(1, uuids=GPUS[:1]).try_take() is None
    assert list(ask(1, uuids=GPUS[1:]).try_take()) == ["GPU-ab2"]
    release(held)


@pytest.mark.parametrize("seed", range(20))
def test_requests_are_granted_in_the_order_they_came(ask, seed):
    """Whatever the order in which they ask again, and whoever shares."""
    chance = random.Random(seed)
    holder = ask(uuids=GPUS[:1]).try_take()
    waiting = [ask(shared=chance.random() < 0.5, uuids=GPUS[:1]) for _ in range(8)]
    assert [request.try_take() for request in waiting] == [None] * 8
    release(holder)
    order, held = [], []
    while len(order) < len(waiting):
        for number in chance.sample(range(8), 8):
            locks = waiting[number].try_take() if number not in order else None
            if locks is not None:
                order.append(number)
                held.append((number, locks))
        alone = [locks for number, locks in held if not waiting[number].shared]
        assert len(held) == 1 or not alone
        number, locks = held.pop(chance.randrange(len(held))) if held else (None, {})
        release(locks)
    assert order == list(range(8))


def test_a_request_that_is_withdrawn_keeps_nobody_waiting(ask):
    held = ask(uuids=GPUS[:1]).try_take()
    gone, stays = ask(uuids=GPUS[:1]), ask(uuids=GPUS[:1])
    assert gone.try_take() is stays.try_take() is None
    release(held)
    gone.close()
    assert stays.try_take() is not None


@pytest.mark.parametrize("waits", [True, False])
def test_a_process_that_is_killed_keeps_nobody_waiting(ask, tmp_path, waits):
    held = ask(uuids=GPUS[:1]).try_take() if waits else None
    process, taken = in_a_process(lambda: ask(uuids=GPUS[:1]).try_take() is not None)
    assert taken is not waits
    mine = ask(uuids=GPUS[:1])
    if held is not None:
        release(held)
    assert mine.try_take() is None
    process.kill()
    process.join()
    assert mine.try_take() is not None
    assert not list((tmp_path / "gpus" / "GPU-aa1.waiting").iterdir())


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")
def test_users_share_gpus_that_another_user_used_first():
    """Files in a directory of everybody's belong to who made them, and cannot be written to by others."""
    with tempfile.TemporaryDirectory() as everybodys:
        os.chmod(everybodys, 0o1777)
        share_with_another(partial(GpuRequest, GPUS[:1], 1, directory=Path(everybodys) / "gpus"))


def share_with_another(ask):
    held = ask().try_take()

    def as_another():
        os.setgid(NOBODY)
        os.setuid(NOBODY)
        return ask().try_take() is not None

    process, taken = in_a_process(as_another)
    assert not taken
    release(held)
    behind = ask()
    assert behind.try_take() is None  # the other user came first
    behind.close()
    process.kill()
    process.join()
    other, taken = in_a_process(as_another)
    assert taken
    other.kill()
    other.join()


@pytest.mark.parametrize("name", ["gpus", "gpus/GPU-aa1.lock", "gpus/GPU-aa1.waiting"])
def test_a_link_where_locks_should_be_is_refused(ask, tmp_path, name):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).symlink_to(tmp_path / "elsewhere")
    if name.endswith("waiting"):
        ask(uuids=GPUS[:1]).try_take()
    with pytest.raises(MmbuildError) as caught:
        ask(uuids=GPUS[:1]).try_take()
    assert caught.value.code == "MM320"
    assert not list((tmp_path / "elsewhere").iterdir())
