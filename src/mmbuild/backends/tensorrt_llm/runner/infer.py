"""Runs an engine of backend tensorrt-llm through upstream's own runner."""

from __future__ import annotations

import ast
import os
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import TemplateError

from mmbuild.backends.engine_dir.description import Description
from mmbuild.backends.environments.launch import launch
from mmbuild.backends.tensorrt_llm.runner.command import CommandError, run_command
from mmbuild.backends.tensorrt_llm.runner.workdir import link_tree, linked_directories, make_workplace
from mmbuild.backends.tensorrt_llm.toolchains.commands import Command, inference_command
from mmbuild.backends.tensorrt_llm.toolchains.load import load_toolchain
from mmbuild.backends.tensorrt_llm.toolchains.model import Mode, Toolchain
from mmbuild.backends.tensorrt_llm.toolchains.template_context import DEFAULT_NEW_TOKENS, inference_context
from mmbuild.config.model import ToolchainEnvironment

# `logger.info(f"\n[A] {texts}")` up to 0.10, later `[A]: ...` for each prompt: a list with one text per beam.
_ANSWER = re.compile(r"^\[A\]:? (?P<texts>\[.*\])$")


@dataclass(frozen=True, slots=True)
class InferenceRequest:
    """Input of one run.

    Attributes:
        prompt: The user's question; None uses the runner's own.
        images: Images of the prompt; if empty, the runner uses its own image.
        max_new_tokens: Maximum length of the answer; None means the smaller of the engine's limit and upstream's 30.
        mode: ``run``, ``profile`` (times) or ``check_accuracy`` (upstream's question with its known answer).
    """

    prompt: str | None = None
    images: tuple[Path, ...] = ()
    max_new_tokens: int | None = None
    mode: Mode = "run"


@dataclass(frozen=True, slots=True)
class InferenceResult:
    """Output of the runner: the best beam of each answer, and all lines."""

    texts: tuple[str, ...]
    lines: tuple[str, ...]


def infer(
    engine: Path,
    description: Description,
    environment: ToolchainEnvironment,
    question: InferenceRequest,
    root: Path,
    *,
    gpus: Sequence[str] = (),
    on_line: Callable[[str], None] = print,
) -> InferenceResult:
    """Run upstream's runner on an engine directory.

    Args:
        engine: The engine directory.
        description: Its ``engine.json``.
        environment: Environment of the toolchain.
        question: Input of the run.
        root: Empty or absent work directory; no large files are copied into it.
        gpus: UUIDs of the GPUs to use; if empty, the visible ones.
        on_line: Called with each line of the runner's output.

    Raises:
        CommandError: MM703, the version's runner takes no images; MM706, it printed no answer; or as
            :func:`~mmbuild.backends.tensorrt_llm.runner.command.run_command`.
    """
    known = description.llm["variables"]
    toolchain = _toolchain(description)
    if question.images and not takes_images(description):
        raise CommandError(
            f"the runner of TensorRT-LLM {toolchain.version} has one built-in image for {known['family']} and "
            "accepts no other",
            code="MM703",
            hint="run without an image to check that the engine works; a build with toolchain '1.2' or backend torch "
            "accepts images",
        )
    places = description.llm["places"]
    cwd = make_workplace(root, environment.examples, toolchain.workdir, places.values())
    directories = {name: cwd / place for name, place in places.items() if (engine / name).is_dir()}
    for name, place in directories.items():
        link_tree(engine / name, place, symbolic=True)
    entry = toolchain.families[known["family"]]
    limit = known["max_output_len"]
    tokens = min(question.max_new_tokens or DEFAULT_NEW_TOKENS, limit)
    stated = question.prompt is not None or bool(question.images) or question.max_new_tokens is not None
    command = _inference_command(
        toolchain,
        known,
        inference_context(
            entry, question.mode, question.prompt, _pictures(question.images, cwd), tokens, stated=stated
        ),
    )
    started = launch(
        environment,
        command.argv,
        workdir=cwd,
        mounts=linked_directories(directories, (engine,)),
        writable=(root,),
        variables=dict(command.environment),
        gpus=gpus,
    )
    lines = run_command("run.py", started, cwd, toolchain.version, on_line)
    texts = answers(lines)
    if not texts and question.mode == "run":
        raise CommandError(
            "run.py exited with status 0 but printed no answer",
            code="MM706",
            hint="read its output; docs/toolchains.md describes the format of answers",
        )
    return InferenceResult(texts, lines)


def takes_images(description: Description) -> bool:
    """Whether the runner of the engine's toolchain accepts images for its family."""
    known: dict[str, Any] = description.llm["variables"]
    toolchain = _toolchain(description)
    entry = toolchain.families[known["family"]]
    commands = {}
    for image in (None, "image"):
        context = inference_context(entry, "run", None, image, 1, stated=True)
        commands[image] = _inference_command(toolchain, known, context).argv
    return commands[None] != commands["image"]


def _toolchain(description: Description) -> Toolchain:
    """The toolchain of an engine.

    Raises:
        ToolchainError: MM601, MM602, its version is unknown.
        CommandError: MM768, that version does not have its family.
    """
    version, known = description.toolchain["tensorrt-llm"], description.llm["variables"]
    if missing := {"family", "max_output_len"} - known.keys():
        raise _unknown(f"lacks `llm.variables.{min(missing)}`")
    family = known["family"]
    toolchain = load_toolchain(version)
    if family not in toolchain.families:
        raise _unknown(f"is of family {family}, which TensorRT-LLM {version} does not run")
    return toolchain


def _inference_command(toolchain: Toolchain, known: Mapping[str, Any], context: Mapping[str, Any]) -> Command:
    """The runner's command.

    Raises:
        CommandError: MM768, a value that the command needs is missing from engine.json or has the wrong type.
    """
    try:
        return inference_command(toolchain, known, context)
    except (KeyError, TypeError, ValueError, TemplateError) as error:
        raise _unknown(
            f"has missing or invalid values for the runner's command: {type(error).__name__}: {error}"
        ) from error


def _unknown(problem: str) -> CommandError:
    return CommandError(
        f"the engine's engine.json {problem}", code="MM768", hint="apply its recipe again with this mmbuild"
    )


def answers(lines: Sequence[str]) -> tuple[str, ...]:
    """The best beam of each answer in the runner's output."""
    best = []
    for line in lines:
        match = _ANSWER.match(line)
        if match is not None:
            try:
                texts = ast.literal_eval(match["texts"])
            except (ValueError, SyntaxError):
                continue
            if texts and isinstance(texts[0], str):
                best.append(texts[0].strip())
    return tuple(best)


def _pictures(images: Sequence[Path], cwd: Path) -> str | None:
    """Copies of ``images`` next to the scripts, with neutral names; comma-separated."""
    names = []
    for number, image in enumerate(images):
        name = f"picture{number}{image.suffix.lower()}"
        shutil.copyfile(image, cwd / name)
        os.chmod(cwd / name, 0o644)
        names.append(name)
    return ",".join(names) or None
