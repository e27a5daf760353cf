"""Computes the ordered commands of a resolved recipe and a toolchain. Pure: runs and reads nothing.

Commands are argument lists. They run in :attr:`Command.workdir` below a checkout of TensorRT-LLM; every relative path
is relative to it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from mmbuild.backends.tensorrt_llm.toolchains.capabilities import refusals
from mmbuild.backends.tensorrt_llm.toolchains.model import (
    CommandEntry,
    Edit,
    Group,
    Mode,
    Step,
    Toolchain,
    When,
)
from mmbuild.backends.tensorrt_llm.toolchains.template import fill, holds
from mmbuild.backends.tensorrt_llm.toolchains.template_context import recipe_inference_context, variables
from mmbuild.schema.resolved import ResolvedRecipe

# A value that begins like a flag must be joined to its flag with `=`: argparse would take it for another flag.
_FLAG = "-"


@dataclass(frozen=True, slots=True)
class Command:
    """One command.

    Attributes:
        name: ``convert``, ``build_llm``, ``run``, ...; unique among a recipe's commands.
        step: Kind of work.
        comment: One line for readers.
        groups: Arguments, grouped (a flag with its value).
        workdir: Working directory below the checkout.
        environment: Environment variables, name and value.
        products: Files and directories it writes, relative to ``workdir``.
        once: If this directory exists, the command is skipped; relative to ``workdir``.
        edit: The file edit that it makes, names filled in; mmbuild applies it itself.
        script_only: Whether only scripts need it.
    """

    name: str
    step: Step
    comment: str
    groups: tuple[Group, ...]
    workdir: str
    environment: tuple[tuple[str, str], ...] = ()
    products: tuple[str, ...] = ()
    once: str | None = None
    edit: Edit | None = None
    script_only: bool = False

    @property
    def argv(self) -> tuple[str, ...]:
        """The arguments, the program first."""
        return tuple(argument for group in self.groups for argument in group)


def commands(variant: ResolvedRecipe, toolchain: Toolchain) -> tuple[Command, ...]:
    """All commands in execution order, from the download to three ways of running the engine.

    Raises:
        ToolchainError: MM603 to MM606, ``toolchain`` cannot build ``variant``; the first of
            :func:`~mmbuild.backends.tensorrt_llm.toolchains.capabilities.refusals`.
    """
    for refusal in refusals(variant, toolchain):
        raise refusal
    return tuple(_commands(variant, toolchain))


def inference_command(
    toolchain: Toolchain, known: Mapping[str, Any], requested: Mapping[str, Any]
) -> Command:
    """The command that runs a built engine.

    Args:
        toolchain: The toolchain that built it.
        known: From :func:`~mmbuild.backends.tensorrt_llm.toolchains.template_context.variables`, of the same recipe.
        requested: From :func:`~mmbuild.backends.tensorrt_llm.toolchains.template_context.inference_context`.
    """
    names = {**known, **requested}
    for item in toolchain.commands:
        if item.step == "run" and known["family"] in item.families and holds(item.when, names):
            return _command(item, requested["mode"], names, toolchain.workdir)
    raise KeyError(f"{toolchain.version} has no run command for {known['family']}")


def _commands(variant: ResolvedRecipe, toolchain: Toolchain) -> Iterator[Command]:
    known = variables(variant, toolchain)
    yield from _downloads(known, toolchain.workdir)
    algorithm, entry = variant.recipe.engine.quantization.algorithm, toolchain.families[known["family"]]
    for item in toolchain.commands:
        if known["family"] not in item.families or algorithm not in item.algorithms:
            continue
        for mode in item.modes or (None,):
            names = known if mode is None else {**known, **recipe_inference_context(variant, entry, mode)}
            if holds(item.when, names):
                yield _command(item, mode, names, toolchain.workdir)


def _downloads(known: Mapping[str, Any], workdir: str) -> Iterator[Command]:
    """Commands that fetch the model from its source; none for random weights, which no script can fetch."""
    target, url, revision = known["model_dir"], known["source_url"], known["revision"]
    if url is not None:
        clone = (("git", "clone", url, target),)
        yield Command("download", "download", "The model", clone, workdir, products=(target,), once=target)
    if revision is not None:
        pin, head = (("git", "-C", target, "checkout", "--quiet", revision),), f"{target}/.git/HEAD"
        yield Command("pin_revision", "download", "as the recipe pins it", pin, workdir, products=(head,))
    if known["source_path"] is not None:
        link = (("ln", "-sfn", known["source_path"], target),)
        yield Command("download", "download", "The model", link, workdir, products=(target,))


def _command(item: CommandEntry, mode: Mode | None, names: Mapping[str, Any], workdir: str) -> Command:
    return Command(
        name=mode or item.name,
        step=item.step,
        comment=fill(item.comment, names),
        groups=tuple(_groups(item, names)),
        workdir=workdir,
        environment=tuple((name, fill(text, names)) for name, text in item.environment.items()),
        products=tuple(_products(item, names)),
        once=item.once and fill(item.once, names),
        edit=item.edit and item.edit.model_copy(update={"file": fill(item.edit.file, names)}),
        script_only=item.script_only,
    )


def _groups(item: CommandEntry, names: Mapping[str, Any]) -> Iterator[Group]:
    for part in item.argv:
        if isinstance(part, When):
            groups: tuple[Group, ...] = part.add if holds(part.when, names) else ()
        else:
            groups = (part,)
        for group in groups:
            yield _joined(tuple(fill(text, names) for text in group))


def _joined(group: Group) -> Group:
    if len(group) == 2 and group[0].startswith(_FLAG) and group[1].startswith(_FLAG):
        return (f"{group[0]}={group[1]}",)
    return group


def _products(item: CommandEntry, names: Mapping[str, Any]) -> Iterator[str]:
    ranks = range(names["tensor_parallel"])
    for text in item.products:
        # Paths without `rank` are the same for all ranks and listed once.
        yield from dict.fromkeys(fill(text, {**names, "rank": rank}) for rank in ranks)
