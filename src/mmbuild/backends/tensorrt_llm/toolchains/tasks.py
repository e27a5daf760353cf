"""Groups of commands that build one artifact: the directories each reads, and the one it writes. Pure.

Commands name directories relative to their working directory, as upstream's page does. A task lists which of these
must be filled before it runs (``reads``) and which one is its result (``makes``), so that every task can run in a
fresh directory.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mmbuild.backends.tensorrt_llm.toolchains.commands import Command, commands
from mmbuild.backends.tensorrt_llm.toolchains.model import Step, Toolchain
from mmbuild.backends.tensorrt_llm.toolchains.template_context import variables
from mmbuild.schema.resolved import ResolvedRecipe

# Names of the directories in a toolchain's ``paths``.
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
        step: Kind of work.
        commands: Commands in execution order, run in one directory.
        reads: Required directories: key of :data:`PLACES` to path.
        makes: Key of :data:`PLACES` of the result.
        place: Path of the result.
        files: JSON files to write if the model does not have them: path to content.
    """

    step: Step
    commands: tuple[Command, ...]
    reads: Mapping[str, str]
    makes: str
    place: str
    files: Mapping[str, Mapping[str, Any]]


def shared(toolchain: Toolchain) -> Toolchain:
    """``toolchain`` with a visual engine directory that does not depend on precision and number of ranks.

    The visual engine does not depend on them either, so it is built once for all variants with the same command.
    Upstream's runner still uses the path in ``toolchain`` itself.
    """
    return toolchain.model_copy(
        update={"paths": {**toolchain.paths, "visual_dir": "visual_engines/{{ model }}"}}
    )


def tasks(variant: ResolvedRecipe, toolchain: Toolchain) -> tuple[Task, ...]:
    """The tasks that build the engines of ``variant``, producers first; without downloads, runs, and calibration by
    mmbuild itself.

    Args:
        variant: The recipe.
        toolchain: From :func:`shared` if visual engines are to be shared.

    Raises:
        ToolchainError: As :func:`~mmbuild.backends.tensorrt_llm.toolchains.commands.commands`.
    """
    by_step: dict[Step, list[Command]] = {}
    for command in commands(variant, toolchain):
        if command.step in _MAKES and not command.script_only:
            by_step.setdefault(command.step, []).append(command)
    known = variables(variant, toolchain)
    places = places_of(known)
    extra = toolchain.families[variant.recipe.model.family].model_files
    files = {f"{places['model']}/{name}": content for name, content in extra.items()}
    available = {"model", *(_MAKES[step] for step in by_step)}
    if known["calibrated"]:  # by mmbuild itself
        available.add("checkpoint")
    return tuple(
        Task(
            step,
            tuple(by_step[step]),
            {name: places[name] for name in _READS[step] if name in available},
            _MAKES[step],
            places[_MAKES[step]],
            files if "model" in _READS[step] else {},
        )
        for step in _MAKES
        if step in by_step
    )


def places_of(known: Mapping[str, Any]) -> dict[str, str]:
    """Paths by key of :data:`PLACES`; ``known`` comes from
    :func:`~mmbuild.backends.tensorrt_llm.toolchains.template_context.variables`."""
    return {name: known[variable] for name, variable in PLACES.items()}
