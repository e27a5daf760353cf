"""Limits of the machine and its control groups, GPUs, and the scheduler's bookkeeping."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmbuild.base.gpu import select
from mmbuild.core.execution.ready_queue import NOTHING, ReadyPool, priorities
from mmbuild.core.execution.resources import Capacity, grant, machine_cores, machine_memory
from mmbuild.core.execution.worker_environment import granted_environment, listed_environment
from mmbuild.core.graph.action import Resources
from support.steps.trivial import action


def machine(root, files):
    for path, text in {"proc/meminfo": "MemTotal:       16000000 kB\n", **files}.items():
        target = root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)
    return root


CGROUP2 = {"proc/self/cgroup": "0::/a/b\n"}
CGROUP1 = {"proc/self/cgroup": "4:memory:/job\n3:cpu,cpuacct:/job\n"}


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, 16_384_000_000),
        ({**CGROUP2, "sys/fs/cgroup/a/b/memory.max": "max\n"}, 16_384_000_000),
        ({**CGROUP2, "sys/fs/cgroup/a/b/memory.max": "1000000\n"}, 1_000_000),
        ({**CGROUP2, "sys/fs/cgroup/a/memory.max": "500\n", "sys/fs/cgroup/a/b/memory.max": "900\n"}, 500),
        ({**CGROUP1, "sys/fs/cgroup/memory/job/memory.limit_in_bytes": "777\n"}, 777),
        ({**CGROUP1, "sys/fs/cgroup/memory/memory.limit_in_bytes": str(1 << 62)}, 16_384_000_000),
    ],
)
def test_memory_is_the_least_of_machine_and_groups(tmp_path, files, expected):
    assert machine_memory(machine(tmp_path, files)) == expected


@pytest.mark.parametrize(
    ("files", "quota"),
    [
        ({**CGROUP2, "sys/fs/cgroup/a/b/cpu.max": "max 100000\n"}, None),
        ({**CGROUP2, "sys/fs/cgroup/a/cpu.max": "100000 100000\n"}, 1),
        ({**CGROUP2, "sys/fs/cgroup/a/cpu.max": "50000 100000\n"}, 1),
        (
            {
                **CGROUP1,
                "sys/fs/cgroup/cpu/job/cpu.cfs_quota_us": "100000",
                "sys/fs/cgroup/cpu/job/cpu.cfs_period_us": "100000",
            },
            1,
        ),
        (
            {
                **CGROUP1,
                "sys/fs/cgroup/cpu/job/cpu.cfs_quota_us": "-1",
                "sys/fs/cgroup/cpu/job/cpu.cfs_period_us": "100000",
            },
            None,
        ),
    ],
)
def test_cores_follow_the_quota(tmp_path, files, quota):
    import os

    assert machine_cores(machine(tmp_path, files)) == (quota or len(os.sched_getaffinity(0)))


GPUS = ("GPU-aa1", "GPU-ab2", "GPU-c3")


@pytest.mark.parametrize(
    ("visible", "expected"),
    [
        (None, GPUS),
        ("", ()),
        ("-1", ()),
        ("1", ("GPU-ab2",)),
        ("2,0", ("GPU-c3", "GPU-aa1")),
        ("GPU-c", ("GPU-c3",)),
        ("GPU-ab2, 0", ("GPU-ab2", "GPU-aa1")),
        ("0,9,1", ("GPU-aa1",)),
        ("0,0", ("GPU-aa1",)),
        ("GPU-a", ()),
    ],
)
def test_cuda_visible_devices_is_honoured(visible, expected):
    assert select(GPUS, visible) == expected


def test_the_critical_path_counts_what_waits():
    a = action("write", "a", text="a", resources=Resources(seconds=1))
    b = action("write", "b", {"x": a}, text="b", resources=Resources(seconds=10))
    c = action("write", "c", text="c", resources=Resources(seconds=5))
    found = priorities([a, b, c])
    assert [found[x.definition_key] for x in (a, b, c)] == [11, 10, 5]


requests = st.lists(
    st.builds(Resources, cores=st.integers(1, 5), memory=st.integers(0, 150)), min_size=1, max_size=20
)


@given(requests, st.integers(1, 4))
def test_the_pool_never_hands_out_more_than_there_is_and_serves_everybody(asked, jobs):
    capacity = Capacity(4, 100, (), jobs)
    pool = ReadyPool(capacity, {})
    for index in range(len(asked)):
        pool.add(str(index))
    running, served = [], []

    def start(key):
        required = grant(asked[int(key)], capacity)
        if not pool.fits(required):
            return None
        running.append(required)
        served.append(key)
        return required

    while pool.waiting or running:
        pool.take(start)
        assert running
        assert len(running) <= jobs
        assert sum(r.cores for r in running) <= 4
        assert sum(r.memory for r in running) <= 100
        pool.give_back(running.pop())
    assert sorted(served, key=int) == [str(i) for i in range(len(asked))]


def test_actions_that_share_a_gpu_start_while_its_memory_lasts():
    pool = ReadyPool(Capacity(64, 1 << 50, ("GPU-a",), 64, gpu_memory=100), {})
    compiling = Resources(gpus=1, gpu_memory=40, gpu_shared=True)
    started = []
    for key in "abc":
        pool.add(key)
    pool.take(lambda key: started.append(key) or compiling if pool.fits(compiling) else None)
    assert started == ["a", "b"]
    assert pool.fits(
        Resources(gpus=1, gpu_memory=90)
    )  # needs the GPU alone, so it waits for the lock instead
    pool.give_back(compiling)
    assert pool.fits(compiling)


def test_an_action_whose_result_is_there_takes_nothing():
    pool = ReadyPool(Capacity(1, 1, (), 1), {})
    pool.add("a")
    pool.add("b")
    pool.take(lambda _: NOTHING)
    assert (pool.running, pool.cores, pool.waiting) == (0, 0, False)


def test_only_listed_variables_reach_a_worker():
    given_env = {"PATH": "/bin", "AWS_SECRET_ACCESS_KEY": "s", "HF_HOME": "/h", "OMP_NUM_THREADS": "99"}
    listed = listed_environment(given_env)
    # Asking CUDA itself before forking would break it in every worker.
    assert listed.pop("PYTORCH_NVML_BASED_CUDA_CHECK") == "1"
    assert listed == {"PATH": "/bin", "HF_HOME": "/h"}
    seen = granted_environment(3, ("GPU-a",))
    assert (seen["OMP_NUM_THREADS"], seen["CUDA_VISIBLE_DEVICES"]) == ("3", "GPU-a")
