"""The console blocks of README.md and of all pages of docs/ are run, and print what the page shows.

Every line after `$ ` runs in a scratch project with the recipes and examples of the repository. Its standard output
and standard error together are compared with the lines below it. On a page, a line `...` stands for any number of
lines, `...` within a line for any text, and numbers of seconds and sizes are not compared. Commands of a block that
shows no output must succeed. A line after `> ` is typed. A server runs until the end of the session, at a free port
instead of 8000.

A block that no test below takes, for example to prepare what it needs, runs as it is: :data:`PLAIN`. Commands that
cannot run on a machine without network, GPU and TensorRT-LLM are listed in :data:`SKIPPED`.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from support import TESTS
from support.engines.first_apply import compiled_store
from support.engines.loaded import demo_directory
from support.pages import ROOT, Block, blocks, session
from support.screen import without_volatile

README = ROOT / "README.md"
REAL_RECIPE = "recipes/llava-7b.yaml"
SERVER = ".venv/bin/mmbuild serve"

_INSTALLS = "installs packages"
_RAY = "needs nodes of a Ray cluster"
_TENSORRT_LLM = "needs TensorRT-LLM and a GPU"
SKIPPED: Mapping[str, Mapping[str, str]] = {
    "README.md": {
        "make demo": "installs mmbuild, then builds what an earlier block has built",
        f"mmbuild doctor {REAL_RECIPE}": "prints what this host has",
        f"mmbuild apply {REAL_RECIPE}": "downloads 14 GB from the hub",
    },
    "docs/cluster.md": {
        "pip install -e '.[ray]'": _INSTALLS,
        "mmbuild apply recipes/demo/*.yaml --executor ray --address auto": _RAY,
        "ray start --head --port=6379 --num-cpus=4": _RAY,
        "ray start --address=HEAD:6379 --num-gpus=8 --resources='{\"sm90\": 8}'": _RAY,
        "ray start --address=HEAD:6379 --num-gpus=4 --resources='{\"sm80\": 4}'": _RAY,
    },
    "docs/tensor-parallel.md": {"pip install -e '.[torch,mpi]'": _INSTALLS},
    "docs/tensorrt-llm.md": {
        "mmbuild apply recipes/llava-int4.yaml": f"{_TENSORRT_LLM}, except for its refusal",
        'mmbuild run build/llava-1.5-7b-int4 --image a.png --prompt "What is this?"': _TENSORRT_LLM,
        "mmbuild run build/llava-1.5-7b-int4 --profile": _TENSORRT_LLM,
        "mmbuild verify build/llava-1.5-7b-int4": _TENSORRT_LLM,
        "mmbuild compat build/llava-1.5-7b-int4": _TENSORRT_LLM,
    },
    "docs/toolchains.md": {
        "TRTLLM_ROOT=~/TensorRT-LLM ./llava-int4.sh": _TENSORRT_LLM,
        "TRTLLM_ROOT=~/TensorRT-LLM ./llava-int4.sh profile": _TENSORRT_LLM,
    },
    "docs/visual-engines.md": {
        f"mmbuild apply {REAL_RECIPE} --set visual.backend=tensorrt": "needs TensorRT and a GPU",
    },
}
"""Commands that are not run, without a comment at their end, and why, by page."""


def page_of(block: Block) -> str:
    return block.page.relative_to(ROOT).as_posix()


def bare(command: str) -> str:
    """``command`` without a comment at its end."""
    return re.sub(r"\s+# .*", "", command)


def runnable(block: Block) -> list[tuple[str, str]]:
    """The commands of a block that are not skipped, each with the output shown below it."""
    skipped = SKIPPED.get(page_of(block), {})
    return [(command, shown) for command, shown in session(block) if bare(command) not in skipped]


def console(page: Path) -> list[Block]:
    found = [block for block in blocks(page) if block.language == "console"]
    assert len(found) == page.read_text("utf-8").count("```console"), f"{page} has a block that is not read"
    return found


BLOCKS = [block for page in (README, *sorted((ROOT / "docs").rglob("*.md"))) for block in console(page)]
_TAKEN: set[Block] = set()


def taken(page: str, sought: str = "") -> list[Block]:
    """The blocks of ``page`` in which the pattern ``sought`` is found, which the caller runs, not :data:`PLAIN`."""
    found = [block for block in BLOCKS if page_of(block) == page and re.search(sought, block.text, re.M)]
    assert found, f"{page} has no block with {sought}"
    _TAKEN.update(found)
    return found


# Compile an engine, or need one; they run on a copy of the store that other tests have compiled.
README_BUILDS = taken("README.md", r"^\$ (mmbuild (apply recipes/demo|run)|make demo|curl)")
TUTORIAL, RANKS = taken("docs/tutorial.md"), taken("docs/tensor-parallel.md")
# Show an engine that tests have compiled.
EVAL, GATES = taken("docs/eval.md"), taken("docs/gates.md")
CHAT, COMPAT = taken("docs/serving.md", "mmbuild chat"), taken("docs/environments.md", "^\\$ mmbuild compat")
# For TensorRT-LLM, which this machine must not have.
REFUSED = [*taken("docs/environments.md", "^\\$ mmbuild doctor"), *taken("docs/tensorrt-llm.md", "^error: ")]
# Need files, a repository or a sequence of builds.
CHANGES, CHECKPOINTS = taken("docs/changes.md"), taken("docs/hand-over.md")
CONFIG, SCRIPT = taken("docs/environments.md", "^\\$ mmbuild config"), taken("docs/toolchains.md")
KEYGEN, PUSH = taken("docs/shared-store.md", "cache keygen"), taken("docs/shared-store.md", "cache push")
CI, RAY = taken("docs/ci.md", "^\\$ mmbuild ci diff"), taken("docs/cluster.md", "mmbuild apply")

_ON_README = {block.text for block in console(README)}
PLAIN = [
    block
    for block in BLOCKS
    if block not in _TAKEN and (block.page == README or block.text not in _ON_README) and runnable(block)
]
"""All other blocks with something to run, except for what other pages show of README.md."""


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """Variables of a scratch project in ``tmp_path``, with `mmbuild` on PATH and no network."""
    for name in ("recipes", "examples"):
        shutil.copytree(ROOT / name, tmp_path / name)
    (tmp_path / "mmbuild.yaml").touch()
    program = tmp_path / "bin" / "mmbuild"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m mmbuild "$@"\n')
    program.chmod(0o755)
    for name in (".venv", "home"):
        (tmp_path / name).mkdir()
    (tmp_path / ".venv" / "bin").symlink_to(program.parent)
    outside = ("MMBUILD_", "XDG_")  # where this machine's user keeps settings
    return {
        **{name: value for name, value in os.environ.items() if not name.startswith(outside)},
        "HOME": str(tmp_path / "home"),
        "PATH": f"{program.parent}:{os.environ['PATH']}",
        "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(TESTS)]),
        "MMBUILD_STORE": str(tmp_path / "store"),
        "HF_HUB_OFFLINE": "1",
        "NO_COLOR": "1",
    }


def pattern(shown: str) -> re.Pattern[str]:
    """Matches the outputs that the lines on a page stand for; an empty line at the end of a block is layout."""
    text = re.escape(shown)
    text = re.sub(r"^\\\.\\\.\\\.\\\n", r"(.*\n)*?", text, flags=re.M)
    text = re.sub(r"^\\\.\\\.\\\.\Z", r"(.*\n)*.*", text, flags=re.M)
    return re.compile(text.replace(r"\.\.\.", ".*"))


HOST = (
    (r"\b\d+\.\d GB\b", "N GB"),
    (r"\b3\.\d+\.\d+$", "PYTHON"),
    (r"\b\d+\.\d+\.\d+\+\w+", "TORCH"),
    (r"\bavx\w+", "ISA"),
    (r"\b\d+\.\d min\b", "N s"),
    (r" {2,}", "  "),
)
"""What depends on the machine, and the widths of tables with it."""


def without_host(text: str) -> str:
    """``text`` as :func:`without_volatile` gives it, without what depends on the machine."""
    for sought, name in HOST:
        text = re.sub(sought, name, text, flags=re.M)
    return re.sub(r" +N s\b", " N s", without_volatile(text))


def run(
    commands: Iterable[tuple[str, str]],
    root: Path,
    environment: dict[str, str],
    hide: Callable[[str], str] = without_volatile,
) -> None:
    """Run ``commands`` and compare what they print; ``hide`` replaces what is not compared."""
    commands = list(commands)
    silent = not any(shown for _, shown in commands)
    port = free_port()
    with ExitStack() as servers:
        for command, shown in commands:
            if command.startswith("mmbuild apply") and (root / "compiled").exists():
                shutil.rmtree(
                    root / "store", ignore_errors=True
                )  # left by `plan`, which shows an empty store
                (root / "compiled").rename(root / "store")
            if command.startswith(SERVER):
                line = f"exec {command} --port {port}"
                printed = servers.enter_context(started(line, shown.count("\n"), root, environment))
            else:
                typed = "".join(re.findall(r"^> (.*\n)", shown, re.M))
                done = completed(command.replace(":8000", f":{port}"), root, environment, typed)
                printed = done.stdout
                if silent:
                    assert done.returncode == 0, f"$ {command}\n{printed}"
                    continue
            printed = hide(printed.replace(f"{root}/", "").replace(f":{port}", ":8000"))
            expected = hide(re.sub(r"^> .*\n", "", shown, flags=re.M))
            # What `curl` prints has no line end, and an empty line ends a block.
            assert pattern(expected.rstrip("\n")).fullmatch(printed.rstrip("\n")), f"$ {command}\n{printed}"


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as bound:
        return int(bound.getsockname()[1])


def completed(
    command: str, root: Path, environment: dict[str, str], typed: str = ""
) -> subprocess.CompletedProcess[str]:
    """What a command prints, with ``typed`` as its input."""
    return subprocess.run(
        ["bash", "-c", command],
        cwd=root,
        env=environment,
        input=typed,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=500,
        check=False,
    )


@contextmanager
def started(command: str, lines: int, root: Path, environment: dict[str, str]) -> Iterator[str]:
    """The first ``lines`` lines that a server prints; it ends as it should at the end."""
    with subprocess.Popen(
        ["bash", "-c", command],
        cwd=root,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as server:
        try:
            assert server.stdout is not None
            yield "".join(server.stdout.readline() for _ in range(lines))
        finally:
            server.terminate()
            assert server.wait(60) == 0


@pytest.mark.parametrize("block", PLAIN, ids=lambda block: block.name)
def test_a_block(block: Block, tmp_path: Path, environment: dict[str, str]) -> None:
    run(runnable(block), tmp_path, environment)


def test_skipped_commands_are_on_their_page() -> None:
    shown = {(page_of(block), bare(command)) for block in BLOCKS for command, _ in session(block)}
    listed = {(page, command) for page, commands in SKIPPED.items() for command in commands}
    assert listed - shown == set()


def test_the_recipe_of_the_readme_is_the_file_that_it_plans() -> None:
    (shown,) = (block.text for block in blocks(README) if block.title == REAL_RECIPE)
    written = (ROOT / REAL_RECIPE).read_text("utf-8").splitlines(keepends=True)
    assert shown == "".join(line for line in written if not line.startswith("#"))
    assert f"$ mmbuild plan {REAL_RECIPE}\n" in README.read_text("utf-8")


@pytest.mark.parametrize(("page", "count"), [("README.md", 1), ("serving.md", 2)])
def test_the_first_blocks_of_other_pages_are_those_of_the_readme(page: str, count: int) -> None:
    assert {block.text for block in console(ROOT / "docs" / page)[:count]} <= _ON_README


def test_the_readme_is_short() -> None:
    assert len(README.read_text("utf-8").splitlines()) < 120


@pytest.mark.parametrize("block", REFUSED, ids=lambda block: block.name)
def test_pages_about_tensorrt_llm_without_it(
    block: Block, tmp_path: Path, environment: dict[str, str]
) -> None:
    run(session(block), tmp_path, {**environment, "CUDA_VISIBLE_DEVICES": ""}, without_host)


def test_the_page_about_environments_configures_them(tmp_path: Path, environment: dict[str, str]) -> None:
    (block,) = CONFIG
    for path in re.findall(r"~/(\S+)", block.text):
        (tmp_path / "home" / path).mkdir(parents=True)
    run(runnable(block), tmp_path, environment)


@pytest.mark.slow
def test_the_page_about_changes(tmp_path: Path, environment: dict[str, str]) -> None:
    """With steps that take no time."""
    environment["MMBUILD_STEPS"] = "support.steps.recipe_steps:TABLE"
    apply, recipe = "mmbuild apply recipes/demo/llava-int4.yaml", "recipes/demo/llava.yaml"
    why, difference, history = CHANGES
    completed(apply, tmp_path, environment)
    completed(f"sed -i 's/max_batch_size: 4/max_batch_size: 3/' {recipe}", tmp_path, environment)
    run(session(why), tmp_path, environment)
    completed(apply, tmp_path, environment)
    completed(f"sed -i 's/max_batch_size: 3/max_batch_size: 4/' {recipe}; {apply}", tmp_path, environment)
    run(session(history), tmp_path, environment, without_host)
    completed(f"{apply} --build-dir from-ci", tmp_path, environment)
    run(session(difference), tmp_path, environment)


@pytest.mark.slow
def test_the_page_about_ci(tmp_path: Path, environment: dict[str, str]) -> None:
    """With steps that take no time, in a repository."""
    environment["MMBUILD_STEPS"] = "support.steps.recipe_steps:TABLE"
    commit = "git add recipes examples && git -c user.name=A -c user.email=a@example.org commit -qm A"
    made = completed(
        f"git init -q . && {commit} && git update-ref refs/remotes/origin/main HEAD", tmp_path, environment
    )
    assert made.returncode == 0, made.stdout
    (block,) = CI
    run(runnable(block), tmp_path, environment)


@pytest.mark.slow
def test_the_page_about_clusters(tmp_path: Path, environment: dict[str, str]) -> None:
    """With steps that take no time."""
    (block,) = RAY
    run(runnable(block), tmp_path, {**environment, "MMBUILD_STEPS": "support.steps.recipe_steps:TABLE"})


@pytest.mark.slow
def test_the_page_about_checkpoints(tmp_path: Path, environment: dict[str, str]) -> None:
    (block,) = CHECKPOINTS
    run(runnable(block), tmp_path, environment)


def test_the_page_about_shared_stores_makes_a_key(tmp_path: Path, environment: dict[str, str]) -> None:
    (block,) = KEYGEN
    ((command, shown),) = session(block)
    key = re.compile(r"^ed25519:[A-Za-z0-9+/]{43}=\n\Z", re.M)
    printed = completed(command, tmp_path, environment).stdout
    assert key.match(shown)
    assert key.search(printed)
    settings = tmp_path / "home" / ".config" / "mmbuild"
    assert settings.stat().st_mode & 0o777 == 0o700
    assert (settings / "signing.pem").stat().st_mode & 0o777 == 0o600


@pytest.mark.slow
def test_the_page_about_shared_stores_publishes_and_pulls(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    """With steps that take no time, and a directory for the store."""
    (tmp_path / "remote").mkdir()
    environment["MMBUILD_STEPS"] = "support.steps.recipe_steps:TABLE"
    completed("mmbuild apply recipes/demo/llava.yaml", tmp_path, environment)
    environment["MMBUILD_REMOTE"] = f"file://{tmp_path / 'remote'}"
    (block,) = PUSH
    run(runnable(block), tmp_path, environment)
    assert any(path.is_file() for path in (tmp_path / "remote").rglob("*"))


def test_the_page_about_toolchains_writes_a_script(tmp_path: Path, environment: dict[str, str]) -> None:
    (block,) = SCRIPT
    run(runnable(block), tmp_path, environment)
    assert completed("bash -n llava-int4.sh && echo good", tmp_path, environment).stdout == "good\n"


def link_engines(root: Path) -> None:
    """Engines of the demo model in ``build/``, under the names that the demo recipes give them."""
    (root / "build").mkdir()
    for name, arguments in (("llava-shapes", ()), ("llava-shapes-int4", ("float32", "int4"))):
        (root / "build" / name).symlink_to(demo_directory(*arguments))


@pytest.mark.slow
def test_the_page_about_gates_shows_the_rows_of_a_comparison(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    link_engines(tmp_path)
    (block,) = GATES
    ((command, shown),) = session(block)

    def titles(text: str) -> list[str]:
        return [re.split(r" {2,}", line)[0] for line in text.splitlines()]

    printed = titles(completed(command, tmp_path, environment).stdout)
    assert {"family", "dtype", "quantization", "weights", "packages"} <= set(printed)
    # These engines were not built by an apply, and not measured.
    assert printed == [title for title in titles(shown) if title in printed]


@pytest.mark.slow
@pytest.mark.parametrize("block", [*EVAL, *CHAT, *COMPAT], ids=lambda block: block.name)
def test_pages_that_use_an_engine(block: Block, tmp_path: Path, environment: dict[str, str]) -> None:
    link_engines(tmp_path)
    run(runnable(block), tmp_path, environment, without_host if block in COMPAT else without_volatile)


@pytest.mark.extended
@pytest.mark.parametrize("chosen", [README_BUILDS, TUTORIAL], ids=["README.md", "tutorial.md"])
def test_a_build_with_the_real_steps(
    chosen: list[Block],
    tmp_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
    environment: dict[str, str],
) -> None:
    compiled_store(tmp_path_factory, tmp_path / "compiled")
    run((pair for block in chosen for pair in runnable(block)), tmp_path, environment)


@pytest.mark.extended
def test_the_page_about_ranks(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, environment: dict[str, str]
) -> None:
    page = ROOT / "docs" / "tensor-parallel.md"
    compiled_store(tmp_path_factory, tmp_path / "compiled")
    installed = Path(sys.executable).parent
    root = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    environment |= {"PATH": f"{environment['PATH']}:{installed}", **root}
    (program,) = (block.text for block in blocks(page) if block.text.startswith("# ask.py"))
    (tmp_path / "ask.py").write_text(program)
    build, own = RANKS
    run(runnable(build), tmp_path, environment)
    run(
        [(command.replace("python", sys.executable), shown) for command, shown in runnable(own)],
        tmp_path,
        environment,
    )
