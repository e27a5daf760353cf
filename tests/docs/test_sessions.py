"""The console blocks of README.md and of some pages of docs/ are run, and print what the page shows.

Every line after `$ ` runs in a scratch project with the recipes and examples of the repository. Its standard output
and standard error together are compared with the lines below it. On a page, a line `...` stands for any number of
lines, `...` within a line for any text, and numbers of seconds and sizes are not compared. A server runs until the
end of the session, at a free port instead of 8000.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from support import TESTS
from support.engines.first_apply import compiled_store
from support.engines.loaded import demo_directory
from support.pages import ROOT, Block, blocks, session
from support.screen import without_volatile

README, TUTORIAL = ROOT / "README.md", ROOT / "docs" / "tutorial.md"
EVAL, TROUBLESHOOTING = ROOT / "docs" / "eval.md", ROOT / "docs" / "troubleshooting.md"
CHANGES, HAND_OVER = ROOT / "docs" / "changes.md", ROOT / "docs" / "hand-over.md"
REAL_RECIPE = "recipes/llava-7b.yaml"
SERVER = ".venv/bin/mmbuild serve"
SKIPPED = {
    "make demo": "installs mmbuild, then builds what an earlier block has built",
    f"mmbuild doctor {REAL_RECIPE}": "prints what this host has",
    f"mmbuild apply {REAL_RECIPE}": "downloads 14 GB from the hub",
}
"""Commands that are not run, and why; ``test_commands.py`` checks that they exist."""

BUILDS = re.compile(r"^\$ (mmbuild (apply recipes/demo|run|verify)|make demo|curl)", re.M)
"""Blocks that compile an engine or need one. They run on a copy of the store that other tests have compiled."""


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
    (tmp_path / ".venv").mkdir()
    (tmp_path / ".venv" / "bin").symlink_to(program.parent)
    return {
        **os.environ,
        "PATH": f"{program.parent}:{os.environ['PATH']}",
        "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(TESTS)]),
        "MMBUILD_STORE": str(tmp_path / "store"),
        "HF_HUB_OFFLINE": "1",
        "NO_COLOR": "1",
    }


def pattern(shown: str) -> re.Pattern[str]:
    """Matches the outputs that the lines on a page stand for; an empty line at the end of a block is layout."""
    text = re.escape(without_volatile(shown))
    text = re.sub(r"^\\\.\\\.\\\.\\\n", r"(.*\n)*?", text, flags=re.M)
    text = re.sub(r"^\\\.\\\.\\\.\Z", r"(.*\n)*.*", text, flags=re.M)
    return re.compile(text.replace(r"\.\.\.", ".*"))


HOST = (
    (r"\b\d+\.\d GB\b", "N GB"),
    (r"\b3\.\d+\.\d+$", "PYTHON"),
    (r"\b\d+\.\d min\b", "N s"),
    (r" {2,}", "  "),
)
"""What depends on the machine, and the widths of tables with it."""


def without_host(text: str) -> str:
    """``text`` as :func:`without_volatile` gives it, without what depends on the machine."""
    for sought, name in HOST:
        text = re.sub(sought, name, text, flags=re.M)
    return re.sub(r" +N s\b", " N s", without_volatile(text))


def run_anywhere(block: Block, root: Path, environment: dict[str, str]) -> None:
    """As :func:`run`, for commands that print what a machine has, or how long it took."""
    for command, shown in session(block):
        printed = without_host(completed(command, root, environment).replace(f"{root}/", ""))
        assert pattern(without_host(shown).rstrip("\n")).fullmatch(printed.rstrip("\n")), (
            f"$ {command}\n{printed}"
        )


def run(commands: Iterable[tuple[str, str]], root: Path, environment: dict[str, str]) -> None:
    port = free_port()
    with ExitStack() as servers:
        for command, shown in commands:
            if command in SKIPPED:
                continue
            if command.startswith("mmbuild apply") and (root / "compiled").exists():
                shutil.rmtree(
                    root / "store", ignore_errors=True
                )  # left by `plan`, which shows an empty store
                (root / "compiled").rename(root / "store")
            if command.startswith(SERVER):
                line = f"exec {command} --port {port}"
                printed = servers.enter_context(started(line, shown.count("\n"), root, environment))
            else:
                printed = completed(command.replace(":8000", f":{port}"), root, environment)
            printed = without_volatile(printed.replace(f"{root}/", "").replace(f":{port}", ":8000"))
            # What `curl` prints has no line end, and an empty line ends a block.
            assert pattern(shown.rstrip("\n")).fullmatch(printed.rstrip("\n")), f"$ {command}\n{printed}"


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as bound:
        return int(bound.getsockname()[1])


def completed(command: str, root: Path, environment: dict[str, str]) -> str:
    """What a command prints."""
    done = subprocess.run(
        ["bash", "-c", command],
        cwd=root,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=500,
        check=False,
    )
    return done.stdout


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


def console(page: Path) -> list[Block]:
    return [block for block in blocks(page) if block.language == "console"]


@pytest.mark.parametrize(
    "block",
    [block for block in console(README) if not BUILDS.search(block.text)],
    ids=lambda block: block.name,
)
def test_readme(block: Block, tmp_path: Path, environment: dict[str, str]) -> None:
    run(session(block), tmp_path, environment)


def test_the_recipe_of_the_readme_is_the_file_that_it_plans() -> None:
    (shown,) = (block.text for block in blocks(README) if block.title == REAL_RECIPE)
    written = (ROOT / REAL_RECIPE).read_text("utf-8").splitlines(keepends=True)
    assert shown == "".join(line for line in written if not line.startswith("#"))
    assert f"$ mmbuild plan {REAL_RECIPE}\n" in README.read_text("utf-8")


def test_the_first_page_of_the_documentation_shows_commands_of_the_readme() -> None:
    (block,) = console(ROOT / "docs" / "README.md")
    assert block.text in [shown.text for shown in console(README)]


def test_the_readme_is_short() -> None:
    assert len(README.read_text("utf-8").splitlines()) < 120


PLANS = [
    block
    for block in console(ROOT / "docs" / "ci.md")
    if block.text.startswith(("$ mmbuild ci plan recipes/opt", "$ mmbuild ci run recipes/demo --shards 3"))
]
"""Blocks of docs/ci.md that only plan; the others need a CI service, a hub or a GPU."""


@pytest.mark.parametrize("block", [*console(TROUBLESHOOTING), *PLANS], ids=lambda block: block.name)
def test_pages_that_build_nothing(block: Block, tmp_path: Path, environment: dict[str, str]) -> None:
    run(session(block), tmp_path, environment)


REFUSED = [
    block
    for name, start in (("environments.md", "$ mmbuild doctor"), ("tensorrt-llm.md", "$ mmbuild apply"))
    for block in console(ROOT / "docs" / name)
    if block.text.startswith(start) and block.text.count("$ ") == 1
]
"""Blocks for TensorRT-LLM, which this machine must not have."""


@pytest.mark.parametrize("block", REFUSED, ids=lambda block: block.name)
def test_pages_about_tensorrt_llm_without_it(
    block: Block, tmp_path: Path, environment: dict[str, str]
) -> None:
    hidden = {"MMBUILD_CONFIG": str(tmp_path / "config.yaml"), "CUDA_VISIBLE_DEVICES": ""}
    run_anywhere(block, tmp_path, {**environment, **hidden})


@pytest.mark.slow
def test_the_page_about_changes(tmp_path: Path, environment: dict[str, str]) -> None:
    """With steps that take no time."""
    environment["MMBUILD_STEPS"] = "support.steps.recipe_steps:TABLE"
    apply, recipe = "mmbuild apply recipes/demo/llava-int4.yaml", "recipes/demo/llava.yaml"
    why, _, history = console(CHANGES)
    completed(apply, tmp_path, environment)
    completed(f"sed -i 's/max_batch_size: 4/max_batch_size: 3/' {recipe}", tmp_path, environment)
    run(session(why), tmp_path, environment)
    completed(apply, tmp_path, environment)
    completed(f"sed -i 's/max_batch_size: 3/max_batch_size: 4/' {recipe}; {apply}", tmp_path, environment)
    run_anywhere(history, tmp_path, environment)


@pytest.mark.slow
def test_the_page_about_checkpoints(tmp_path: Path, environment: dict[str, str]) -> None:
    (block,) = console(HAND_OVER)
    run(session(block), tmp_path, environment)


def test_the_page_about_shared_stores_makes_a_key(tmp_path: Path, environment: dict[str, str]) -> None:
    *_, block = console(ROOT / "docs" / "shared-store.md")
    ((command, shown),) = session(block)
    key = re.compile(r"^ed25519:[A-Za-z0-9+/]{43}=\n\Z", re.M)
    printed = completed(
        command, tmp_path, {**environment, "HOME": str(tmp_path)}
    )  # in which there is no .config
    assert key.match(shown)
    assert key.search(printed)
    assert (tmp_path / ".config" / "mmbuild").stat().st_mode & 0o777 == 0o700
    assert (tmp_path / ".config" / "mmbuild" / "signing.pem").stat().st_mode & 0o777 == 0o600


@pytest.mark.slow
def test_the_page_about_shared_stores_publishes_and_pulls(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    """With steps that take no time, and a directory for the store."""
    (tmp_path / "remote").mkdir()
    environment["MMBUILD_STEPS"] = "support.steps.recipe_steps:TABLE"
    completed("mmbuild apply recipes/demo/llava.yaml", tmp_path, environment)
    environment["MMBUILD_REMOTE"] = f"file://{tmp_path / 'remote'}"
    (block,) = (found for found in console(ROOT / "docs" / "shared-store.md") if "cache push" in found.text)
    for command, _ in session(block):
        printed = completed(f"{command}\n echo status $?", tmp_path, environment)
        assert printed.endswith("status 0\n"), printed
    assert any(path.is_file() for path in (tmp_path / "remote").rglob("*"))


def test_the_page_about_toolchains_writes_a_script(tmp_path: Path, environment: dict[str, str]) -> None:
    (block,) = console(ROOT / "docs" / "toolchains.md")
    (write, _), *uses = session(block)
    assert completed(write, tmp_path, environment) == "wrote `llava-int4.sh`\n"
    assert completed("bash -n llava-int4.sh && echo good", tmp_path, environment) == "good\n"
    assert all("./llava-int4.sh" in command for command, _ in uses)


@pytest.mark.slow
def test_the_page_about_gates_shows_the_rows_of_a_comparison(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    (tmp_path / "build").mkdir()
    for name, arguments in (("llava-shapes", ()), ("llava-shapes-int4", ("float32", "int4"))):
        (tmp_path / "build" / name).symlink_to(demo_directory(*arguments))
    (block,) = console(ROOT / "docs" / "gates.md")
    ((command, shown),) = session(block)

    def titles(text: str) -> list[str]:
        return [re.split(r" {2,}", line)[0] for line in text.splitlines()]

    printed = titles(completed(command, tmp_path, environment))
    assert {"family", "dtype", "quantization", "weights", "packages"} <= set(printed)
    # These engines were not built by an apply, and not measured.
    assert printed == [title for title in titles(shown) if title in printed]


def test_the_page_about_serving_shows_commands_of_the_readme() -> None:
    shown = [pair for block in console(README) for pair in session(block)]
    first, second, _ = console(ROOT / "docs" / "serving.md")
    commands = [command for command, _ in shown]
    assert [command for command, _ in session(first)] == ["make demo", f"{SERVER} build/llava-shapes-int4"]
    assert {command for command, _ in session(first)} <= set(commands)
    assert session(second)[0] in shown


def test_blocks_of_other_pages_are_found() -> None:
    assert len(PLANS) == 2
    assert len(REFUSED) == 2
    assert len(console(TROUBLESHOOTING)) == 3


@pytest.mark.extended
@pytest.mark.parametrize(
    "chosen",
    [[block for block in console(README) if BUILDS.search(block.text)], console(TUTORIAL)],
    ids=["README.md", "tutorial.md"],
)
def test_a_build_with_the_real_steps(
    chosen: list[Block],
    tmp_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
    environment: dict[str, str],
) -> None:
    compiled_store(tmp_path_factory, tmp_path / "compiled")
    run((pair for block in chosen for pair in session(block)), tmp_path, environment)


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
    build, own = console(page)
    run([pair for pair in session(build) if not pair[0].startswith("pip install")], tmp_path, environment)
    run(
        [(command.replace("python", sys.executable), shown) for command, shown in session(own)],
        tmp_path,
        environment,
    )


@pytest.mark.slow
def test_eval_page(tmp_path: Path, environment: dict[str, str]) -> None:
    (tmp_path / "build").mkdir()
    (tmp_path / "build" / "llava-shapes").symlink_to(demo_directory())
    for block in console(EVAL):
        run(session(block), tmp_path, environment)


def test_skipped_commands_are_on_a_page() -> None:
    shown = README.read_text("utf-8") + TUTORIAL.read_text("utf-8")
    assert [command for command in SKIPPED if f"$ {command}\n" not in shown] == []
