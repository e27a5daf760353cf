"""A command's argv and variables inside an environment."""

from __future__ import annotations

import csv
import itertools
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmbuild.backends.environments.launch import Launch, launch
from mmbuild.base.errors import MmbuildError
from mmbuild.config.model import Container, ToolchainEnvironment

HOSTED = ToolchainEnvironment(
    python=Path("/venv/bin/python"), examples=Path("/src/trt"), variables={"A": "environment", "B": "b"}
)
WORK = Path("/store/work")


def contained(engine: str = "docker", **more: Any) -> ToolchainEnvironment:
    container = Container(engine=engine, image="image:tag", options=("--network", "none"))
    return ToolchainEnvironment(container=container, examples=Path("/src/trt"), **more)


def options(started: Launch, flag: str) -> list[str]:
    """Values of ``flag`` among the engine's own options, which end at the image."""
    own = started.argv[: started.argv.index("image:tag")]
    return [value for word, value in itertools.pairwise(own) if word == flag]


@pytest.mark.parametrize(
    ("argv", "program"),
    [
        (["python", "convert.py", "python"], 0),
        (["python3", "-c", "pass"], 0),
        (["mpirun", "-n", "2", "--allow-run-as-root", "python", "run.py", "python"], 4),
        (["mpirun", "-n", "2", "--mca", "btl", "self", "python3", "run.py"], 6),
        (["mpirun", "-n", "2", "trtllm-run", "python"], None),
        (["mpirun", "-n", "2"], None),
        (["trtllm-build", "--checkpoint_dir", "python"], None),
        (["/usr/bin/python", "x"], None),
        (["wget", "python"], None),
    ],
)
def test_python_is_the_environment_s_own(argv: list[str], program: int | None) -> None:
    expected = ["/venv/bin/python" if place == program else word for place, word in enumerate(argv)]
    assert list(launch(HOSTED, argv, workdir=WORK, source={}).argv) == expected


def test_programs_next_to_the_interpreter_come_first_on_path() -> None:
    started = launch(HOSTED, ["trtllm-build"], workdir=WORK, source={"PATH": "/usr/bin:/bin"})
    assert started.environment["PATH"] == "/venv/bin:/usr/bin:/bin"
    own = launch(HOSTED, ["x"], workdir=WORK, variables={"PATH": "/own"}, source={"PATH": "/usr/bin"})
    assert own.environment["PATH"] == "/venv/bin:/own"
    assert launch(HOSTED, ["x"], workdir=WORK, source={}).environment["PATH"] == f"/venv/bin:{os.defpath}"


def test_a_foreign_python_sees_listed_variables_and_nothing_of_ours() -> None:
    source = {"HOME": "/h", "EDITOR": "vi", "PYTHONPATH": "/ours", "VIRTUAL_ENV": "/ours", "HF_HOME": "/hub"}
    found = launch(HOSTED, ["python"], workdir=WORK, source=source).environment
    assert {name: found.get(name) for name in source} == {
        "HOME": "/h",
        "EDITOR": None,
        "PYTHONPATH": None,
        "VIRTUAL_ENV": None,
        "HF_HOME": "/hub",
    }
    assert found["PYTHONNOUSERSITE"] == "1"


def test_variables_of_a_command_override_those_of_the_environment() -> None:
    found = launch(HOSTED, ["x"], workdir=WORK, variables={"A": "command"}, source={"A": "shell"}).environment
    assert (found["A"], found["B"]) == ("command", "b")
    inside = launch(
        contained(variables={"A": "e", "B": "b"}), ["x"], workdir=WORK, variables={"A": "c"}, source={}
    )
    assert {"A=c", "B=b"} <= set(options(inside, "-e"))


def test_gpus_of_a_python_are_named_by_uuid_or_as_inherited() -> None:
    source = {"CUDA_VISIBLE_DEVICES": "3"}
    assert launch(HOSTED, ["x"], workdir=WORK, source=source).environment["CUDA_VISIBLE_DEVICES"] == "3"
    named = launch(HOSTED, ["x"], workdir=WORK, source=source, gpus=("GPU-a", "GPU-b"))
    assert named.environment["CUDA_VISIBLE_DEVICES"] == "GPU-a,GPU-b"


def test_the_complete_docker_command() -> None:
    started = launch(
        contained(variables={"B": "b c"}),
        ["python", "run.py"],
        workdir=WORK,
        mounts=(Path("/store"), Path("/models/a b")),
        writable=(Path("/store/out"),),
        gpus=("GPU-a", "GPU-b"),
        source={"PATH": "/bin", "EDITOR": "vi"},
        user="7:8",
    )
    assert started.argv == (
        *("docker", "run", "--rm", "--init", "--user", "7:8"),
        *("--gpus", '"device=GPU-a,GPU-b"'),
        *("--ipc=host", "--ulimit", "memlock=-1", "--ulimit", "stack=67108864"),
        *("--mount", "type=bind,src=/models/a b,dst=/models/a b,readonly=true"),
        *("--mount", "type=bind,src=/src/trt,dst=/src/trt,readonly=true"),
        *("--mount", "type=bind,src=/store,dst=/store,readonly=true"),
        *("--mount", "type=bind,src=/store/out,dst=/store/out"),
        *("--mount", "type=bind,src=/store/work,dst=/store/work"),
        *("-w", "/store/work"),
        *("-e", "HOME=/tmp", "-e", "USER=mmbuild", "-e", "PYTHONNOUSERSITE=1", "-e", "B=b c"),
        *("--network", "none", "image:tag", "python", "run.py"),
    )
    assert started.environment["PATH"] == "/bin"
    assert "EDITOR" not in started.environment


def test_podman_keeps_the_user_and_names_gpus_by_cdi() -> None:
    started = launch(contained("podman"), ["x"], workdir=WORK, gpus=("GPU-a", "GPU-b"), source={})
    assert started.argv[:4] == ("podman", "run", "--rm", "--userns=keep-id")
    assert options(started, "--device") == ["nvidia.com/gpu=GPU-a", "nvidia.com/gpu=GPU-b"]
    assert "--gpus" not in started.argv


def test_podman_raises_no_limits_because_it_may_not_without_root() -> None:
    assert options(launch(contained("podman"), ["x"], workdir=WORK, source={}), "--ulimit") == ["host"]


@pytest.mark.parametrize("engine", ["docker", "podman"])
def test_without_gpus_a_container_gets_none(engine: str) -> None:
    assert not {"--gpus", "--device"} & set(launch(contained(engine), ["x"], workdir=WORK, source={}).argv)


def test_files_in_a_container_belong_to_the_user() -> None:
    (user,) = options(launch(contained(), ["x"], workdir=WORK, source={}), "--user")
    assert user == f"{os.getuid()}:{os.getgid()}"


def test_secrets_do_not_appear_on_command_lines() -> None:
    started = launch(contained(variables={"HF_TOKEN": "hf_1234"}), ["x"], workdir=WORK, source={})
    assert "HF_TOKEN" in options(started, "-e")
    assert not any("hf_1234" in word for word in started.argv)
    assert started.environment["HF_TOKEN"] == "hf_1234"


def test_variables_of_the_shell_stay_outside_a_container() -> None:
    source = {"HF_TOKEN": "hf_1234", "DOCKER_HOST": "unix:///run/d.sock", "CUDA_VISIBLE_DEVICES": "1"}
    started = launch(contained(), ["x"], workdir=WORK, source=source)
    assert not any("HF_TOKEN" in word or "CUDA" in word for word in started.argv)
    assert started.environment["DOCKER_HOST"] == "unix:///run/d.sock"


def test_writable_paths_are_never_mounted_read_only() -> None:
    started = launch(
        contained(), ["x"], workdir=Path("/src/trt"), mounts=(WORK,), writable=(WORK,), source={}
    )
    assert options(started, "--mount") == [
        "type=bind,src=/src/trt,dst=/src/trt",
        "type=bind,src=/store/work,dst=/store/work",
    ]


@pytest.mark.parametrize("path", ["/a:b", "/a,b", '/a"b', "/a\nb", "a/b"])
@pytest.mark.parametrize("role", ["mounts", "writable", "workdir"])
def test_a_path_that_cannot_be_mounted_is_refused(path: str, role: str) -> None:
    given: dict[str, Any] = {"workdir": WORK, "source": {}}
    given[role] = Path(path) if role == "workdir" else (Path(path),)
    with pytest.raises(MmbuildError) as caught:
        launch(contained(), ["x"], **given)
    assert caught.value.code == "MM613"
    launch(HOSTED, ["x"], **given)  # a Python of this host mounts nothing


WORD = st.text(st.characters(blacklist_categories=("Cs",), blacklist_characters="\0"), max_size=12)
NAME = st.from_regex(r"[A-Z_][A-Z0-9_]{0,8}", fullmatch=True)
PATH = st.lists(st.text("ab .-'$`*\\é=", min_size=1, max_size=6), min_size=1, max_size=3).map(
    lambda parts: Path("/" + "/".join(parts))
)


@given(st.lists(WORD, max_size=5), st.dictionaries(NAME, WORD, max_size=3), st.lists(PATH, max_size=4))
def test_arguments_and_variables_arrive_unchanged(
    arguments: list[str], variables: dict[str, str], paths: list[Path]
) -> None:
    started = launch(
        contained(), ["program", *arguments], workdir=WORK, mounts=paths, variables=variables, source={}
    )
    place = started.argv.index("image:tag")
    assert list(started.argv[place + 1 :]) == ["program", *arguments]
    given_inside = {}
    for word in options(started, "-e"):
        name, equals, value = word.partition("=")
        given_inside[name] = value if equals else started.environment[name]
    assert given_inside.items() >= variables.items()
    # docker and podman read --mount as one record of CSV.
    mounts = [
        dict(field.split("=", 1) for field in next(csv.reader([word])))
        for word in options(started, "--mount")
    ]
    assert {mount["src"] for mount in mounts} == {str(path) for path in (*paths, WORK, Path("/src/trt"))}
    assert all(mount["src"] == mount["dst"] for mount in mounts)
    assert {mount["src"] for mount in mounts if "readonly" not in mount} == {str(WORK)}


@given(st.lists(st.from_regex(r"GPU-[0-9a-f]{8}", fullmatch=True), min_size=1, max_size=4, unique=True))
def test_docker_parses_every_gpu(uuids: list[str]) -> None:
    (value,) = options(launch(contained(), ["x"], workdir=WORK, gpus=uuids, source={}), "--gpus")
    (field,) = next(csv.reader([value]))
    assert field == f"device={','.join(uuids)}"


@given(st.lists(WORD.filter(lambda word: word not in ("python", "python3")), max_size=5))
def test_a_python_of_this_host_gets_the_arguments_unchanged(arguments: list[str]) -> None:
    assert launch(HOSTED, ["program", *arguments], workdir=WORK, source={}).argv == ("program", *arguments)
