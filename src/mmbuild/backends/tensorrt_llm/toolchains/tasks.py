"""Commands in groups that make one thing: what each reads, and the directory that it leaves. Pure.

Commands name their directories relative to the one that they run in, as upstream's page does. A task says which of
these directories must be filled before it runs (``reads``), and which one is its result (``makes``), so that every
task can run in a fresh directory of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mmbuild.backends.tensorrt_llm.toolchains.commands import Command, commands
from mmbuild.backends.tensorrt_llm.toolchains.model import Step, Toolchain
from mmbuild.backends.tensorrt_llm.toolchains.template_context import variables
from mmbuild.schema.resolved import ResolvedRecipe

# What lies where: a name for each directory of a toolchain's ``paths``.
PLACES: Mapping[str, str] = {
    "model": "model_dir",
    "code": "code_dir",
    "checkpoint": "checkpoint_dir",
    "llm": "engine_dir",
    "visual": "visual_dir",
}

_READS: Mapping[Step, tuple[str, ...]] = {
    "prepare": (),
    "convert": ("model", "code"),
    "quantize": ("model", "code"),
    "build_llm": ("checkpoint",),
    "build_visual": ("model", "code"),
}
_MAKES: Mapping[Step, str] = {
    "prepare": "code",
    "convert": "checkpoint",
    "quantize": "checkpoint",
    "build_llm": "llm",
    "build_visual": "visual",
}


@dataclass(frozen=True, slots=True)
class Task:
    """Commands of one step.

    Attributes:
        step: What kind of work it is.
        commands: In the order in which they run, in one directory.
        reads: Directories that must be there: a key of :data:`PLACES` to the path.
        makes: Key of :data:`PLACES` of the result.
        place: Path of the result.
        files: JSON to write where the model has no such file: path to content.
    """

    step: Step
    commands: tuple[Command, ...]
    reads: Mapping[str, str]
    makes: str
    place: str
    files: Mapping[str, Mapping[str, Any]]


def shared(toolchain: Toolchain) -> Toolchain:
    """``toolchain`` with a directory of the visual engine that names no precision and no number of ranks.

    The visual engine is the same for all of them, and where its command does not differ it is built once. Upstream's
    runner finds it where ``toolchain`` itself says.
    """
    return toolchain.model_copy(
        update={"paths": {**toolchain.paths, "visual_dir": "visual_engines/{{ model }}"}}
    )


def tasks(variant: ResolvedRecipe, toolchain: Toolchain) -> tuple[Task, ...]:
    """What makes the engines of ``variant``, producers first; downloading and asking are not among it, nor is
    what mmbuild does itself (calibration).

    Args:
        variant: The recipe.
        toolchain: From :func:`shared`, where visual engines are to be shared.

    Raises:
        ToolchainError: As :func:`~mmbuild.backends.tensorrt_llm.toolchains.commands.commands`.
    """
    found: dict[Step, list[Command]] = {}
    for command in commands(variant, toolchain):
        if command.step in _MAKES and not command.script_only:
            found.setdefault(command.step, []).append(command)
    known = variables(variant, toolchain)
    places = places_of(known)
    extra = toolchain.families[variant.recipe.model.family].model_files
    files = {f"{places['model']}/{name}": content for name, content in extra.items()}
    there = {"model", *(_MAKES[step] for step in found)}
    if known["calibrated"]:  # by mmbuild itself
        there.add("checkpoint")
    return tuple(
        Task(
            step,
            tuple(found[step]),
            {name: places[name] for name in _READS[step] if name in there},
            _MAKES[step],
            places[_MAKES[step]],
            files if "model" in _READS[step] else {},
        )
        for step in _MAKES
        if step in found
    )


def places_of(known: Mapping[str, Any]) -> dict[str, str]:
    """Path of each of :data:`PLACES`, by what
    :func:`~mmbuild.backends.tensorrt_llm.toolchains.template_context.variables` gives."""
    return {name: known[variable] for name, variable in PLACES.items()}
