"""Trivial steps that drive the whole tool: as ``MMBUILD_STEPS=support.steps.trivial:TABLE`` or as a parameter."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from mmbuild.base.errors import MmbuildError
from mmbuild.core.graph.action import Action, RecipeGraph, Resources
from mmbuild.core.graph.keys import make_action
from mmbuild.core.steps.context import StepContext, link
from mmbuild.core.steps.registry import StepSpec


def write(context: StepContext) -> None:
    """Write the parameter `text` and the text of every input."""
    parts = [str(context.params["text"])]
    parts += [(path / "text").read_text() for _, path in sorted(context.inputs.items())]
    _count(context)
    (context.out / "text").write_text("+".join(parts))


def constant(context: StepContext) -> None:
    """Write the same whatever the parameters: its consumers are cut off early."""
    _count(context)
    (context.out / "text").write_text("constant")


def copy(context: StepContext) -> None:
    """Link every file of the inputs, and add one."""
    for name, path in context.inputs.items():
        for file in path.rglob("*"):
            link(file, context.out / name / file.relative_to(path))
    (context.out / "text").write_text("copied")


def refer(context: StepContext) -> None:
    """Reference the user's file."""
    (context.out / "text").symlink_to(context.locators["file"])


def sleepy(context: StepContext) -> None:
    """Write after `seconds`."""
    _count(context)
    context.progress("sleeping", 0.5)
    time.sleep(float(context.params["seconds"]))
    (context.out / "text").write_text(str(context.params.get("text", "slept")))


def fail(context: StepContext) -> None:
    """Raise what the parameters say."""
    print("about to fail")
    if context.params["how"] == "told":
        try:
            raise ValueError("the number is odd")
        except ValueError as error:
            raise MmbuildError("the weights do not fit", code="MM999", hint="use other weights") from error
    if context.params["how"] == "bug":
        raise ZeroDivisionError("division by nothing")
    if context.params["how"] == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if context.params["how"] == "crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    if context.params["how"] == "exit":
        sys.exit(7)
    if context.params["how"] == "dangling":
        (context.out / "text").symlink_to("/nowhere/at/all")
    if context.params["how"] == "fifo":
        os.mkfifo(context.out / "pipe")
    if context.params["how"] == "full":
        import resource

        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        (context.out / "text").write_bytes(b"x" * 5000)


def judge(context: StepContext) -> None:
    """Write `paper`, and refuse the engine unless `loose`; `junk` leaves what nobody can copy."""
    (context.out / "paper").write_text("what was found")
    if context.params.get("junk"):
        os.mkfifo(context.out / "pipe")
    if not context.params.get("loose"):
        raise MmbuildError("the engine is not good enough", code="MM998", hint="be content")


def environment(context: StepContext) -> None:
    """Write the environment, the working directory's name and a grandchild's view of both."""
    lines = [f"{name}={value}" for name, value in sorted(os.environ.items())]
    (context.out / "environment").write_text("\n".join(lines))
    (context.out / "where").write_text(Path.cwd().name)
    (context.out / "cores").write_text(str(context.cores))
    (context.out / "session").write_text(str(os.getsid(0) == os.getpid()))
    (context.out / "text").write_text("environment")


def grandchild(context: StepContext) -> None:
    """Start a process that outlives the step unless somebody ends it."""
    child = subprocess.Popen(["sleep", "600"])
    Path(context.params["file"]).write_text(str(child.pid))
    time.sleep(float(context.params["seconds"]))
    (context.out / "text").write_text("done")


def held(context: StepContext) -> None:
    """Start a process, add its id to `file`, and wait until something is written into the named pipe `pipe`."""
    child = subprocess.Popen(["sleep", "600"])
    with open(context.params["file"], "a") as stream:
        stream.write(f"{child.pid}\n")
    print("held", flush=True)
    (context.out / "text").write_text(Path(context.params["pipe"]).read_text())


def noisy(context: StepContext) -> None:
    """Say something on both streams."""
    print("said", flush=True)
    print("said", file=sys.stderr, flush=True)
    (context.out / "text").write_text("noisy")


def nested(context: StepContext) -> None:
    """Write `text` at the top and in a directory."""
    write(context)
    (context.out / "inner").mkdir()
    (context.out / "inner" / "text").write_text("inner")


def allocate(context: StepContext) -> None:
    """Hold `bytes` of anonymous memory for a moment."""
    held = bytearray(int(context.params["bytes"]))
    held[::4096] = b"x" * len(range(0, len(held), 4096))
    time.sleep(0.1)
    (context.out / "text").write_text(str(len(held)))


def large(context: StepContext) -> None:
    """Write `bytes` that nothing else holds."""
    (context.out / "text").write_bytes(os.urandom(int(context.params["bytes"])))  # type: ignore[arg-type]


def wait_to_be_killed(context: StepContext) -> None:
    """Tell the process ids of this worker and of what forked it, and wait."""
    context.progress(f"{os.getpid()} {os.getppid()}", None)
    while True:
        signal.pause()


def damage(context: StepContext) -> None:
    """Change an input through a hard link, as a careless step would."""
    (path,) = context.inputs.values()
    link(path / "text", context.out / "text")
    os.chmod(context.out / "text", 0o644)
    with open(context.out / "text", "a") as stream:
        stream.write("damage")


def _count(context: StepContext) -> None:
    """Append to the file in MMBUILD_TEST_COUNT, so that tests see what really ran."""
    if path := os.environ.get("MMBUILD_TEST_COUNT"):
        with open(path, "a") as stream:
            stream.write(f"{context.params.get('name', '')}\n")


_FUNCTIONS = (
    write,
    constant,
    copy,
    refer,
    sleepy,
    fail,
    judge,
    environment,
    grandchild,
    held,
    noisy,
    nested,
    allocate,
    large,
    wait_to_be_killed,
    damage,
)
TABLE: Mapping[str, StepSpec] = {
    function.__name__: StepSpec(function.__name__, "trivial-1", f"support.steps.trivial:{function.__name__}")
    for function in _FUNCTIONS
}


def action(step: str, label: str, inputs: Mapping[str, Action] | None = None, **params: object) -> Action:
    """An action of a trivial step; ``name`` is the label so that counts tell which one ran."""
    resources = params.pop("resources", Resources())
    locators = params.pop("locators", {})
    sources = params.pop("sources", {})
    assert isinstance(resources, Resources)
    return make_action(
        label=label,
        step=step,
        version="trivial-1",
        params={"name": label, **params},
        inputs={name: producer.definition_key for name, producer in (inputs or {}).items()},
        locators=locators,  # type: ignore[arg-type]
        sources=sources,  # type: ignore[arg-type]
        resources=resources,
    )


def chain(recipe: str, text: str = "a", links: int = 3, shared: str | None = None) -> RecipeGraph:
    """A recipe of ``links`` actions in a row, ``write`` all of them; the first is shared where named."""
    first = action("write", shared or f"{recipe}/0", text=shared or text)
    actions = [first]
    for index in range(1, links):
        actions.append(action("write", f"{recipe}/{index}", {"text": actions[-1]}, text=f"{text}{index}"))
    return RecipeGraph(recipe, tuple(actions), actions[-1].definition_key)


def remove(path: Path) -> None:
    shutil.rmtree(path)
